/** What is notified on a channel, and what is missed. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Database from "../src/Database.js"
import { eventually } from "./support/eventually.js"
import { freshDatabase, query, server } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"

/** Runs an effect with a logger that collects the lines. */
const withLog = <A, E, R>(run: (lines: ReadonlyArray<string>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel.label} ${String(message)}`)
    })
    return Effect.provide(run(lines), Logger.replace(Logger.defaultLogger, logger))
  })

/** Subscribes to a channel, and waits until messages arrive. */
const subscribe = (
  database: Database.Service,
  channel: string
): Effect.Effect<Queue.Dequeue<Database.Notification>, SqlError, Scope.Scope> =>
  Effect.gen(function*() {
    const received = yield* Queue.unbounded<Database.Notification>()
    yield* Effect.forkScoped(
      Stream.runForEach(database.notifications(channel), (notification) => Queue.offer(received, notification))
    )
    yield* heard(database, channel, received)
    return received
  })

/** Notifies until a message arrives. Gives what has arrived before it. */
const heard = (database: Database.Service, channel: string, received: Queue.Dequeue<Database.Notification>) =>
  Effect.gen(function*() {
    const before: Array<string> = []
    yield* eventually(Effect.gen(function*() {
      yield* Effect.ignore(database.sql`SELECT pg_notify(${channel}, 'probe')`)
      const arrived = Chunk.toReadonlyArray(yield* Queue.takeAll(received))
      before.push(...arrived.filter((each) => each._tag === "Gap").map(({ _tag }) => _tag))
      return arrived.some((each) => each._tag === "Message")
    }))
    yield* database.sql`SELECT pg_notify(${channel}, 'last')`
    yield* Effect.repeat(Queue.take(received), {
      until: (each) => each._tag === "Message" && each.payload === "last"
    })
    return before
  })

describe("notifications", () => {
  it.scopedLive("are the messages of a channel, sent with the commit of their session", () =>
    Effect.gen(function*() {
      const database = yield* Database.make({ environment: "test", url: yield* freshDatabase })
      const { session, sql } = database
      const received = yield* subscribe(database, "a")
      const other = yield* subscribe(database, "b")
      yield* session(Effect.zipRight(sql`SELECT pg_notify('a', 'one')`, sql`NOTIFY a`))
      yield* Effect.exit(session(Effect.zipRight(sql`SELECT pg_notify('a', 'no')`, Effect.fail("mine"))))
      yield* sql`SELECT pg_notify('a', 'two')`
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Queue.takeN(received, 3)), [
        { _tag: "Message", payload: "one" },
        { _tag: "Message", payload: "" },
        { _tag: "Message", payload: "two" }
      ])
      assert.strictEqual(yield* Queue.size(other), 0)
    }))

  it.scopedLive("a loss is one gap on each channel, and one line of the log, however long it takes", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const between = yield* proxy(yield* freshDatabase)
        const database = yield* Database.make({ environment: "test", url: between.url, connectTimeout: "200 millis" })
        const a = yield* subscribe(database, "a")
        const b = yield* subscribe(database, "b")
        for (const loss of [1, 2]) {
          yield* between.refuse
          yield* between.cutAll
          // Long enough for several attempts to connect.
          yield* Effect.sleep("1500 millis")
          yield* between.accept
          assert.deepStrictEqual(yield* heard(database, "a", a), ["Gap"])
          assert.deepStrictEqual(yield* heard(database, "b", b), ["Gap"])
          const warnings = lines.filter((line) => line.includes("listens for notifications"))
          assert.strictEqual(warnings.length, loss)
        }
        // One that subscribes now has missed nothing.
        const late = yield* Stream.runCollect(Stream.take(
          Stream.merge(
            database.notifications("a"),
            Stream.drain(Stream.repeatEffect(Effect.delay(database.sql`SELECT pg_notify('a', 'late')`, "50 millis")))
          ),
          1
        ))
        assert.deepStrictEqual(Chunk.toReadonlyArray(late), [{ _tag: "Message", payload: "late" }])
      })
    ))

  it.scopedLive("survive a failover, whatever kind of server sessions may use", () =>
    Effect.gen(function*() {
      const first = yield* server()
      const second = yield* server()
      const standby = Path.join("data", "standby.signal")
      yield* second.stop("fast")
      Fs.writeFileSync(Path.join(second.socketDir, standby), "")
      yield* second.start
      const url = new URL(first.url)
      // The standby stands first.
      const hosts = `127.0.0.1:${second.port},127.0.0.1:${first.port}`
      const database = yield* Database.make({
        environment: "test",
        url: `postgres://${url.username}:${url.password}@${hosts}${url.pathname}?target_session_attrs=any`
      })
      const received = yield* Queue.unbounded<Database.Notification>()
      const fiber = yield* Effect.forkScoped(
        Stream.runForEach(database.notifications("a"), (notification) => Queue.offer(received, notification))
      )
      const arrivesFrom = (primary: string) =>
        eventually(Effect.gen(function*() {
          yield* query(primary, "SELECT pg_notify('a', $1)", [primary])
          const arrived = Chunk.toReadonlyArray(yield* Queue.takeAll(received))
          return arrived.some((each) => each._tag === "Message" && each.payload === primary)
        }))
      yield* arrivesFrom(first.url)
      yield* first.stop("fast")
      Fs.writeFileSync(Path.join(first.socketDir, standby), "")
      yield* first.start
      // For a moment there are only standbys.
      yield* Effect.sleep("500 millis")
      assert.isNull(yield* fiber.poll.pipe(Effect.map((exit) => exit._tag === "None" ? null : exit.value)))
      yield* query(second.url, "SELECT pg_promote()")
      yield* arrivesFrom(second.url)
    }))

  it.scopedLive("wait while the server is a standby, also for who subscribes then", () =>
    Effect.gen(function*() {
      const only = yield* server()
      const database = yield* Database.make({ environment: "test", url: only.url })
      const received = yield* Queue.unbounded<Database.Notification>()
      const subscribe = Effect.fork(
        Stream.runForEach(database.notifications("a"), (notification) => Queue.offer(received, notification))
      )
      const arrives = eventually(Effect.gen(function*() {
        yield* query(only.url, "SELECT pg_notify('a', 'sent')")
        return (yield* Queue.takeAll(received)).length > 0
      }))
      const first = yield* subscribe
      yield* arrives
      yield* Fiber.interrupt(first)
      yield* only.stop("fast")
      Fs.writeFileSync(Path.join(only.socketDir, "data", "standby.signal"), "")
      yield* only.start
      const second = yield* subscribe
      yield* Effect.sleep("500 millis")
      assert.strictEqual((yield* second.poll)._tag, "None")
      yield* query(only.url, "SELECT pg_promote()")
      yield* arrives
      yield* Fiber.interrupt(second)
    }))

  it.scopedLive("are refused where the database has none", () =>
    Effect.gen(function*() {
      const database = yield* Database.make({ environment: "test", url: ":memory:" })
      const error = yield* Effect.flip(Stream.runDrain(database.notifications("a")))
      assert.strictEqual(error._tag, "InvalidStatement")
    }))
})
