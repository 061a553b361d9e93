import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { client, type Overrides } from "./harness.js"

/** The number of backends of a database whose last statement contains LISTEN. */
const listeners = (database: string) =>
  Effect.map(
    query(
      database,
      "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN %' " +
        "AND pid <> pg_backend_pid()"
    ),
    (r) => r[0].n as number
  )

const pgClient = (to: string, overrides: Overrides = {}) =>
  Effect.map(client(to, overrides), (context) => Context.get(context, PgClient.PgClient))

/** Subscribes to a channel, and collects its payloads. */
const subscribe = (pg: PgClient.PgClient, channel: string) =>
  Effect.gen(function*() {
    const messages = yield* Queue.unbounded<string>()
    const fiber = yield* Effect.forkScoped(
      Stream.runForEach(pg.listen(channel), (message) => Queue.offer(messages, message))
    )
    return { messages, fiber }
  })

/** Notifies until a payload arrives, which shows that the connection listens to the channel. */
const awaitListening = (database: string, channel: string, messages: Queue.Dequeue<string>) =>
  Effect.gen(function*() {
    yield* eventually(
      Effect.gen(function*() {
        yield* query(database, "SELECT pg_notify($1, 'probe')", [channel])
        return (yield* Queue.takeAll(messages)).length > 0
      })
    )
    // Skips the probes that arrive later.
    yield* query(database, "SELECT pg_notify($1, 'last probe')", [channel])
    yield* Effect.repeat(Queue.take(messages), { until: (payload) => payload === "last probe" })
  })

