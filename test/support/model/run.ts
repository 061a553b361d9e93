/**
 * Generates programs, runs them against a database and judges them by the model. Those that are wrong are made small.
 */
import BetterSqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as Pg from "pg"
import * as Database from "../../../src/Database.js"
import type { Dialect } from "../dialects.js"
import { random } from "../random.js"
import { interpret, prepare } from "./interpreter.js"
import { judge } from "./model.js"
import { type Feature, generate, type Program, show } from "./program.js"
import { shrink } from "./shrink.js"

export interface Options {
  readonly seed: number
  /** Begins no program after so many milliseconds, once it has run so many programs. */
  readonly millis: number
  readonly atLeast: number
  readonly features: ReadonlySet<Feature>
  /** At most so many wrong programs are looked for. */
  readonly problems: number
  /** How long one that is wrong is made smaller. */
  readonly shrinkMillis: number
  /** Sees each as it is found. */
  readonly onProblem?: ((problem: string) => void) | undefined
}

export interface Result {
  readonly programs: number
  /** One text for each program that was wrong: its seed, itself, and what was wrong. */
  readonly problems: ReadonlyArray<string>
}

/** Another client of the database, which is not part of what is tested. */
interface Observer {
  readonly rows: (run: number) => Promise<ReadonlyArray<number>>
  /** How many connections are in a transaction or run a statement. */
  readonly busy: () => Promise<number>
  readonly lose: () => Promise<unknown>
  readonly close: () => unknown
}

const postgresObserver = async (url: string): Promise<Observer> => {
  const client = new Pg.Client({ connectionString: url })
  client.on("error", () => {})
  await client.connect()
  const others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() " +
    "AND backend_type = 'client backend'"
  return {
    rows: async (run) =>
      (await client.query("SELECT part FROM items WHERE run = $1 ORDER BY part", [run])).rows.map(({ part }) => part),
    busy: async () =>
      (await client.query(`SELECT count(*)::int AS n ${others} AND (state <> 'idle' OR xact_start IS NOT NULL)`))
        .rows[0].n,
    lose: () => client.query(`SELECT pg_terminate_backend(pid) ${others}`),
    close: () => client.end()
  }
}

const fileObserver = (path: string): Observer => {
  const file = new BetterSqlite(path, { timeout: 1_000 })
  return {
    rows: async (run) =>
      file.prepare("SELECT part FROM items WHERE run = ? ORDER BY part").pluck().all(run) as Array<number>,
    busy: async () => {
      try {
        file.exec("BEGIN IMMEDIATE")
        file.exec("ROLLBACK")
        return 0
      } catch {
        return 1
      }
    },
    // A file is not lost.
    lose: async () => {},
    close: () => file.close()
  }
}

interface World {
  readonly db: Database.Service
  readonly observer: Observer
}

const makeWorld = (dialect: Dialect): Effect.Effect<World, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const url = yield* dialect.url
    const observer = yield* Effect.acquireRelease(
      Effect.promise(async () =>
        dialect.dialect === "postgres" ? await postgresObserver(url) : fileObserver(url.slice("sqlite:///".length))
      ),
      (observer) => Effect.promise(async () => observer.close())
    )
    // No program waits that long, also on a busy machine.
    const waits = { connectTimeout: "1 minute", lockTimeout: "1 minute", poolTimeout: "1 minute" } as const
    const db = yield* Database.make({ environment: "test", poolSize: 3, poolMaxOverflow: 0, ...waits, url })
    yield* prepare(db)
    return { db, observer }
  })

/** Longer than any program takes. One that is made smaller is known to hang, or not to take long. */
const watchdog = { first: "1 minute", smaller: "10 seconds" } as const

/** What is left behind, once it had some time to go. */
const leftBehind = ({ db, observer }: World): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function*() {
    const deadline = performance.now() + 60_000
    while (true) {
      const { used, waiting } = yield* db.poolStats
      const { sessions } = yield* db.activity
      const busy = yield* Effect.promise(observer.busy)
      if (used + waiting + sessions.length + busy === 0) {
        return []
      }
      if (performance.now() > deadline) {
        return [
          `${used} connections are in use, ${waiting} wait for one, ${sessions.length} sessions are open, ` +
          `${busy} connections are busy`
        ]
      }
      yield* Effect.sleep("5 millis")
    }
  })

