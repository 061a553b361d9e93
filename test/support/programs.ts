/**
 * The programs to interrupt at every point: one for each use of a database by an application.
 */
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Database from "../../src/Database.js"
import * as DatabaseHttp from "../../src/DatabaseHttp.js"
import { openDatabases } from "../../src/internal/database/opened.js"
import * as Migrations from "../../src/Migrations.js"
import * as Session from "../../src/Session.js"
import * as TestDatabase from "../../src/TestDatabase.js"
import type { Environment, Outcome, Program, Target } from "./everywhere.js"
import type { Interruptor } from "./interruptor.js"
import { proxy } from "./proxy.js"

type Victim = Interruptor["victim"]

/** The exit of a session, and which of its hooks have run. */
interface SessionOutcome {
  exit: Exit.Exit<unknown, unknown>
  committed: boolean
  rolledBack: boolean
}

const noOutcome = (): SessionOutcome => ({ exit: Exit.void, committed: false, rolledBack: false })

/** Registers hooks of the current session that record how it ends. */
const registerHooks = (outcome: SessionOutcome): Effect.Effect<void, never, Session.Session> =>
  Effect.zipRight(
    Session.afterCommit(Effect.sync(() => {
      outcome.committed = true
    })),
    Session.afterRollback(Effect.sync(() => {
      outcome.rolledBack = true
    }))
  )

/** Interrupts an effect whose session registers these hooks. */
const withHooks = (
  victim: Victim,
  f: (hooks: Effect.Effect<void, never, Session.Session>) => Effect.Effect<unknown, unknown>
): Effect.Effect<Outcome> =>
  Effect.suspend(() => {
    const outcome = noOutcome()
    return Effect.map(victim(f(registerHooks(outcome))), (exit) => {
      outcome.exit = exit
      return outcome
    })
  })

/** Interrupts one session. */
const session = (
  { db }: Environment,
  victim: Victim,
  work: Effect.Effect<unknown, any, Session.Session>,
  options?: Session.Options
): Effect.Effect<Outcome> => withHooks(victim, (hooks) => db.session(Effect.zipRight(hooks, work), options))

const exitOnly = (exit: Exit.Exit<unknown, unknown>): Outcome => ({ exit })

const inOrder = <R = never>(
  ...effects: ReadonlyArray<Effect.Effect<unknown, any, R>>
): Effect.Effect<unknown, any, R> => Effect.all(effects, { discard: true })

/** In place of `Effect.all`, which hangs if it is interrupted before the first of its fibers has started. */
const concurrently = <R = never>(
  ...effects: ReadonlyArray<Effect.Effect<unknown, any, R>>
): Effect.Effect<void, any, R> =>
  Effect.scoped(Effect.flatMap(
    Effect.forEach(effects, (effect) => Effect.forkScoped(Effect.interruptible(effect))),
    Effect.forEach((fiber) => Fiber.join(fiber), { discard: true })
  )) as Effect.Effect<void, any, R>

const hundred = Array.from({ length: 100 }, (_, n) => n)

const serializationFailure = TestDatabase.error("SerializationFailure")

/** Loses every second COMMIT, and of the others the response. */
const losingCommits = (options: Target) =>
  Effect.gen(function*() {
    const network = yield* proxy(options.url)
    let commits = 0
    yield* network.onClientData((chunk) =>
      chunk.includes("COMMIT") ? ++commits % 2 === 0 ? "cut" : { forward: chunk, then: "silence" } : "pass"
    )
    yield* network.onServerData((chunk, connection) => {
      if (chunk.includes("COMMIT\0")) {
        connection.cut()
        return "drop"
      }
      return "pass"
    })
    return yield* Database.make({ ...options, url: network.url })
  })

const sandboxed = (database: Database.Service) =>
  Effect.map(
    Effect.provideService(Layer.build(TestDatabase.sandbox), Database.Database, database),
    (context) => Context.get(context, Database.Database)
  )

