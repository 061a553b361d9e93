/**
 * What is interrupted everywhere: whatever an application does with a database.
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
import type { Ending, Place, Program, World } from "./everywhere.js"
import type { Interruptor } from "./interruptor.js"
import { proxy } from "./proxy.js"

type Victim = Interruptor["victim"]

interface Told {
  exit: Exit.Exit<unknown, unknown>
  committed: boolean
  undone: boolean
}

const untold = (): Told => ({ exit: Exit.void, committed: false, undone: false })

/** Lets the session that it is run in say how it ended. */
const tells = (told: Told): Effect.Effect<void, never, Session.Session> =>
  Effect.zipRight(
    Session.afterCommit(Effect.sync(() => {
      told.committed = true
    })),
    Session.afterRollback(Effect.sync(() => {
      told.undone = true
    }))
  )

/** Runs something that gets to know how its session ended. */
const telling = (
  victim: Victim,
  f: (tells: Effect.Effect<void, never, Session.Session>) => Effect.Effect<unknown, unknown>
): Effect.Effect<Ending> =>
  Effect.suspend(() => {
    const told = untold()
    return Effect.map(victim(f(tells(told))), (exit) => {
      told.exit = exit
      return told
    })
  })

/** A session that is interrupted. */
const session = (
  { db }: World,
  victim: Victim,
  work: Effect.Effect<unknown, any, Session.Session>,
  options?: Session.Options
): Effect.Effect<Ending> => telling(victim, (tells) => db.session(Effect.zipRight(tells, work), options))

const only = (exit: Exit.Exit<unknown, unknown>): Ending => ({ exit })

const inOrder = <R = never>(
  ...effects: ReadonlyArray<Effect.Effect<unknown, any, R>>
): Effect.Effect<unknown, any, R> => Effect.all(effects, { discard: true })

/** Not `Effect.all`, which hangs when it is interrupted before the first of its fibers has started. */
const together = <R = never>(
  ...effects: ReadonlyArray<Effect.Effect<unknown, any, R>>
): Effect.Effect<void, any, R> =>
  Effect.scoped(Effect.flatMap(
    Effect.forEach(effects, (effect) => Effect.forkScoped(Effect.interruptible(effect))),
    Effect.forEach((fiber) => Fiber.join(fiber), { discard: true })
  )) as Effect.Effect<void, any, R>

const hundred = Array.from({ length: 100 }, (_, n) => n)

const passes = TestDatabase.error("SerializationFailure")

/** Every second COMMIT arrives, but not its answer; the others do not arrive. */
const cutting = (options: Place) =>
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
  run: (world, n, victim) =>
    session(
      world,
      victim,
      inOrder(
        world.write(n, 1),
        world.db.session(inOrder(world.write(n, 2), world.db.session(world.write(n, 3)))),
        Effect.exit(world.db.session(inOrder(world.write(n, 4), Effect.fail("undone")))),
        world.write(n, 5)
      )
    )
}

const oneOfSeveral: Pick<Program, "parts" | "partly" | "run"> = {
  parts: [1, 2, 3, 4],
  partly: [[1, 3, 4]],
  run: (world, n, victim) =>
    Effect.gen(function*() {
      const told = untold()
      const one = world.db.session(inOrder(tells(told), world.write(n, 2)))
      yield* world.db.session(inOrder(
        world.write(n, 1),
        together(
          Effect.map(victim(one), (exit) => {
            told.exit = exit
          }),
          world.db.session(world.write(n, 3))
        ),
        world.write(n, 4)
      ))
      return told
    })
}

const inSandbox: Pick<Program, "secret" | "options" | "open"> = {
  secret: true,
  options: { poolSize: 5 },
  open: (options) => Effect.flatMap(Database.make(options), sandboxed)
}

