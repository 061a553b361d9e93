/**
 * Interrupts programs at each of their points in turn, and checks the database and the pool afterwards.
 */
import BetterSqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import { setTimeout as sleep } from "node:timers/promises"
import * as Pg from "pg"
import * as Database from "../../src/Database.js"
import type * as DatabaseConfig from "../../src/DatabaseConfig.js"
import { fromSqlError, isDatabaseError } from "../../src/DatabaseError.js"
import type { Dialect } from "./dialects.js"
import { Interruptor, type Mode, modes } from "./interruptor.js"
import { type Random, random } from "./random.js"

/** The options of the database under test. */
export interface Target extends DatabaseConfig.Options {
  readonly url: string
}

/** The database that a program uses. */
export interface Environment {
  readonly db: Database.Service
  /** The URL of the database itself, without a proxy. */
  readonly url: string
  /** Inserts the row (run, part). */
  readonly write: (run: number, part: number) => Effect.Effect<unknown, any>
}

/** The state of the database after a run. */
interface Observation {
  /** The parts that the run has written. */
  readonly parts: ReadonlyArray<number>
  /** The number of connections to the database, or undefined if it cannot be observed. */
  readonly connections: number | undefined
  /** The number of connections in a transaction or running a statement. */
  readonly busy: number
}

/** How a run ended. */
export interface Outcome {
  /** The exit of the fiber under test. */
  readonly exit: Exit.Exit<unknown, unknown>
  /** Whether the afterCommit hook ran; undefined if none was registered. */
  readonly committed?: boolean | undefined
  /** Whether the afterRollback hook ran; undefined if none was registered. */
  readonly rolledBack?: boolean | undefined
}

export interface Program {
  readonly name: string
  readonly options?: Omit<DatabaseConfig.Options, "url"> | undefined
  readonly only?: Dialect["dialect"] | undefined
  /** Opens the database once more, so it needs a database that several clients can open. */
  readonly reopens?: boolean | undefined
  /** Opens the database that the program uses, in place of `Database.make`. */
  readonly open?: ((options: Target) => Effect.Effect<Database.Service, any, Scope.Scope>) | undefined
  /** Other connections do not see what the program writes. */
  readonly isolated?: boolean | undefined
  /** The parts that a complete run writes. */
  readonly parts: ReadonlyArray<number>
  /** The sets of parts allowed after an interruption besides a complete run. Default: only the empty set. */
  readonly allowedParts?: ReadonlyArray<ReadonlyArray<number>> | undefined
  /** The tags of the errors that it may fail with. */
  readonly expectedErrors?: ReadonlyArray<string> | undefined
  readonly run: (
    environment: Environment,
    run: number,
    victim: Interruptor["victim"]
  ) => Effect.Effect<Outcome, any, Scope.Scope>
}

/** Whether a program can be run on a dialect. */
export const applicable = (program: Program, dialect: Dialect): boolean =>
  (program.only === undefined || program.only === dialect.dialect) &&
  (program.reopens !== true || dialect.name !== "sqlite :memory:")

/** How many points are tried. */
export interface Sampling {
  readonly seed: number
  /** The maximum number of points per program and mode, chosen at random; Infinity tries all of them. */
  readonly points: number
}

/** The number of runs, and the problems found. */
export interface Result {
  readonly runs: number
  /** The number of runs that were interrupted. */
  readonly interrupted: number
  /** The number of interrupted runs that had committed nevertheless. */
  readonly committed: number
  readonly problems: ReadonlyArray<string>
}

const observeText =
  `SELECT ARRAY(SELECT part FROM items WHERE run = $1 ORDER BY part) AS parts, count(*)::int AS connections,
    count(*) FILTER (WHERE state <> 'idle' OR xact_start IS NOT NULL)::int AS busy
  FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`

const observePostgres = (url: string): Effect.Effect<(run: number) => Effect.Effect<Observation>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const client = new Pg.Client({ connectionString: url })
        client.on("error", () => {})
        await client.connect()
        return client
      }),
      (client) => Effect.promise(() => client.end())
    ),
    (client) => (run) => Effect.promise(async () => (await client.query(observeText, [run])).rows[0])
  )