const request = () => HttpServerRequest.fromWeb(new Request("http://127.0.0.1/", { method: "POST" }))

const nested: Pick<Program, "parts" | "run"> = {
  parts: [1, 2, 3, 5],
  run: (environment, n, victim) =>
    session(
      environment,
      victim,
      inOrder(
        environment.write(n, 1),
        environment.db.session(inOrder(environment.write(n, 2), environment.db.session(environment.write(n, 3)))),
        Effect.exit(environment.db.session(inOrder(environment.write(n, 4), Effect.fail("rolled back")))),
        environment.write(n, 5)
      )
    )
}

const oneOfSeveral: Pick<Program, "parts" | "allowedParts" | "run"> = {
  parts: [1, 2, 3, 4],
  // Once its savepoint was released, an interruption ends what the session around it can commit.
  allowedParts: [[], [1, 3, 4]],
  run: (environment, n, victim) =>
    Effect.gen(function*() {
      const outcome = noOutcome()
      const one = environment.db.session(inOrder(registerHooks(outcome), environment.write(n, 2)))
      yield* environment.db.session(inOrder(
        environment.write(n, 1),
        concurrently(
          Effect.map(victim(one), (exit) => {
            outcome.exit = exit
          }),
          environment.db.session(environment.write(n, 3))
        ),
        environment.write(n, 4)
      )).pipe(Effect.catchTag(
        "TransactionAborted",
        (error) => Exit.isInterrupted(outcome.exit) ? Effect.void : Effect.fail(error)
      ))
      return outcome
    })
}

const inSandbox: Pick<Program, "isolated" | "options" | "open"> = {
  isolated: true,
  options: { poolSize: 5 },
  open: (options) => Effect.flatMap(Database.make(options), sandboxed)
}

