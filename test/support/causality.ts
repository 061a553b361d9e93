/**
 * Writers and readers on a cluster whose standbys lag now and then: no read may miss what came before it.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { setTimeout as sleep } from "node:timers/promises"
import * as Database from "../../src/Database.js"
import { query } from "./client.js"
import type { Cluster } from "./cluster.js"
import type { Random } from "./random.js"

export interface Options {
  /** How many reads there are, together. */
  readonly reads: number
  readonly workers: number
  readonly chance: Random
}

export interface Outcome {
  readonly reads: number
  /** How many of them ran on a standby. */
  readonly onStandbys: number
  /** Reads of a session with a token on another instance that missed its write. */
  readonly staleWithToken: number
  /** Reads that missed what another user of the same process had written. */
  readonly staleInProcess: number
}

const table = "causality"

export const run = (rig: Cluster, { chance, reads, workers }: Options): Effect.Effect<Outcome> =>
  Effect.scoped(Effect.gen(function*() {
    const { url } = rig.primary()
    yield* query(url, `DROP TABLE IF EXISTS ${table}; CREATE TABLE ${table} (id int PRIMARY KEY, n int NOT NULL)`)
    yield* query(url, `INSERT INTO ${table} SELECT id, 0 FROM generate_series(1, ${workers}) id`)
    const hosts = rig.standbys().map(({ port }) => `127.0.0.1:${port}`).join(",")
    const open = Database.make({ url, readerUrl: url.replace(/@[^/]+/, `@${hosts}`), readerWait: "20 millis" })
    const [one, other] = yield* Effect.all([open, open])
    /** What is known to be committed, by the writer's number. */
    const committed = new Map<number, number>()
    const outcome = { reads: 0, onStandbys: 0, staleWithToken: 0, staleInProcess: 0 }

    const read = (database: Database.Service, id: number) => {
      const isolation = chance.chance(0.5) ? "read committed" as const : "repeatable read" as const
      return database.session(
        database.sql<{ readonly n: number; readonly standby: boolean }>`
          SELECT n, pg_is_in_recovery() AS standby FROM causality WHERE id = ${id}
        `,
        { readOnly: true, isolation }
      ).pipe(Effect.map(([{ n, standby }]) => {
        outcome.reads++
        outcome.onStandbys += standby ? 1 : 0
        return n
      }))
    }

    const write = (database: Database.Service, id: number, n: number) => {
      const update = Effect.asVoid(database.sql`UPDATE causality SET n = ${n} WHERE id = ${id}`)
      return chance.chance(0.5) ? Effect.orDie(database.session(update)) : Effect.orDie(update)
    }

    const worker = (id: number) =>
      Effect.gen(function*() {
        for (let n = 1; outcome.reads < reads; n++) {
          if (chance.chance(0.5)) {
            yield* write(one, id, n)
            committed.set(id, n)
            const reader = 1 + chance.below(workers)
            const expected = committed.get(reader) ?? 0
            outcome.staleInProcess += (yield* read(one, reader)) < expected ? 1 : 0
            outcome.staleInProcess += (yield* read(one, id)) < n ? 1 : 0
          } else {
            const token = yield* Database.causal(Effect.zipRight(write(one, id, n), one.token))
            committed.set(id, n)
            outcome.staleWithToken += (yield* Database.causal(other.after(token)(read(other, id)))) < n ? 1 : 0
          }
        }
      })

    const lagging = Effect.forever(Effect.gen(function*() {
      const all = rig.standbys()
      const paused = chance.chance(0.3) ? all : [chance.pick(all)]
      yield* Effect.forEach(paused, rig.pauseReplay)
      yield* Effect.promise(() => sleep(chance.below(60)))
      yield* Effect.forEach(paused, rig.resumeReplay)
      yield* Effect.promise(() => sleep(chance.below(60)))
    }))
    const lag = yield* Effect.fork(lagging)
    yield* Effect.all(Array.from({ length: workers }, (_, i) => worker(i + 1)), {
      concurrency: "unbounded",
      discard: true
    })
    yield* Fiber.interrupt(lag)
    yield* Effect.forEach(rig.standbys(), rig.resumeReplay)
    return outcome
  })).pipe(Effect.orDie)