/** Detects a transaction left open on the file: another connection cannot begin to write. */
const observeFile = (path: string): Effect.Effect<(run: number) => Effect.Effect<Observation>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => new BetterSqlite(path, { timeout: 0 })),
      (file) => Effect.sync(() => file.close())
    ),
    (file) => (run) =>
      Effect.sync(() => {
        const parts = file.prepare("SELECT part FROM items WHERE run = ? ORDER BY part").pluck().all(run)
        let busy = 0
        try {
          file.exec("BEGIN IMMEDIATE")
          file.exec("ROLLBACK")
        } catch {
          busy = 1
        }
        return { parts: parts as Array<number>, connections: undefined, busy }
      })
  )

const observeThroughPool = (db: Database.Service) => (run: number): Effect.Effect<Observation> =>
  Effect.map(
    Effect.orDie(db.sql<{ readonly part: number }>`SELECT part FROM items WHERE run = ${run} ORDER BY part`),
    (rows) => ({ parts: rows.map(({ part }) => part), connections: undefined, busy: 0 })
  )

const tables = (db: Database.Service) =>
  Effect.all([
    db.sql`CREATE TABLE items (run INTEGER NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (run, part))`,
    db.sql`CREATE TABLE parents (id INTEGER PRIMARY KEY)`,
    db.sql`CREATE TABLE children (parent INTEGER NOT NULL REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)`,
    db.sql`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`,
    db.sql`INSERT INTO numbers ${db.sql.insert(Array.from({ length: 100 }, (_, n) => ({ n })))}`
  ], { discard: true })

const same = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): boolean => one.join() === other.join()

const wait = (millis: number): Effect.Effect<void> => Effect.promise(() => sleep(millis))

/** Repeats a check until it finds no problems, and returns those of the last check at the timeout (milliseconds). */
const checkUntilClean = (
  check: Effect.Effect<ReadonlyArray<string>>,
  timeout = 15_000
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function*() {
    const deadline = performance.now() + timeout
    for (;;) {
      const problems = yield* check
      if (problems.length === 0 || performance.now() > deadline) {
        return problems
      }
      yield* wait(2)
    }
  })

const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) {
    return "success"
  }
  if (exit.cause._tag !== "Fail") {
    return Exit.isInterrupted(exit) ? "interrupted" : String(exit)
  }
  const { error } = exit.cause
  return isDatabaseError(error)
    ? error._tag
    : (error as { readonly _tag?: string })._tag === "SqlError"
    ? fromSqlError(error as never)._tag
    : String(error)
}

/** How long a cancellation or a rollback may take after an interruption before the driver closes the connection. */
const maxCancellation = 500

/** Whether a run lost its connection because the machine was too busy to cancel or roll back in time. */
const isLostToDelay = (exit: Exit.Exit<unknown, unknown>, millis: number): boolean =>
  millis >= maxCancellation && tagOf(exit) === "ConnectionLost" && String(exit).includes("08003")

/** The contradictions between the rows, the hooks and the exit of a run that took this long. */
const contradictions = (
  program: Program,
  { committed, exit, rolledBack }: Outcome,
  parts: ReadonlyArray<number>,
  millis: number
) => {
  const problems: Array<string> = []
  const result = tagOf(exit)
  const whole = same(parts, program.parts)
  const allowed = program.allowedParts ?? [[]]
  if (
    result !== "success" && result !== "interrupted" && program.expectedErrors?.includes(result) !== true &&
    !isLostToDelay(exit, millis)
  ) {
    problems.push(`it ended with ${result}`)
  }
  if (result === "success" && !whole) {
    problems.push(`it succeeded, but left ${parts.join() || "nothing"}`)
  }
  if (!whole && !allowed.some((set) => same(set, parts))) {
    problems.push(`only a part is there: ${parts.join()}`)
  }
  if (committed === true && !whole) {
    problems.push(`afterCommit ran, but the run left ${parts.join() || "nothing"}`)
  }
  // No hook runs if an interruption leaves the outcome of the commit unknown.
  if (committed === false && whole && result !== "interrupted") {
    problems.push(`it committed, but afterCommit did not run (${result})`)
  }
  if (committed === false && whole && program.expectedErrors?.includes("CommitOutcomeUnknown") !== true) {
    problems.push("it committed, but afterCommit did not run")
  }
  if (rolledBack === true && whole) {
    problems.push("afterRollback ran, but it committed")
  }
  return problems
}

/** A point beyond those of any program: the run is not interrupted. */
const never = Number.MAX_SAFE_INTEGER