export const programs: ReadonlyArray<Program> = [
  {
    name: "a session",
    parts: [1, 2],
    run: (environment, n, victim) =>
      session(environment, victim, inOrder(environment.write(n, 1), environment.write(n, 2)))
  },
  {
    name: "a slow session",
    parts: [1, 2],
    only: "postgres",
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(environment.write(n, 1), environment.db.sql`SELECT pg_sleep(0.003)`, environment.write(n, 2))
      )
  },
  {
    name: "a session that waits for a lock",
    parts: [1, 2],
    only: "postgres",
    options: { poolSize: 2 },
    run: (environment, n, victim) =>
      Effect.gen(function*() {
        const lock = environment.db.sql`SELECT n FROM numbers WHERE n = 1 FOR UPDATE`
        const other = yield* Effect.fork(environment.db.session(inOrder(lock, Effect.sleep("4 millis"))))
        yield* Effect.sleep("2 millis")
        const outcome = yield* session(
          environment,
          victim,
          inOrder(environment.write(n, 1), lock, environment.write(n, 2))
        )
        yield* Fiber.join(other)
        return outcome
      })
  },
  {
    name: "a session that fails",
    parts: [1],
    expectedErrors: ["it is wrong"],
    run: (environment, n, victim) =>
      session(environment, victim, inOrder(environment.write(n, 1), Effect.fail("it is wrong")))
  },
  {
    name: "a session whose commit is refused",
    parts: [1],
    expectedErrors: ["ForeignKeyViolation"],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(environment.write(n, 1), environment.db.sql`INSERT INTO children (parent) VALUES (${n})`)
      )
  },
  {
    name: "a session with a timeout, and one nested in it",
    parts: [1, 2],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(environment.write(n, 1), environment.db.session(environment.write(n, 2), { timeout: "10 seconds" })),
        { timeout: "10 seconds" }
      )
  },
  {
    name: "nested sessions",
    ...nested
  },
  {
    name: "nested siblings",
    parts: [1, 2, 4],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        concurrently(
          environment.db.session(environment.write(n, 1)),
          environment.db.session(environment.write(n, 2)),
          Effect.exit(environment.db.session(inOrder(environment.write(n, 3), Effect.fail("rolled back")))),
          environment.write(n, 4)
        )
      )
  },
  {
    name: "one nested session of several",
    ...oneOfSeveral
  },
  {
    name: "a statement of a session",
    parts: [1, 2, 3],
    // Once it was sent, nothing of the session can be committed; before that it is dropped without effect.
    allowedParts: [[], [1, 3]],
    run: (environment, n, victim) =>
      Effect.gen(function*() {
        let exit: Exit.Exit<unknown, unknown> = Exit.void
        yield* environment.db.session(inOrder(
          environment.write(n, 1),
          Effect.map(victim(environment.db.session(environment.write(n, 2), { propagation: "join" })), (result) => {
            exit = result
          }),
          environment.write(n, 3)
        )).pipe(Effect.catchAll((error) => Exit.isInterrupted(exit) ? Effect.void : Effect.fail(error)))
        return { exit }
      })
  },
  {
    name: "a session within another, on its own connection",
    parts: [1, 2],
    only: "postgres",
    allowedParts: [[], [2]],
    options: { poolSize: 2 },
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(environment.write(n, 1), environment.db.session(environment.write(n, 2), { propagation: "new" }))
      )
  },
  {
    name: "a stream in a session",
    parts: [1, 2],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(
          environment.write(n, 1),
          Stream.runDrain(environment.db.sql`SELECT n FROM numbers`.stream),
          Stream.runDrain(Stream.take(environment.db.sql`SELECT n FROM numbers`.stream, 40)),
          environment.write(n, 2)
        )
      )
  },
  {
    name: "streams at once in a session",
    parts: [1, 2],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(
          concurrently(
            Stream.runDrain(environment.db.sql`SELECT a.n FROM numbers AS a, numbers AS b`.stream),
            Stream.runDrain(Stream.take(environment.db.sql`SELECT n FROM numbers`.stream, 40)),
            environment.write(n, 1)
          ),
          environment.write(n, 2)
        )
      )
  },
  {
    name: "a slow body between the batches of a stream",
    parts: [1, 2],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(
          environment.write(n, 1),
          Stream.runForEachChunk(
            Stream.take(environment.db.sql`SELECT a.n FROM numbers AS a, numbers AS b`.stream, 300),
            () => Effect.sleep("1 millis")
          ),
          environment.write(n, 2)
        )
      )
  },
  {
    name: "a statement that loses a race",
    parts: [1, 2],
    only: "postgres",
    expectedErrors: ["TransactionAborted"],
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(
          environment.write(n, 1),
          Effect.timeoutOption(environment.db.sql`SELECT pg_sleep(10)`, "2 millis"),
          environment.write(n, 2)
        )
      )
  },
  {
    name: "a nested session that loses a race",
    parts: [1, 3],
    only: "postgres",
    run: (environment, n, victim) =>
      session(
        environment,
        victim,
        inOrder(
          environment.write(n, 1),
          Effect.timeoutOption(
            environment.db.session(inOrder(environment.write(n, 2), environment.db.sql`SELECT pg_sleep(10)`)),
            "4 millis"
          ),
          environment.write(n, 3)
        )
      )
  },
  {
    name: "a stream outside of sessions",
    parts: hundred,
    run: ({ db }, n, victim) =>
      Effect.map(
        victim(
          Stream.runDrain(db.sql`INSERT INTO items (run, part) SELECT ${n}, n FROM numbers RETURNING part`.stream)
        ),
        exitOnly
      )
  },
  {
    name: "a statement outside of sessions",
    parts: [1],
    run: (environment, n, victim) => Effect.map(victim(environment.write(n, 1)), exitOnly)
  },
  {
    name: "a session that is retried",
    parts: [1],
    run: (environment, n, victim) =>
      withHooks(victim, (hooks) =>
        Effect.suspend(() => {
          let attempts = 0
          return environment.db.session(
            Effect.suspend(() =>
              ++attempts === 1
                ? inOrder(environment.write(n, 1), Effect.fail(serializationFailure(environment.db.dialect)))
                : Effect.zipRight(hooks, environment.write(n, 1))
            ),
            { retry: Schedule.spaced("2 millis") }
          )
        }))
  },
  {
    name: "a session that waits for its connection",
    parts: [1],
    run: (environment, n, victim) =>
      Effect.gen(function*() {
        const other = yield* Effect.fork(environment.db.session(Effect.sleep("3 millis")))
        yield* Effect.sleep("1 millis")
        const outcome = yield* session(environment, victim, environment.write(n, 1))
        yield* Fiber.join(other)
        return outcome
      })
  },
  {
    name: "a session among others",
    parts: [1, 2],
    only: "postgres",
    run: (environment, n, victim) =>
      Effect.gen(function*() {
        const others = yield* Effect.fork(Effect.all([
          environment.db.session(environment.db.sql`SELECT pg_sleep(0.001)`),
          environment.db.sql`SELECT pg_sleep(0.001)`,
          environment.db.session(environment.db.sql`SELECT pg_sleep(0.001)`),
          environment.db.sql`SELECT pg_sleep(0.001)`
        ], { concurrency: "unbounded" }))
        const outcome = yield* session(
          environment,
          victim,
          inOrder(environment.write(n, 1), environment.db.sql`SELECT pg_sleep(0.002)`, environment.write(n, 2))
        )
        yield* Fiber.join(others)
        return outcome
      })
  },
  {
    name: "a connection",
    parts: [],
    reopens: true,
    run: ({ db }, _, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.flatMap(
          Effect.uninterruptibleMask((restore) =>
            Effect.tap(
              openDatabases.get(db.sql)!.driver.connect(() => undefined, restore),
              (connection) => Effect.addFinalizer(() => connection.close)
            )
          ),
          (connection) => connection.ping
        ))),
        exitOnly
      )
  },
  {
    name: "a session that connects",
    parts: [1],
    only: "postgres",
    options: { poolRecycle: "1 millis" },
    run: (environment, n, victim) => session(environment, victim, environment.write(n, 1))
  },
  {
    name: "a session whose commit gets no response",
    parts: [1],
    only: "postgres",
    open: losingCommits,
    expectedErrors: ["ConnectionLost", "CommitOutcomeUnknown"],
    run: (environment, n, victim) => session(environment, victim, environment.write(n, 1), { commit: "verified" })
  },
  {
    name: "a session as a resource",
    parts: [1, 2],
    run: (environment, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.gen(function*() {
          const handle = yield* environment.db.acquireSession({ timeout: "10 seconds" })
          yield* handle.run(inOrder(environment.write(n, 1), environment.db.session(environment.write(n, 2))))
          yield* handle.commit
        }))),
        exitOnly
      )
  },
  {
    name: "a reserved connection",
    parts: [1],
    run: ({ db }, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.flatMap(db.sql.reserve, (connection) =>
          inOrder(
            connection.executeUnprepared("BEGIN", [], undefined),
            connection.executeUnprepared(`INSERT INTO items (run, part) VALUES (${n}, 1)`, [], undefined),
            connection.executeUnprepared("COMMIT", [], undefined)
          )))),
        exitOnly
      )
  },
  {
    name: "health",
    parts: [],
    options: { poolRecycle: "1 millis" },
    run: ({ db }, _, victim) => Effect.map(victim(Effect.zipRight(db.health, db.report)), exitOnly)
  },
  {
    name: "notifications",
    parts: [],
    only: "postgres",
    run: ({ db }, n, victim) =>
      Effect.suspend(() => {
        const pg = Context.get(db.context as Context.Context<PgClient.PgClient>, PgClient.PgClient)
        const receive = Stream.runDrain(Stream.take(pg.listen(`run_${n}`), 1))
        const notifyRepeatedly = Effect.forever(
          Effect.zipRight(pg.notify(`run_${n}`, "payload"), Effect.sleep("1 millis"))
        )
        // In place of `Effect.race`, which hangs if it is interrupted before it has started.
        return Effect.map(
          victim(Effect.scoped(Effect.zipRight(Effect.forkScoped(notifyRepeatedly), receive))),
          exitOnly
        )
      })
  },
  {
    name: "a database that is opened and closed",
    parts: [1, 2],
    reopens: true,
    run: (environment, n, victim) =>
      Effect.suspend(() => {
        const outcome = noOutcome()
        const work = Database.session(inOrder<Database.Database | Session.Session>(
          registerHooks(outcome),
          Effect.flatMap(Database.Database, ({ sql }) => sql`INSERT INTO items (run, part) VALUES (${n}, 1)`),
          Effect.flatMap(Database.Database, ({ sql }) => sql`INSERT INTO items (run, part) VALUES (${n}, 2)`)
        ))
        return Effect.map(
          victim(Effect.provide(work, Database.layerFrom({ environment: "test", url: environment.url }))),
          (exit) => {
            outcome.exit = exit
            return outcome
          }
        )
      })
  },
  {
    name: "a database that is closed while it is used",
    parts: [1, 2],
    reopens: true,
    expectedErrors: ["DatabaseClosed"],
    run: (environment, n, victim) =>
      Effect.suspend(() => {
        const outcome = noOutcome()
        const write = ({ sql }: Database.Service, part: number) =>
          sql`INSERT INTO items (run, part) VALUES (${n}, ${part})`
        let sessionFiber: Fiber.Fiber<unknown, unknown> = Fiber.fail("DatabaseClosed")
        const opened = Effect.scoped(Effect.gen(function*() {
          const db = yield* Database.make({ environment: "test", url: environment.url })
          sessionFiber = yield* Effect.forkDaemon(
            db.session(inOrder(registerHooks(outcome), write(db, 1), Effect.sleep("2 millis"), write(db, 2)))
          )
          yield* Effect.sleep("1 millis")
        }))
        return Effect.zipRight(
          victim(opened),
          Effect.map(Effect.suspend(() => Fiber.await(sessionFiber)), (exit) => {
            outcome.exit = exit
            return outcome
          })
        )
      })
  },
  {
    name: "a request",
    parts: [1, 2],
    run: (environment, n, victim) =>
      withHooks(victim, (hooks) =>
        DatabaseHttp.middleware()(
          inOrder(hooks, environment.write(n, 1), environment.write(n, 2)).pipe(
            Effect.as(HttpServerResponse.empty())
          )
        ).pipe(
          Effect.provideService(HttpServerRequest.HttpServerRequest, request()),
          Effect.provideService(Database.Database, environment.db),
          Effect.scoped
        ) as Effect.Effect<unknown, unknown>)
  },
  {
    name: "migrations",
    parts: [1, 2],
    allowedParts: [],
    run: (environment, n, victim) =>
      Effect.gen(function*() {
        const table = `migrations_${n}`
        const migrate = Effect.provideService(
          Migrations.run({
            loader: Migrations.fromRecord({ "0001_one": environment.write(n, 1), "0002_two": environment.write(n, 2) }),
            table,
            progress: () => Effect.void
          }),
          Database.Database,
          environment.db
        )
        yield* victim(migrate)
        // A second run applies only the migrations that the first one did not.
        const exit = yield* Effect.exit(migrate)
        yield* environment.db.sql.unsafe(`DROP TABLE ${table}`).unprepared
        return { exit }
      })
  },
  {
    name: "a sandbox",
    parts: [],
    run: (environment, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.flatMap(sandboxed(environment.db), (db) =>
          inOrder(
            db.sql`INSERT INTO items (run, part) VALUES (${n}, 1)`,
            db.session(db.sql`INSERT INTO items (run, part) VALUES (${n}, 2)`)
          )))),
        exitOnly
      )
  },
  {
    name: "sessions in a sandbox",
    ...nested,
    ...inSandbox
  },
  {
    name: "one nested session of several, in a sandbox",
    ...oneOfSeveral,
    ...inSandbox
  }
]
