/** The recipes for background work: the outbox, and jobs that one process runs at a time. */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as TestClock from "effect/TestClock"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Database, Migrations, Session } from "sqlayer"
import * as Jobs from "../../docs/recipes/jobs.js"
import * as Outbox from "../../docs/recipes/outbox.js"
import { nodeArguments } from "../support/bundledProgram.js"
import { eventually } from "../support/eventually.js"
import { freshDatabase, query } from "../support/postgres.js"
import { scopedProcess } from "../support/scopedProcess.js"
import { postgres } from "./databases.js"

const quiet = Logger.remove(Logger.defaultLogger)

const sent = (n: number) => Outbox.publish("orders", { n }).pipe(Database.session())

const waiting = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) =>
    sql<
      { readonly n: number; readonly attempts: number }
    >`SELECT (payload ->> 'n')::int AS n, attempts FROM outbox ORDER BY id`
)

const numberOf = ({ payload }: Outbox.Message) => (payload as { readonly n: number }).n

const workerProcess = (database: string, delivered: string) =>
  scopedProcess(() =>
    spawn(process.execPath, nodeArguments("test/recipes/outboxWorker.ts"), {
      env: { ...process.env, APP_ENV: "test", DATABASE_URL: database, DELIVERED: delivered },
      stdio: ["ignore", "inherit", "inherit"]
    })
  )

describe("an outbox", () => {
  it.effect("sends what is committed and nothing else, as soon as it is", () =>
    Effect.gen(function*() {
      const delivered: Array<number> = []
      yield* Effect.forkScoped(Outbox.worker((message) => Effect.sync(() => delivered.push(numberOf(message)))))
      yield* eventually(Effect.map(listeners, (count) => count === 1))
      yield* sent(1)
      yield* sent(2).pipe(Effect.zipRight(Session.rollbackOnly), Database.session())
      yield* sent(3)
      // The TestClock does not tick, so this is the work of the notifications.
      yield* eventually(Effect.sync(() => delivered.length === 2))
      assert.deepStrictEqual(delivered, [1, 3])
      yield* eventually(Effect.map(waiting, (rows) => rows.length === 0))
    }).pipe(Effect.scoped, Effect.provide(postgres({ migrations: Outbox.migrations }))))

  it.scopedLive("gives a message to one of many workers; one that fails is for later, and keeps nobody waiting", () =>
    Effect.gen(function*() {
      yield* Effect.forEach(Array.from({ length: 20 }, (_, n) => n), sent, { concurrency: 5 })
      const delivered: Array<number> = []
      const deliver = (message: Outbox.Message) =>
        Effect.gen(function*() {
          yield* Effect.sleep("5 millis")
          if (numberOf(message) === 7) {
            return yield* Effect.fail("refused")
          }
          delivered.push(numberOf(message))
        })
      const drain = Effect.repeat(Outbox.deliverNext(deliver), { while: (more) => more })
      yield* Effect.all([drain, drain, drain], { concurrency: "unbounded" })
      assert.strictEqual(delivered.length, 19)
      assert.strictEqual(new Set(delivered).size, 19)
      assert.deepStrictEqual(yield* waiting, [{ n: 7, attempts: 1 }])
    }).pipe(Effect.provide([postgres({ migrations: Outbox.migrations }), quiet])))

  it.scopedLive("loses nothing when a worker is killed", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-outbox-"))),
        (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true, force: true }))
      )
      const file = Path.join(directory, "delivered")
      Fs.writeFileSync(file, "")
      const delivered = () => Fs.readFileSync(file, "utf8").trim().split("\n").filter((line) => line !== "")
      yield* Effect.gen(function*() {
        yield* Migrations.run({ ...Outbox.migrations, progress: () => Effect.void })
        const sql = yield* SqlClient.SqlClient
        yield* Effect.forEach(Array.from({ length: 30 }, (_, n) => n), sent, { concurrency: 5 })
        const ids = (yield* sql<{ readonly id: string }>`SELECT id FROM outbox`).map(({ id }) => id)
        const child = yield* workerProcess(url, file)
        yield* eventually(Effect.sync(() => delivered().length === 3), { timeout: "55 seconds" })
        child.kill("SIGKILL")
        yield* Effect.promise(() => once(child, "exit"))
        yield* Effect.forkScoped(Outbox.worker(({ id }) => Effect.sync(() => Fs.appendFileSync(file, `${id}\n`))))
        yield* eventually(Effect.map(waiting, (rows) => rows.length === 0), { timeout: "55 seconds" })
        assert.deepStrictEqual(new Set(delivered()), new Set(ids))
        // What was being delivered when the process was killed is delivered again.
        assert.strictEqual(delivered().length, ids.length + 1)
      }).pipe(Effect.scoped, Effect.provide(Database.layerFrom({ environment: "test", url })))
    }))
})