/** Runs one program. A database on which one hangs is of no more use. */
const runOne = (
  world: World,
  program: Program,
  run: number,
  which: keyof typeof watchdog
): Effect.Effect<{ readonly problems: ReadonlyArray<string>; readonly hangs: boolean }> =>
  Effect.gen(function*() {
    const ended = yield* interpret(world.db, program, run, Effect.promise(world.observer.lose)).pipe(
      Effect.disconnect,
      Effect.timeoutOption(watchdog[which])
    )
    if (ended._tag === "None") {
      return { problems: ["it does not end"], hangs: true }
    }
    const left = yield* leftBehind(world)
    const problems: Array<string> = []
    for (const [i, trace] of ended.value.entries()) {
      const found = yield* Effect.promise(() => world.observer.rows(trace.run))
      problems.push(
        ...judge(program, program.roots[i], trace, found, world.db.dialect === "sqlite").map((problem) =>
          `session ${i + 1}: ${problem}`
        )
      )
    }
    if (left.length === 0) {
      // Whatever was to stop something of the program must not stop this. Connections that were closed show here.
      const after = yield* Effect.exit(
        Effect.retry(world.db.sql`SELECT 1`, { times: program.loseAfter === undefined ? 0 : 5 })
      )
      if (Exit.isFailure(after)) {
        problems.push(`the next statement failed: ${String(after.cause)}`)
      }
    }
    return { problems: [...problems, ...left], hangs: left.length > 0 }
  })

/** Runs programs on databases of their own until the time is over or enough of them were wrong. */
export const runModel = (dialect: Dialect, options: Options): Effect.Effect<Result, unknown> =>
  Effect.gen(function*() {
    const problems: Array<string> = []
    let programs = 0
    let runs = 1
    let scope: Scope.CloseableScope | undefined
    let world: World | undefined
    const closing: Array<Fiber.Fiber<unknown, unknown>> = []
    // One on which a program hangs takes its time, for which nobody waits.
    const closeWorld = Effect.suspend(() => {
      const old = scope
      scope = undefined
      world = undefined
      return old === undefined
        ? Effect.void
        : Effect.map(Effect.forkDaemon(Scope.close(old, Exit.void)), (fiber) => {
          closing.push(fiber)
        })
    })
    const attempt = (program: Program, which: keyof typeof watchdog) =>
      Effect.gen(function*() {
        if (world === undefined) {
          scope = yield* Scope.make()
          world = yield* Scope.extend(makeWorld(dialect), scope)
        }
        const run = runs
        runs += program.roots.length
        const result = yield* runOne(world, program, run, which)
        if (result.hangs) {
          yield* closeWorld
        }
        return result.problems
      })

    const deadline = performance.now() + options.millis
    const isOver = () => performance.now() >= deadline && programs >= options.atLeast
    for (let seed = options.seed; !isOver() && problems.length < options.problems; seed++) {
      const program = generate(random(seed).branch("model"), options.features)
      programs++
      const found = yield* attempt(program, "first")
      if (found.length > 0) {
        let last = found
        // What depends on time may need several runs to fail again.
        const failsAgain = (smaller: Program) =>
          Effect.gen(function*() {
            for (let i = 0; i < 5; i++) {
              const again = yield* attempt(smaller, "smaller")
              if (again.length > 0) {
                last = again
                return true
              }
            }
            return false
          })
        const small = yield* shrink(program, failsAgain, options.shrinkMillis)
        const problem = `${dialect.name}, seed ${seed}: ${found.join("; ")}\n${show(program)}\nsmaller: ${
          last.join("; ")
        }\n${show(small)}`
        problems.push(problem)
        options.onProblem?.(problem)
      }
    }
    yield* closeWorld
    yield* Effect.timeoutOption(Effect.disconnect(Fiber.awaitAll(closing)), "30 seconds")
    return { programs, problems }
  }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