/** Runs an effect with a logger that collects the lines. */
const withLog = <A, E, R>(run: (lines: ReadonlyArray<string>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel.label} ${String(message)}`)
    })
    return Effect.provide(run(lines), Logger.replace(Logger.defaultLogger, logger))
  })

describe("postgres listen and notify", () => {
  it.live("delivers the payloads of a channel in order to each of its subscribers", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const pg = yield* pgClient(database)
      const one = yield* subscribe(pg, "weird \"Channel\"")
      const two = yield* subscribe(pg, "weird \"Channel\"")
      const other = yield* subscribe(pg, "other")
      yield* awaitListening(database, "weird \"Channel\"", one.messages)
      yield* awaitListening(database, "other", other.messages)
      yield* eventually(Effect.map(Queue.takeAll(two.messages), (all) => Chunk.size(all) === 0))
      const payloads = ["a", "", "b'\"\\", "ü".repeat(100)]
      for (const payload of payloads) {
        yield* pg.notify("weird \"Channel\"", payload)
      }
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Queue.takeN(one.messages, 4)), payloads)
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Queue.takeN(two.messages, 4)), payloads)
      assert.strictEqual(yield* Queue.size(other.messages), 0)
    })))

  it.live("shares one connection, opened by the first subscriber and closed by the last", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const pg = yield* pgClient(database)
      assert.strictEqual(yield* listeners(database), 0)
      const fibers = yield* Effect.forEach(["a", "b", "c"], (channel) => subscribe(pg, channel))
      for (const [i, channel] of ["a", "b", "c"].entries()) {
        yield* awaitListening(database, channel, fibers[i].messages)
      }
      assert.strictEqual(yield* listeners(database), 1)
      yield* Fiber.interrupt(fibers[0].fiber)
      yield* awaitListening(database, "b", fibers[1].messages)
      yield* query(database, "SELECT pg_notify('a', 'unsubscribed')")
      yield* Fiber.interrupt(fibers[1].fiber)
      yield* Fiber.interrupt(fibers[2].fiber)
      yield* eventually(Effect.map(
        query(
          database,
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqlayer-test' AND query LIKE '%LISTEN%'"
        ),
        (r) => r[0].n === 0
      ))
      const again = yield* subscribe(pg, "a")
      yield* awaitListening(database, "a", again.messages)
    })))

  it.live("survives a lost connection, says so, and hears every channel again", () =>
    withLog((lines) =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const between = yield* proxy(database)
        const pg = yield* pgClient(between.url)
        const a = yield* subscribe(pg, "a")
        const b = yield* subscribe(pg, "b")
        yield* awaitListening(database, "a", a.messages)
        yield* awaitListening(database, "b", b.messages)
        for (const how of [between.cutAll, between.resetAll]) {
          yield* between.refuse
          yield* how
          yield* Effect.sleep("200 millis")
          yield* between.accept
          yield* awaitListening(database, "a", a.messages)
          yield* awaitListening(database, "b", b.messages)
        }
        yield* query(
          database,
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlayer-test' AND datname = current_database()"
        )
        yield* awaitListening(database, "a", a.messages)
        const late = yield* subscribe(pg, "late")
        yield* awaitListening(database, "late", late.messages)
        assert.isAbove(lines.filter((line) => line.startsWith("WARN") && line.includes("is being replaced")).length, 2)
        assert.isAbove(lines.filter((line) => line.startsWith("INFO") && line.includes("again")).length, 2)
      }))
    ))

  it.live("replaces a connection that has gone silent, and none that answers", () =>
    withLog((lines) =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const between = yield* proxy(database)
        const pg = yield* pgClient(between.url, {
          settings: { silence: Duration.millis(300), connectTimeout: Duration.millis(700) }
        })
        const a = yield* subscribe(pg, "a")
        yield* awaitListening(database, "a", a.messages)
        let pings = 0
        yield* between.onServerData((chunk) => {
          pings += chunk.includes("I\0\0\0\x04") ? 1 : 0
          return "pass"
        })
        const replacements = () => lines.filter((line) => line.includes("is being replaced"))
        yield* eventually(Effect.sync(() => pings > 2))
        yield* awaitListening(database, "a", a.messages)
        assert.deepStrictEqual(replacements(), [])
        yield* between.silence
        yield* eventually(Effect.sync(() => replacements().length > 0))
        assert.include(replacements()[0], "the server has said nothing for")
        between.connections().forEach((each) => each.cut())
        yield* between.unsilence
        yield* awaitListening(database, "a", a.messages)
      }))
    ))

  it.scoped("is checked in real time: a simulated day is over at once", () =>
    Effect.gen(function*() {
      const database = yield* freshDatabase
      const pg = yield* pgClient(database)
      const a = yield* subscribe(pg, "a")
      yield* awaitListening(database, "a", a.messages)
      const before = performance.now()
      yield* TestClock.adjust("1 day")
      assert.isBelow(performance.now() - before, 60_000)
      yield* awaitListening(database, "a", a.messages)
    }))

  it.live("waits for a server that cannot be reached yet", () =>
    withLog((lines) =>
      Effect.scoped(Effect.gen(function*() {
        const own = yield* server()
        const pg = yield* pgClient(own.url)
        yield* own.stop("immediate")
        const a = yield* subscribe(pg, "a")
        yield* eventually(Effect.sync(() => lines.some((line) => line.includes("could not connect"))))
        yield* own.start
        yield* awaitListening(own.url, "a", a.messages)
      }))
    ))

  it.live("fails on an error that is not retryable", () =>
    Effect.scoped(Effect.gen(function*() {
      const pg = yield* pgClient(url(), { target: { database: "no_such_database" } })
      for (let i = 0; i < 2; i++) {
        const error = yield* Effect.flip(Stream.runDrain(pg.listen("a")))
        assert.strictEqual(fromSqlError(error)._tag, "ConnectionFailed")
      }
      // Also for a subscriber that joins before the first has left.
      const pull = yield* Stream.toPull(pg.listen("a"))
      yield* Effect.flip(pull)
      const late = yield* Effect.flip(Stream.runDrain(pg.listen("b")))
      assert.strictEqual(fromSqlError(late)._tag, "ConnectionFailed")
    })))

  it.live("rejects channel names that the server would truncate or cannot have", () =>
    Effect.scoped(Effect.gen(function*() {
      const pg = yield* pgClient(url())
      for (const name of ["", "x".repeat(64), "ü".repeat(32), "a\0b"]) {
        assert.strictEqual(fromSqlError(yield* Effect.flip(Stream.runDrain(pg.listen(name))))._tag, "InvalidData")
        assert.strictEqual(fromSqlError(yield* Effect.flip(pg.notify(name, "x")))._tag, "InvalidData")
      }
      const long = yield* Effect.flip(pg.notify("a", "x".repeat(8_000)))
      assert.strictEqual(fromSqlError(long)._tag, "InvalidData")
    })))

  it.live("listening ends with the client's scope", () =>
    Effect.gen(function*() {
      const database = yield* Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        yield* Effect.scoped(Effect.gen(function*() {
          const pg = yield* pgClient(database)
          const a = yield* subscribe(pg, "a")
          yield* awaitListening(database, "a", a.messages)
        }))
        yield* eventually(Effect.map(listeners(database), (n) => n === 0))
        return database
      }))
      assert.isString(database)
    }))
})
