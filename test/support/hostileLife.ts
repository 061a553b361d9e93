/**
 * A long life in short: the same many times over, and what is left of it each time.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { EventEmitter } from "node:events"
import { setImmediate as turn } from "node:timers/promises"
import type * as Database from "../../src/Database.js"
import { make as makeError } from "../../src/internal/makeError.js"

/** As many as there are connections. */
export const poolSize = 4

type Work = Effect.Effect<unknown, unknown>

type Run = (database: Database.Service, i: number) => Work

class Own extends Data.TaggedError("Own")<{ readonly i: number }> {}

const slow = ({ sql }: Database.Service): Work =>
  sql.onDialectOrElse({
    pg: (): Work => sql`SELECT pg_sleep(1)`,
    orElse: (): Work => Effect.sleep("1 second")
  })

const listens = (database: Database.Service, i: number): Work =>
  Option.match(Context.getOption(database.context as Context.Context<PgClient.PgClient>, PgClient.PgClient), {
    onNone: () => Effect.void,
    onSome: (pg) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(Stream.runHead(pg.listen(`channel ${i % 50}`)))
        yield* Effect.sleep("3 millis")
        yield* pg.notify(`channel ${i % 50}`, "x")
        yield* Fiber.interrupt(fiber)
      })
  })

const code = (i: number): string => `Z${(i % 46_656).toString(36).toUpperCase().padStart(4, "0")}`

/** What is done, by name. What it fails with is part of it. */
const each = {
  committed: ({ session, sql }, i) => session(sql`UPDATE life SET n = n + 1 WHERE id = ${i % 4}`),
  failed: ({ session, sql }, i) =>
    session(
      Effect.zipRight(
        sql`SELECT ${i}`,
        Effect.suspend((): Work =>
          i % 2 === 0 ? sql`INSERT INTO life (id) VALUES (0)` : i % 3 === 0 ? Effect.die(i) : new Own({ i })
        )
      ),
      { name: `failed ${i}` }
    ),
  nested: ({ session, sql }, i) =>
    session(Effect.all([
      session(sql`SELECT ${i}`),
      Effect.ignore(session(Effect.zipRight(sql`SELECT 1`, new Own({ i })))),
      session(session(sql`SELECT 2`))
    ], { concurrency: "unbounded" })),
  streamed: ({ session, sql }, i) => {
    const rows =
      sql`WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100) SELECT n FROM s`.stream
    const some = Stream.runDrain(i % 2 === 0 ? rows : Stream.take(rows, 40))
    return i % 3 === 0 ? session(some) : some
  },
  together: ({ session, sql }, i) => {
    const rows =
      sql`WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 300) SELECT n FROM s`.stream
    return session(Effect.all([
      Stream.runDrain(rows),
      Stream.runDrain(Stream.take(rows, 1 + i % 250)),
      Stream.runForEachChunk(rows, () => Effect.sleep(1)),
      sql`SELECT ${i}`
    ], { concurrency: "unbounded" }))
  },
  raced: (database, i) =>
    database.session(Effect.zipRight(
      Effect.timeoutOption(i % 2 === 0 ? slow(database) : database.session(slow(database)), i % 4),
      database.sql`SELECT ${i}`
    )),
  interrupted: (database, i) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.fork(database.session(slow(database)))
      yield* Effect.sleep(i % 5)
      yield* Fiber.interrupt(fiber)
    }),
  timedOut: (database, i) => database.session(slow(database), { timeout: 1 + i % 4 }),
  retried: ({ dialect, session, sql }, i) =>
    Effect.suspend(() => {
      let attempts = 0
      return session(
        Effect.zipRight(
          sql`SELECT ${i}`,
          Effect.suspend(() =>
            attempts++ < 2
              ? Effect.fail(
                makeError("SerializationFailure", { dialect, code: "40001", reason: `attempt ${attempts}` })
              )
              : Effect.void
          )
        ),
        { retry: Schedule.recurs(3) }
      )
    }),
  acquired: ({ acquireSession, sql }, i) =>
    Effect.scoped(Effect.flatMap(
      acquireSession({ timeout: "10 seconds" }),
      (handle) => Effect.zipRight(handle.run(sql`SELECT ${i}`), i % 2 === 0 ? handle.commit : Effect.void)
    )),
  health: ({ health, report }, i) => i % 2 === 0 ? health : report,
  listened: listens,
  texts: ({ sql }, i) => sql.unsafe(`SELECT ${i} AS "column ${i}" -- ${"x".repeat(i % 3_000)}`),
  names: ({ session, sql }, i) => session(sql`SELECT 1`, { name: `name ${i}`, statementTimeout: 1_000 + i }),
  codes: ({ sql }, i) =>
    sql.onDialectOrElse({
      pg: () => sql.unsafe(`DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '${code(i)}'; END $$`),
      orElse: () => sql.unsafe(`SELECT nothing${i}`)
    })
} satisfies Record<string, Run>