export const programs: ReadonlyArray<Program> = [
  {
    name: "a session",
    parts: [1, 2],
    run: (world, n, victim) => session(world, victim, inOrder(world.write(n, 1), world.write(n, 2)))
  },
  {
    name: "a session that takes time",
    parts: [1, 2],
    only: "postgres",
    run: (world, n, victim) =>
      session(world, victim, inOrder(world.write(n, 1), world.db.sql`SELECT pg_sleep(0.003)`, world.write(n, 2)))
  },
  {
    name: "a session that waits for a lock",
    parts: [1, 2],
    only: "postgres",
    options: { poolSize: 2 },
    run: (world, n, victim) =>
      Effect.gen(function*() {
        const lock = world.db.sql`SELECT n FROM numbers WHERE n = 1 FOR UPDATE`
        const other = yield* Effect.fork(world.db.session(inOrder(lock, Effect.sleep("4 millis"))))
        yield* Effect.sleep("2 millis")
        const ending = yield* session(world, victim, inOrder(world.write(n, 1), lock, world.write(n, 2)))
        yield* Fiber.join(other)
        return ending
      })
  },
  {
    name: "a session that fails",
    parts: [1],
    fails: ["it is wrong"],
    run: (world, n, victim) => session(world, victim, inOrder(world.write(n, 1), Effect.fail("it is wrong")))
  },
  {
    name: "a session whose commit is refused",
    parts: [1],
    fails: ["ForeignKeyViolation"],
    run: (world, n, victim) =>
      session(world, victim, inOrder(world.write(n, 1), world.db.sql`INSERT INTO children (parent) VALUES (${n})`))
  },
  {
    name: "a session with a time limit, and one nested in it",
    parts: [1, 2],
    run: (world, n, victim) =>
      session(
        world,
        victim,
        inOrder(world.write(n, 1), world.db.session(world.write(n, 2), { timeout: "10 seconds" })),
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
    run: (world, n, victim) =>
      session(
        world,
        victim,
        together(
          world.db.session(world.write(n, 1)),
          world.db.session(world.write(n, 2)),
          Effect.exit(world.db.session(inOrder(world.write(n, 3), Effect.fail("undone")))),
          world.write(n, 4)
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
    partly: [[1, 3]],
    run: (world, n, victim) =>
      Effect.gen(function*() {
        let exit: Exit.Exit<unknown, unknown> = Exit.void
        yield* world.db.session(inOrder(
          world.write(n, 1),
          Effect.map(victim(world.db.session(world.write(n, 2), { propagation: "join" })), (ended) => {
            exit = ended
          }),
          // On PostgreSQL a statement that was cancelled has failed, and its transaction with it.
          world.write(n, 3)
        )).pipe(Effect.catchAll((error) => Exit.isInterrupted(exit) ? Effect.void : Effect.fail(error)))
        return { exit }
      })
  },
  {
    name: "a session inside of another, on a connection of its own",
    parts: [1, 2],
    only: "postgres",
    partly: [[], [2]],
    options: { poolSize: 2 },
    run: (world, n, victim) =>
      session(
        world,
        victim,
        inOrder(world.write(n, 1), world.db.session(world.write(n, 2), { propagation: "new" }))
      )
  },
  {
    name: "a stream in a session",
    parts: [1, 2],
    run: (world, n, victim) =>
      session(
        world,
        victim,
        inOrder(
          world.write(n, 1),
          Stream.runDrain(world.db.sql`SELECT n FROM numbers`.stream),
          Stream.runDrain(Stream.take(world.db.sql`SELECT n FROM numbers`.stream, 40)),
          world.write(n, 2)
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
        only
      )
  },
  {
    name: "a statement outside of sessions",
    parts: [1],
    run: (world, n, victim) => Effect.map(victim(world.write(n, 1)), only)
  },
  {
    name: "a session that is run again",
    parts: [1],
    run: (world, n, victim) =>
      telling(victim, (tells) =>
        Effect.suspend(() => {
          let attempts = 0
          return world.db.session(
            Effect.suspend(() =>
              ++attempts === 1
                ? inOrder(world.write(n, 1), Effect.fail(passes(world.db.dialect)))
                : Effect.zipRight(tells, world.write(n, 1))
            ),
            { retry: Schedule.spaced("2 millis") }
          )
        }))
  },
  {
    name: "a session that waits for its connection",
    parts: [1],
    run: (world, n, victim) =>
      Effect.gen(function*() {
        const other = yield* Effect.fork(world.db.session(Effect.sleep("3 millis")))
        yield* Effect.sleep("1 millis")
        const ending = yield* session(world, victim, world.write(n, 1))
        yield* Fiber.join(other)
        return ending
      })
  },
  {
    name: "a session among others",
    parts: [1, 2],
    only: "postgres",
    run: (world, n, victim) =>
      Effect.gen(function*() {
        const others = yield* Effect.fork(Effect.all([
          world.db.session(world.db.sql`SELECT pg_sleep(0.001)`),
          world.db.sql`SELECT pg_sleep(0.001)`,
          world.db.session(world.db.sql`SELECT pg_sleep(0.001)`),
          world.db.sql`SELECT pg_sleep(0.001)`
        ], { concurrency: "unbounded" }))
        const ending = yield* session(
          world,
          victim,
          inOrder(world.write(n, 1), world.db.sql`SELECT pg_sleep(0.002)`, world.write(n, 2))
        )
        yield* Fiber.join(others)
        return ending
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
        only
      )
  },
  {
    name: "a session that connects",
    parts: [1],
    only: "postgres",
    options: { poolRecycle: "1 millis" },
    run: (world, n, victim) => session(world, victim, world.write(n, 1))
  },
  {
    name: "a session whose commit gets no answer",
    parts: [1],
    only: "postgres",
    open: cutting,
    fails: ["ConnectionLost", "CommitOutcomeUnknown"],
    run: (world, n, victim) => session(world, victim, world.write(n, 1), { commit: "verified" })
  },
  {
    name: "a session as a resource",
    parts: [1, 2],
    run: (world, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.gen(function*() {
          const handle = yield* world.db.acquireSession({ timeout: "10 seconds" })
          yield* handle.run(inOrder(world.write(n, 1), world.db.session(world.write(n, 2))))
          yield* handle.commit
        }))),
        only
      )
  },
  {
    name: "a connection that is reserved",
    parts: [1],
    run: ({ db }, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.flatMap(db.sql.reserve, (connection) =>
          inOrder(
            connection.executeUnprepared("BEGIN", [], undefined),
            connection.executeUnprepared(`INSERT INTO items (run, part) VALUES (${n}, 1)`, [], undefined),
            connection.executeUnprepared("COMMIT", [], undefined)
          )))),
        only
      )
  },
  {
    name: "health",
    parts: [],
    options: { poolRecycle: "1 millis" },
    run: ({ db }, _, victim) => Effect.map(victim(Effect.zipRight(db.health, db.report)), only)
  },
  {
    name: "notifications",
    parts: [],
    only: "postgres",
    run: ({ db }, n, victim) =>
      Effect.suspend(() => {
        const pg = Context.get(db.context as Context.Context<PgClient.PgClient>, PgClient.PgClient)
        const heard = Stream.runDrain(Stream.take(pg.listen(`run_${n}`), 1))
        const said = Effect.forever(Effect.zipRight(pg.notify(`run_${n}`, "said"), Effect.sleep("1 millis")))
        // Not a race: one that is interrupted before it has begun waits for ever.
        return Effect.map(victim(Effect.scoped(Effect.zipRight(Effect.forkScoped(said), heard))), only)
      })
  },
  {
    name: "a database that is opened and closed",
    parts: [1, 2],
    reopens: true,
    run: (world, n, victim) =>
      Effect.suspend(() => {
        const told = untold()
        const work = Database.session(inOrder<Database.Database | Session.Session>(
          tells(told),
          Effect.flatMap(Database.Database, ({ sql }) => sql`INSERT INTO items (run, part) VALUES (${n}, 1)`),
          Effect.flatMap(Database.Database, ({ sql }) => sql`INSERT INTO items (run, part) VALUES (${n}, 2)`)
        ))
        return Effect.map(
          victim(Effect.provide(work, Database.layerFrom({ environment: "test", url: world.url }))),
          (exit) => {
            told.exit = exit
            return told
          }
        )
      })
  },
  {
    name: "a database that is closed while it is used",
    parts: [1, 2],
    reopens: true,
    fails: ["DatabaseClosed"],
    run: (world, n, victim) =>
      Effect.suspend(() => {
        const told = untold()
        const write = ({ sql }: Database.Service, part: number) =>
          sql`INSERT INTO items (run, part) VALUES (${n}, ${part})`
        let working: Fiber.Fiber<unknown, unknown> = Fiber.fail("DatabaseClosed")
        const opened = Effect.scoped(Effect.gen(function*() {
          const db = yield* Database.make({ environment: "test", url: world.url })
          working = yield* Effect.forkDaemon(
            db.session(inOrder(tells(told), write(db, 1), Effect.sleep("2 millis"), write(db, 2)))
          )
          yield* Effect.sleep("1 millis")
        }))
        return Effect.zipRight(
          victim(opened),
          Effect.map(Effect.suspend(() => Fiber.await(working)), (exit) => {
            told.exit = exit
            return told
          })
        )
      })
  },
  {
    name: "a request",
    parts: [1, 2],
    run: (world, n, victim) =>
      telling(victim, (tells) =>
        DatabaseHttp.middleware()(
          inOrder(tells, world.write(n, 1), world.write(n, 2)).pipe(
            Effect.as(HttpServerResponse.empty())
          )
        ).pipe(
          Effect.provideService(HttpServerRequest.HttpServerRequest, request()),
          Effect.provideService(Database.Database, world.db),
          Effect.scoped
        ) as Effect.Effect<unknown, unknown>)
  },
  {
    name: "migrations",
    parts: [1, 2],
    partly: [],
    run: (world, n, victim) =>
      Effect.gen(function*() {
        const table = `migrations_${n}`
        const migrate = Effect.provideService(
          Migrations.run({
            loader: Migrations.fromRecord({ "0001_one": world.write(n, 1), "0002_two": world.write(n, 2) }),
            table,
            progress: () => Effect.void
          }),
          Database.Database,
          world.db
        )
        yield* victim(migrate)
        // What was applied is known to be, and what was not is applied now.
        const exit = yield* Effect.exit(migrate)
        yield* world.db.sql.unsafe(`DROP TABLE ${table}`).unprepared
        return { exit }
      })
  },
  {
    name: "a sandbox",
    parts: [],
    run: (world, n, victim) =>
      Effect.map(
        victim(Effect.scoped(Effect.flatMap(sandboxed(world.db), (db) =>
          inOrder(
            db.sql`INSERT INTO items (run, part) VALUES (${n}, 1)`,
            db.session(db.sql`INSERT INTO items (run, part) VALUES (${n}, 2)`)
          )))),
        only
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