/** How many connections listen, by their last statement, which is not this one. */
const listeners = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.map(
    sql`SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'LIST[E]N'`,
    (rows) => rows.length
  ))

/** Two processes, as far as the database can tell. */
const two = Effect.gen(function*() {
  const url = yield* freshDatabase
  const database = Effect.map(
    Layer.build(Database.layerFrom({ environment: "test", url, silence: "1 second" })),
    (context) => <A, E>(effect: Effect.Effect<A, E, Database.Database | SqlClient.SqlClient>) =>
      Effect.provide(effect, context)
  )
  return { url, one: yield* database, other: yield* database }
})

describe("a job", () => {
  for (const [name, alone] of [["in a session", Jobs.exclusively], ["of its own sessions", Jobs.leading]] as const) {
    it.scopedLive(`${name} runs in one process at a time`, () =>
      Effect.gen(function*() {
        const { one, other } = yield* two
        const started = yield* Deferred.make<void>()
        const finish = yield* Deferred.make<void>()
        const job = alone("nightly")(
          Effect.as(Effect.zipRight(Deferred.succeed(started, undefined), Deferred.await(finish)), 1)
        )
        const first = yield* Effect.fork(one(job))
        yield* Deferred.await(started)
        assert.deepStrictEqual(yield* other(job), Option.none())
        assert.deepStrictEqual(yield* other(alone("another")(Effect.succeed(2))), Option.some(2))
        yield* Deferred.succeed(finish, undefined)
        assert.deepStrictEqual(yield* Fiber.join(first), Option.some(1))
        assert.deepStrictEqual(yield* other(job), Option.some(1))
        // A job that fails, or is interrupted, releases the lock too.
        assert.isTrue(Exit.isFailure(yield* Effect.exit(one(alone("nightly")(Effect.fail("no"))))))
        assert.deepStrictEqual(yield* other(job), Option.some(1))
        const running = yield* Deferred.make<void>()
        const endless = yield* Effect.fork(
          one(alone("nightly")(Effect.zipRight(Deferred.succeed(running, undefined), Effect.never)))
        )
        yield* Deferred.await(running)
        yield* Fiber.interrupt(endless)
        assert.deepStrictEqual(yield* other(job), Option.some(1))
      }))

    it.scopedLive(`${name} has released its lock when it has ended`, () =>
      Effect.gen(function*() {
        const { one, other } = yield* two
        const job = alone("nightly")(Effect.as(Effect.sleep("10 millis"), 1))
        for (const process of Array.from({ length: 10 }, () => [one, other]).flat()) {
          assert.deepStrictEqual(yield* process(job), Option.some(1))
        }
      }))
  }

  it.scoped("that has lost its lock with its connection is interrupted", () =>
    Effect.gen(function*() {
      const { one, other, url } = yield* two
      const running = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(
        one(Jobs.leading("nightly")(Effect.zipRight(Deferred.succeed(running, undefined), Effect.never)))
      )
      yield* Deferred.await(running)
      yield* query(
        url,
        `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database AS d ON d.oid = database
          WHERE locktype = 'advisory' AND datname = current_database()`
      )
      // It is noticed when the connection is used, every five seconds.
      yield* eventually(Effect.zipRight(TestClock.adjust("5 seconds"), Effect.map(Fiber.poll(fiber), Option.isSome)))
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.strictEqual(error._tag, "ConnectionLost")
      assert.deepStrictEqual(yield* other(Jobs.leading("nightly")(Effect.succeed(1))), Option.some(1))
    }).pipe(Effect.provide(quiet)))
})