/** Those that run by themselves, and longer. */
const alone: ReadonlySet<string> = new Set(["committed", "failed", "codes"])

const mixture: ReadonlyArray<Run> = Object.entries<Run>(each).filter(([name]) => !alone.has(name)).map(([, run]) => run)

export const scenarios: Readonly<Record<string, Run>> = {
  ...each,
  /** A little of everything. */
  mixed: (database, i) => mixture[i % mixture.length](database, Math.floor(i / mixture.length))
}

/** What there is at one moment. */
export interface Sample {
  readonly done: number
  /** After everything was collected that can be. */
  readonly heap: number
  /** Sockets, timers and whatever else keeps a process alive, by kind. */
  readonly resources: Readonly<Record<string, number>>
  /** On everything that is open, and on the process. */
  readonly listeners: number
  /** Different metrics, by their labels. */
  readonly metrics: number
  /** The size of what the database remembers of what it did. */
  readonly activity: number
  /** Of all the connections together, where there is a server: connections, statements, portals, bytes. */
  readonly server: Readonly<Record<string, number>>
}

const collect = Effect.promise(async () => {
  for (let i = 0; i < 4; i++) {
    await turn()
    globalThis.gc!()
  }
})

const listenersOf = (emitter: EventEmitter): number =>
  emitter.eventNames().reduce((sum, name) => sum + emitter.listenerCount(name), 0)

const openHandles = (): ReadonlyArray<EventEmitter> =>
  (process as unknown as { readonly _getActiveHandles: () => ReadonlyArray<EventEmitter> })._getActiveHandles()
    .filter((handle) => typeof handle.eventNames === "function")

