/**
 * Sessions whose connections are closed at any byte of COMMIT, of its answer, and of what is asked afterwards. Each must have
 * been done exactly once if it is said to have succeeded, and not at all if it is said to have failed.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import { databaseErrorOf } from "../../src/internal/telemetry/errorType.js"
import * as Migrations from "../../src/Migrations.js"
import type * as Session from "../../src/Session.js"
import { query } from "./client.js"
import { type Decision, proxy, type ProxyConnection } from "./proxy.js"
import { random } from "./random.js"

export interface Result {
  /** What was done another number of times than it was said; empty if nothing was. */
  readonly problems: ReadonlyArray<string>
  /** How many connections were closed. */
  readonly faults: number
  readonly succeeded: number
  readonly unknown: number
}

const concurrency = 6

/** Runs this many sessions on the server of a URL. The seed decides what is closed when. */
export const run = (
  url: string,
  { commit, seed, times }: {
    readonly commit: Session.Options["commit"]
    readonly seed: number
    readonly times: number
  }
): Effect.Effect<Result, never, Scope.Scope> =>
  Effect.gen(function*() {
    const chance = random(seed)
    const network = yield* proxy(url)
    const db = yield* Effect.orDie(Database.make({
      environment: "test",
      url: network.url,
      poolSize: concurrency,
      poolMaxOverflow: 0
    }))
    yield* query(url, "CREATE TABLE done (n integer)")
    yield* Effect.orDie(Effect.provide(Migrations.commitRecords, db.context))
    let faults = 0
    /** Connections in place of whose next answer, or in the middle of it, they are closed. */
    const answering = new Set<ProxyConnection>()
    const closed = (chunk: Buffer): Decision => {
      faults++
      return {
        forward: chunk.subarray(0, chance.between(0, chunk.length)),
        then: chance.pick(["cut", "reset"] as const)
      }
    }
    yield* network.onClientData((chunk, connection) => {
      if (!chunk.includes("COMMIT") || chance.chance(0.5)) {
        return "pass"
      }
      if (chance.chance(0.4)) {
        return closed(chunk)
      }
      answering.add(connection)
      return "pass"
    })
    yield* network.onServerData((chunk, connection) => answering.delete(connection) ? closed(chunk) : "pass")
    const again = Schedule.intersect(Schedule.spaced("5 millis"), Schedule.recurs(50))
    const said = yield* Effect.forEach(
      Array.from({ length: times }, (_, n) => n),
      (n) => Effect.exit(db.session(db.sql`INSERT INTO done VALUES (${n})`, { commit, retry: again })),
      { concurrency }
    )
    yield* network.onClientData(undefined)
    yield* network.onServerData(undefined)
    const rows = yield* query(url, "SELECT n, count(*)::int FROM done GROUP BY n")
    const done = new Map(rows.map(({ count, n }) => [n as number, count as number]))
    const tags = said.map((exit) => Exit.isSuccess(exit) ? "success" : databaseErrorOf(exit)?._tag ?? "no error")
    return {
      problems: tags.flatMap((tag, n) => {
        const count = done.get(n) ?? 0
        const isRight = tag === "success" ? count === 1 : tag === "CommitOutcomeUnknown" ? count <= 1 : count === 0
        return isRight ? [] : [`${n} was said to be ${tag}, and was done ${count} times`]
      }),
      faults,
      succeeded: tags.filter((tag) => tag === "success").length,
      unknown: tags.filter((tag) => tag === "CommitOutcomeUnknown").length
    }
  })
