/**
 * Interrupts programs at each of their points in turn, and looks at what is left.
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

/** Which database. */
export interface Place extends DatabaseConfig.Options {
  readonly url: string
}

/** What a program works with. */
export interface World {
  readonly db: Database.Service
  /** Where its database is, without whatever stands in between. */
  readonly url: string
  /** Writes a row of a run. */
  readonly write: (run: number, part: number) => Effect.Effect<unknown, any>
}

/** What the database says of a run. */
interface Seen {
  readonly parts: ReadonlyArray<number>
  /** Connections to the database; undefined where it does not say. */
  readonly connections: number | undefined
  /** How many of them are in a transaction or run a statement. */
  readonly busy: number
}

/** How a run may end. */
export interface Ending {
  /** Of the fiber that was interrupted, or was not. */
  readonly exit: Exit.Exit<unknown, unknown>
  /** Whether what was to run after the commit, or after the rollback, has run; undefined where nothing was to. */
  readonly committed?: boolean | undefined
  readonly undone?: boolean | undefined
}

export interface Program {
  readonly name: string
  readonly options?: Omit<DatabaseConfig.Options, "url"> | undefined
  readonly only?: Dialect["dialect"] | undefined
  /** It opens the database itself, so there must be one that several can open. */
  readonly reopens?: boolean | undefined
  /** Opens the database that the program works with, with something in between. */
  readonly open?: ((options: Place) => Effect.Effect<Database.Service, any, Scope.Scope>) | undefined
  /** What it writes is seen by nobody else. */
  readonly secret?: boolean | undefined
  /** The parts that a run writes, all of them. */
  readonly parts: ReadonlyArray<number>
  /** What may be there instead after an interruption; by default nothing. */
  readonly partly?: ReadonlyArray<ReadonlyArray<number>> | undefined
  /** What it may fail with when nothing interrupts it. */
  readonly fails?: ReadonlyArray<string> | undefined
  readonly run: (
    world: World,
    run: number,
    victim: Interruptor["victim"]
  ) => Effect.Effect<Ending, any, Scope.Scope>
}

/** Whether a program can be run on a dialect. */
export const applicable = (program: Program, dialect: Dialect): boolean =>
  (program.only === undefined || program.only === dialect.dialect) &&
  (program.reopens !== true || dialect.name !== "sqlite :memory:")

/** How much is tried. */
export interface Effort {
  readonly seed: number
  /** At most so many points of a program in each mode, chosen by chance; Infinity is all of them. */
  readonly points: number
}

/** What was tried, and what went wrong. */
export interface Result {
  readonly runs: number
  /** How many of them were interrupted. */
  readonly interrupted: number
  /** Of those that were: how many had been committed all the same. */
  readonly kept: number
  readonly problems: ReadonlyArray<string>
}

const lookText =
  `SELECT ARRAY(SELECT part FROM items WHERE run = $1 ORDER BY part) AS parts, count(*)::int AS connections,
    count(*) FILTER (WHERE state <> 'idle' OR xact_start IS NOT NULL)::int AS busy
  FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`

const postgresEyes = (url: string): Effect.Effect<(run: number) => Effect.Effect<Seen>, never, Scope.Scope> =>
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
    (client) => (run) => Effect.promise(async () => (await client.query(lookText, [run])).rows[0])
  )

/** A transaction that was left open on the file keeps others from writing. */
const fileEyes = (path: string): Effect.Effect<(run: number) => Effect.Effect<Seen>, never, Scope.Scope> =>
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

const ownEyes = (db: Database.Service) => (run: number): Effect.Effect<Seen> =>
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

