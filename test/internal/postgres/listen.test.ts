import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { setTimeout as sleep } from "node:timers/promises"
import { fromSqlError } from "../../../src/DatabaseError.js"
import { eventually } from "../../support/eventually.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { proxy } from "../../support/proxy.js"
import { client, type Overrides } from "./harness.js"

/** How many backends listen in a database, by the last statement of its idle connections. */
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

/** Listens from now on; what arrives can be taken. */
const heard = (pg: PgClient.PgClient, channel: string) =>
  Effect.gen(function*() {
    const messages = yield* Queue.unbounded<string>()
    const fiber = yield* Effect.forkScoped(
      Stream.runForEach(pg.listen(channel), (message) => Queue.offer(messages, message))
    )
    return { messages, fiber }
  })

/** Sends until someone hears it: afterwards the channel is listened to. */
const established = (database: string, channel: string, messages: Queue.Dequeue<string>) =>
  Effect.gen(function*() {
    yield* eventually(
      Effect.gen(function*() {
        yield* query(database, "SELECT pg_notify($1, 'probe')", [channel])
        return (yield* Queue.takeAll(messages)).length > 0
      })
    )
    // Probes that were still on their way.
    yield* query(database, "SELECT pg_notify($1, 'last probe')", [channel])
    while ((yield* Queue.take(messages)) !== "last probe") {
      // Not the last yet.
    }
  })

/** On the real clock. */
const pause = (millis: number) => Effect.promise(() => sleep(millis))

/** What was logged while the effect ran. */
const logs = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<ReadonlyArray<string>, E, R> => {
  const lines: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    lines.push(`${logLevel.label} ${String(message)}`)
  })
  return Effect.as(Effect.provide(effect, Logger.replace(Logger.defaultLogger, logger)), lines)
}

describe("postgres listen and notify", () => {
  it.live("brings payloads in order to everyone who listens, and to nobody else", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const pg = yield* pgClient(database)
      const one = yield* heard(pg, "weird \"Channel\"")
      const two = yield* heard(pg, "weird \"Channel\"")
      const other = yield* heard(pg, "other")
      yield* established(database, "weird \"Channel\"", one.messages)
      yield* established(database, "other", other.messages)
      yield* eventually(Effect.map(Queue.takeAll(two.messages), (all) => Chunk.size(all) === 0))
      const payloads = ["a", "", "b'\"\\", "ü".repeat(100)]
      for (const payload of payloads) {
        yield* pg.notify("weird \"Channel\"", payload)
      }
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Queue.takeN(one.messages, 4)), payloads)
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Queue.takeN(two.messages, 4)), payloads)
      assert.strictEqual(yield* Queue.size(other.messages), 0)
    })))

  it.live("shares one connection, opened by the first and closed after the last", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const pg = yield* pgClient(database)
      assert.strictEqual(yield* listeners(database), 0)
      const fibers = yield* Effect.forEach(["a", "b", "c"], (channel) => heard(pg, channel))
      for (const [i, channel] of ["a", "b", "c"].entries()) {
        yield* established(database, channel, fibers[i].messages)
      }
      assert.strictEqual(yield* listeners(database), 1)
      yield* Fiber.interrupt(fibers[0].fiber)
      yield* established(database, "b", fibers[1].messages)
      yield* query(database, "SELECT pg_notify('a', 'unheard')")
      yield* Fiber.interrupt(fibers[1].fiber)
      yield* Fiber.interrupt(fibers[2].fiber)
      yield* eventually(Effect.map(
        query(
          database,
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sqlayer-test' AND query LIKE '%LISTEN%'"
        ),
        (r) => r[0].n === 0
      ))
      const again = yield* heard(pg, "a")
      yield* established(database, "a", again.messages)
    })))

  it.live("survives a lost connection, says so, and hears every channel again", () =>
    Effect.gen(function*() {
      const lines = yield* logs(Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const between = yield* proxy(database)
        const pg = yield* pgClient(between.url)
        const a = yield* heard(pg, "a")
        const b = yield* heard(pg, "b")
        yield* established(database, "a", a.messages)
        yield* established(database, "b", b.messages)
        for (const how of [between.cutAll, between.resetAll]) {
          yield* between.refuse
          yield* how
          yield* Effect.sleep("200 millis")
          yield* between.accept
          yield* established(database, "a", a.messages)
          yield* established(database, "b", b.messages)
        }
        yield* query(
          database,
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlayer-test' AND datname = current_database()"
        )
        yield* established(database, "a", a.messages)
        const late = yield* heard(pg, "late")
        yield* established(database, "late", late.messages)
      })))
      assert.isAbove(lines.filter((line) => line.startsWith("WARN") && line.includes("is being replaced")).length, 2)
      assert.isAbove(lines.filter((line) => line.startsWith("INFO") && line.includes("again")).length, 2)
    }))

  it.scoped("notices when its connection has gone silent", () =>
    Effect.gen(function*() {
      const lines = yield* logs(Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const between = yield* proxy(database)
        const pg = yield* pgClient(between.url)
        const a = yield* heard(pg, "a")
        yield* established(database, "a", a.messages)
        yield* TestClock.adjust("40 seconds")
        yield* established(database, "a", a.messages)
        between.connections().forEach((each) => each.silence())
        yield* Effect.repeatN(Effect.zipRight(TestClock.adjust("10 seconds"), pause(300)), 5)
        yield* established(database, "a", a.messages)
      })))
      assert.strictEqual(lines.filter((line) => line.includes("is being replaced")).length, 1)
    }))

  it.live("waits for a server that cannot be reached yet", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const pg = yield* pgClient(own.url)
      yield* own.stop("immediate")
      const a = yield* heard(pg, "a")
      yield* Effect.sleep("300 millis")
      yield* own.start
      yield* established(own.url, "a", a.messages)
    })).pipe(logs, Effect.map((lines) => assert.include(lines.join(), "could not connect"))))

  it.live("fails when trying again cannot help", () =>
    Effect.scoped(Effect.gen(function*() {
      const pg = yield* pgClient(url(), { target: { database: "no_such_database" } })
      for (let i = 0; i < 2; i++) {
        const error = yield* Effect.flip(Stream.runDrain(pg.listen("a")))
        assert.strictEqual(fromSqlError(error)._tag, "ConnectionFailed")
      }
      // Also for who comes while the first has not left yet.
      const pull = yield* Stream.toPull(pg.listen("a"))
      yield* Effect.flip(pull)
      const late = yield* Effect.flip(Stream.runDrain(pg.listen("b")))
      assert.strictEqual(fromSqlError(late)._tag, "ConnectionFailed")
    })))

  it.live("refuses names that would never be heard", () =>
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
          const a = yield* heard(pg, "a")
          yield* established(database, "a", a.messages)
        }))
        yield* eventually(Effect.map(listeners(database), (n) => n === 0))
        return database
      }))
      assert.isString(database)
    }))
})