const counted = (names: ReadonlyArray<string>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const name of names) {
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

/** Every connection is asked at the same time, so that none is asked twice. */
const ofServer = ({ session, sql }: Database.Service) =>
  sql.onDialectOrElse({
    pg: () =>
      Effect.map(
        Effect.all(
          Array.from({ length: poolSize }, () =>
            session(sql<Readonly<Record<string, number>>>`
              SELECT (SELECT count(*)::int FROM pg_prepared_statements) AS statements,
                     (SELECT count(*)::int FROM pg_cursors WHERE name <> '') AS portals,
                     (SELECT sum(total_bytes)::int FROM pg_backend_memory_contexts) AS bytes,
                     (SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()) AS connections,
                     pg_sleep(0.1)::text`)),
          { concurrency: "unbounded" }
        ),
        (all) => {
          const sum = (name: string) => all.reduce((total, [row]) => total + row[name], 0)
          return {
            statements: sum("statements"),
            portals: sum("portals"),
            bytes: sum("bytes"),
            connections: all[0][0].connections
          }
        }
      ),
    orElse: () => Effect.succeed<Readonly<Record<string, number>>>({})
  })

const sample = (database: Database.Service, done: number): Effect.Effect<Sample, unknown> =>
  Effect.gen(function*() {
    const server = yield* ofServer(database)
    // What ends in its own time, such as a cancel request's socket, has ended.
    yield* Effect.sleep("300 millis")
    yield* collect
    return {
      done,
      heap: process.memoryUsage().heapUsed,
      resources: counted(process.getActiveResourcesInfo()),
      listeners: openHandles().reduce((sum, handle) => sum + listenersOf(handle), listenersOf(process)),
      metrics: (yield* Metric.snapshot).length,
      activity: JSON.stringify(yield* database.activity).length,
      server
    }
  })

const samples = 5

export interface Report {
  readonly name: string
  readonly times: number
  readonly seconds: number
  readonly samples: ReadonlyArray<Sample>
}

/** Runs it so many times, after a third as many to warm up. */
export const live = (
  database: Database.Service,
  name: string,
  run: Run,
  times: number
): Effect.Effect<Report, unknown> =>
  Effect.gen(function*() {
    const started = performance.now()
    const taken: Array<Sample> = []
    const piece = Math.ceil(times / (samples - 1))
    let i = 0
    const some = (count: number) =>
      Effect.forEach(Array.from({ length: count }), () => Effect.exit(Effect.suspend(() => run(database, i++))), {
        concurrency: poolSize,
        discard: true
      })
    yield* some(Math.ceil(times / 3))
    for (let part = 0; part < samples; part++) {
      taken.push(yield* sample(database, part * piece))
      if (part < samples - 1) {
        yield* some(piece)
      }
    }
    return { name, times, seconds: Math.round((performance.now() - started) / 100) / 10, samples: taken }
  })

/** What something grows by, per time: the median between all samples, for which a step that is taken once is nothing. */
export const slope = (samples: ReadonlyArray<Sample>, of: (sample: Sample) => number): number => {
  const slopes = samples.flatMap((one, i) =>
    samples.slice(i + 1).map((other) => (of(other) - of(one)) / (other.done - one.done))
  ).toSorted((one, other) => one - other)
  return slopes[Math.floor(slopes.length / 2)]
}

/**
 * Noise: what may come in all, since code is compiled anew and the figures of the last minute fill, and what each time may
 * cost in the long run.
 */
const noise = 2_000_000
const growth = 16

/** What has grown. */
export const problems = ({ name, samples, times }: Report): ReadonlyArray<string> => {
  const found: Array<string> = []
  const bytes = slope(samples, ({ heap }) => heap)
  if (bytes > Math.max(growth, noise / times)) {
    found.push(`${name}: the heap grows by ${Math.round(bytes)} bytes each time`)
  }
  const first = samples[0]
  const last = samples[samples.length - 1]
  const middle = samples[Math.floor(samples.length / 2)]
  // Some more may be a connection that was just replaced; what leaks grows on and on.
  const grew = (what: string, of: (sample: Sample) => number, tolerance: number): void => {
    if (of(last) > of(first) + tolerance && of(last) > of(middle) + tolerance / 2) {
      found.push(`${name}: ${what} grew from ${of(first)} over ${of(middle)} to ${of(last)}`)
    }
  }
  for (const kind of Object.keys(last.resources)) {
    grew(kind, ({ resources }) => resources[kind] ?? 0, 2)
  }
  grew("listeners", ({ listeners }) => listeners, 20)
  grew("metrics", ({ metrics }) => metrics, 5)
  grew("activity", ({ activity }) => activity, 20_000)
  for (const what of Object.keys(last.server)) {
    grew(`the server's ${what}`, ({ server }) => server[what] ?? 0, what === "bytes" ? 1_000_000 : 1)
  }
  return found
}

const kept: Array<unknown> = []

/** Loses something each time, to see that it is seen. */
export const leak: Run = ({ sql }, i) =>
  Effect.zipRight(
    sql`SELECT ${i}`,
    Effect.sync(() => {
      kept.push({ i, text: Buffer.alloc(2_000, "x").toString(), more: [i, i, i] })
      process.on("warning", () => kept.length)
      setTimeout(() => kept.push(i), 100_000).unref()
    })
  )