/** Looks until there are no problems, and returns those that are left at the timeout (milliseconds). */
const persistent = (
  look: Effect.Effect<ReadonlyArray<string>>,
  timeout = 15_000
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function*() {
    const deadline = performance.now() + timeout
    for (;;) {
      const problems = yield* look
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

/** Whether rows, hooks and exit tell the same story. */
const contradictions = (program: Program, { committed, exit, undone }: Ending, parts: ReadonlyArray<number>) => {
  const problems: Array<string> = []
  const told = tagOf(exit)
  const whole = same(parts, program.parts)
  const allowed = program.partly ?? [[]]
  if (told !== "success" && told !== "interrupted" && program.fails?.includes(told) !== true) {
    problems.push(`it ended with ${told}`)
  }
  if (told === "success" && !whole) {
    problems.push(`it succeeded, and left ${parts.join() || "nothing"}`)
  }
  if (!whole && !allowed.some((some) => same(some, parts))) {
    problems.push(`half of it is there: ${parts.join()}`)
  }
  if (committed === true && !whole) {
    problems.push(`it was told that it had committed, and left ${parts.join() || "nothing"}`)
  }
  // After a commit whose fate nobody could wait for, nothing is told.
  if (committed === false && whole && told !== "interrupted") {
    problems.push(`it was committed, and not told so (${told})`)
  }
  if (committed === false && whole && program.fails?.includes("CommitOutcomeUnknown") !== true) {
    problems.push("it was committed, and what was to run then was not run")
  }
  if (undone === true && whole) {
    problems.push("it was told that it was rolled back, and it was committed")
  }
  return problems
}

/** Not interrupted at all: more points than any program has. */
const never = Number.MAX_SAFE_INTEGER

/** All of the points, or some of them: one of each part of the way. */
const choose = (count: number, points: number, chance: Random): ReadonlyArray<number> => {
  const tried = Math.min(points, count)
  return Array.from(
    { length: tried },
    (_, i) => 1 + Math.floor((count * (tried === count ? i : i + chance.next())) / tried)
  )
}

/** Interrupts a program everywhere, on a database of its own. */
export const everywhere = (
  dialect: Dialect,
  program: Program,
  effort: Effort
): Effect.Effect<Result, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const url = yield* dialect.url
    const options: Place = {
      environment: "test",
      poolSize: 1,
      poolMaxOverflow: 0,
      ...program.options,
      url
    }
    const db = yield* (program.open ?? Database.make)(options)
    yield* tables(db)
    const look = program.secret === true
      ? ownEyes(db)
      : dialect.dialect === "postgres"
      ? yield* postgresEyes(url)
      : url.startsWith("sqlite:///")
      ? yield* fileEyes(url.slice("sqlite:///".length))
      : ownEyes(db)
    const world: World = {
      db,
      url,
      write: (run, part) => db.sql`INSERT INTO items (run, part) VALUES (${run}, ${part})`
    }

    const chance = random(effort.seed).branch(`${dialect.name} ${program.name}`)
    let run = 0
    let interrupted = 0
    let kept = 0
    let hangs = false
    const problems: Array<string> = []
    const once = (mode: Mode, at: number) =>
      Effect.gen(function*() {
        const n = ++run
        const interruptor = new Interruptor(mode, at)
        const blame = (found: ReadonlyArray<string>) =>
          problems.push(
            ...found.map((problem) =>
              `${dialect.name}: ${program.name}, ${mode} ${
                at === never ? "never" : at
              } (seed ${effort.seed}): ${problem}`
            )
          )
        const ended = yield* Effect.scoped(program.run(world, n, interruptor.victim)).pipe(
          Effect.exit,
          Effect.disconnect,
          Effect.timeoutOption("10 seconds")
        )
        if (ended._tag === "None") {
          blame(["it hangs"])
          hangs = true
          return interruptor
        }
        if (Exit.isFailure(ended.value)) {
          blame([`what surrounds it failed: ${String(ended.value.cause)}`])
          return interruptor
        }
        const ending = ended.value.value
        const { waiting } = yield* db.poolStats
        const { sessions } = yield* db.activity
        if (waiting + sessions.length > 0) {
          blame([`${waiting} wait for a connection, ${sessions.length} sessions are open`])
        }
        // On the same connection, if it is still there: whatever was to stop something else must not stop this.
        const after = yield* Effect.exit(
          dialect.dialect === "postgres" ? db.sql`SELECT pg_sleep(0.001)` : db.sql`SELECT count(*) FROM numbers`
        )
        if (Exit.isFailure(after)) {
          blame([`the next statement failed: ${String(after.cause)}`])
        }
        blame(
          yield* persistent(Effect.gen(function*() {
            const { busy, connections, parts } = yield* look(n)
            const { idle, used } = yield* db.poolStats
            const found = contradictions(program, ending, parts)
            if (busy > 0) {
              found.push(`${busy} connections are in a transaction`)
            }
            // One that was not clean is used until it is.
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
          kept += same((yield* look(n)).parts, program.parts) ? 1 : 0
        }
        return interruptor
      })

    for (const mode of modes) {
      // The first is slower and takes more steps: what is made once is made.
      yield* once(mode, never)
      const { points } = yield* once(mode, never)
      for (const at of choose(points, effort.points, chance.branch(mode))) {
        if (hangs || problems.length >= 5) {
          return { runs: run, interrupted, kept, problems }
        }
        yield* once(mode, at)
      }
    }
    return { runs: run, interrupted, kept, problems }
  }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