/** All of the points, or a random one from each of `points` equal ranges. */
const choosePoints = (count: number, points: number, chance: Random): ReadonlyArray<number> => {
  const size = Math.min(points, count)
  return Array.from(
    { length: size },
    (_, i) => 1 + Math.floor((count * (size === count ? i : i + chance.next())) / size)
  )
}

/** Interrupts a program at its points, on a database of its own. */
export const everywhere = (
  dialect: Dialect,
  program: Program,
  sampling: Sampling
): Effect.Effect<Result, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const url = yield* dialect.url
    const options: Target = {
      environment: "test",
      poolSize: 1,
      poolMaxOverflow: 0,
      ...program.options,
      url
    }
    const db = yield* (program.open ?? Database.make)(options)
    yield* tables(db)
    const observe = program.isolated === true
      ? observeThroughPool(db)
      : dialect.dialect === "postgres"
      ? yield* observePostgres(url)
      : url.startsWith("sqlite:///")
      ? yield* observeFile(url.slice("sqlite:///".length))
      : observeThroughPool(db)
    const environment: Environment = {
      db,
      url,
      write: (run, part) => db.sql`INSERT INTO items (run, part) VALUES (${run}, ${part})`
    }

    const chance = random(sampling.seed).branch(`${dialect.name} ${program.name}`)
    let run = 0
    let interrupted = 0
    let committed = 0
    let hung = false
    const problems: Array<string> = []
    const once = (mode: Mode, at: number) =>
      Effect.gen(function*() {
        const n = ++run
        const interruptor = new Interruptor(mode, at)
        const addProblems = (found: ReadonlyArray<string>) =>
          problems.push(
            ...found.map((problem) =>
              `${dialect.name}: ${program.name}, ${mode} ${
                at === never ? "never" : at
              } (seed ${sampling.seed}): ${problem}`
            )
          )
        const startedAt = performance.now()
        const exit = yield* Effect.scoped(program.run(environment, n, interruptor.victim)).pipe(
          Effect.exit,
          Effect.disconnect,
          Effect.timeoutOption("1 minute")
        )
        if (exit._tag === "None") {
          addProblems(["it hangs"])
          hung = true
          return interruptor
        }
        if (Exit.isFailure(exit.value)) {
          addProblems([`the program failed outside the fiber under test: ${String(exit.value.cause)}`])
          return interruptor
        }
        const outcome = exit.value.value
        const millis = performance.now() - startedAt
        const { waiting } = yield* db.poolStats
        const { sessions } = yield* db.activity
        if (waiting + sessions.length > 0) {
          addProblems([`${waiting} requests wait for a connection, ${sessions.length} sessions are open`])
        }
        // On the same connection, if it is still open: a late cancel request must not cancel the next statement.
        const next = yield* Effect.exit(
          dialect.dialect === "postgres" ? db.sql`SELECT pg_sleep(0.001)` : db.sql`SELECT count(*) FROM numbers`
        )
        if (Exit.isFailure(next)) {
          addProblems([`the next statement failed: ${String(next.cause)}`])
        }
        addProblems(
          yield* checkUntilClean(Effect.gen(function*() {
            const { busy, connections, parts } = yield* observe(n)
            const { idle, used } = yield* db.poolStats
            const found = contradictions(program, outcome, parts, millis)
            if (busy > 0) {
              found.push(`${busy} connections are in a transaction`)
            }
            // A connection stays in use until it is reset.
            if (used > 0) {
              found.push(`${used} connections are in use`)
            }
            if (connections !== undefined && connections !== idle + used) {
              found.push(`the server has ${connections} connections, the pool ${idle + used}`)
            }
            return found
          }))
        )
        if (interruptor.hit) {
          interrupted++
          committed += same((yield* observe(n)).parts, program.parts) ? 1 : 0
        }
        return interruptor
      })

    for (const mode of modes) {
      // The first run takes more steps, because it creates what later runs reuse: count the points of the second.
      yield* once(mode, never)
      const { points } = yield* once(mode, never)
      for (const at of choosePoints(points, sampling.points, chance.branch(mode))) {
        if (hung || problems.length >= 5) {
          return { runs: run, interrupted, committed, problems }
        }
        yield* once(mode, at)
      }
    }
    return { runs: run, interrupted, committed, problems }
  }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
