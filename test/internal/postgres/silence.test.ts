import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, fromSqlError } from "../../../src/DatabaseError.js"
import type { Connection } from "../../../src/internal/driver.js"
import { SilenceMonitor, type Watched } from "../../../src/internal/postgres/silence.js"
import { eventually } from "../../support/eventually.js"
import { connections } from "../../support/observe.js"
import { isInstalled, pgbouncer } from "../../support/pgbouncer.js"
import { freshDatabase, query, server } from "../../support/postgres.js"
import { type Proxy, proxy } from "../../support/proxy.js"
import { connected, connection, executing, type Overrides, promptly, rows } from "./harness.js"

const settings = { silence: Duration.millis(300), connectTimeout: Duration.millis(700) }
const quickly: Overrides = { settings }

const failure = <A>(effect: Effect.Effect<A, any>): Effect.Effect<DatabaseError> =>
  Effect.map(
    Effect.flip(effect),
    (error) => error._tag === "SqlError" ? fromSqlError(error) : error as DatabaseError
  ) as Effect.Effect<DatabaseError>

/** The error of an effect that nothing ends but the silence. */
const silenced = <A>(effect: Effect.Effect<A, any>) => promptly(failure(effect))

const isSilence = (error: DatabaseError, tag: DatabaseError["_tag"] = "ConnectionLost") => {
  assert.strictEqual(error._tag, tag, error.message)
  assert.match(error.message, /the server has said nothing for \d+\.\d seconds and does not answer/)
}

const signal = (pid: number, name: NodeJS.Signals) =>
  Effect.acquireRelease(
    Effect.sync(() => process.kill(pid, name)),
    () => Effect.sync(() => process.kill(pid, "SIGCONT"))
  )

const block = (millis: number): void => {
  const end = performance.now() + millis
  while (performance.now() < end) {
    // Nothing else runs meanwhile.
  }
}

class Fake implements Watched {
  isWaiting = true
  activity = 0
  readonly silences: Array<number> = []
  readonly probes: Array<(isAlive: boolean) => void> = []
  constructor(readonly address: string) {}
  readonly probe = (onAnswer: (isAlive: boolean) => void): void => void this.probes.push(onAnswer)
  readonly onSilence = (millis: number): void => void this.silences.push(millis)
}

describe("the silence monitor", () => {
  it.live("asks a server once for all connections that wait for it, and ends these alone", () =>
    Effect.gen(function*() {
      const monitor = new SilenceMonitor(100)
      const [one, two, other, idle, busy] = ["a", "a", "b", "a", "a"].map((address) => new Fake(address))
      const all = [one, two, other, idle, busy]
      idle.isWaiting = false
      all.forEach((each) => monitor.watch(each))
      const chatter = setInterval(() => busy.activity++, 5)
      const probes = () => all.flatMap((each) => each.probes)
      yield* eventually(Effect.sync(() => probes().length === 2))
      yield* Effect.sleep("150 millis")
      assert.strictEqual(probes().length, 2)
      probes().forEach((answer) => answer(false))
      clearInterval(chatter)
      assert.deepStrictEqual(all.map(({ silences }) => silences.length), [1, 1, 1, 0, 0])
      assert.isAtLeast(one.silences[0], 250)
      all.forEach((each) => monitor.unwatch(each))
    }))

  it.live("ends nothing if the server lives, was heard meanwhile, or the connection was closed", () =>
    Effect.gen(function*() {
      const monitor = new SilenceMonitor(50)
      const [alive, heard, closed, done] = ["a", "b", "c", "d"].map((address) => new Fake(address))
      const all = [alive, heard, closed, done]
      all.forEach((each) => monitor.watch(each))
      yield* eventually(Effect.sync(() => all.every(({ probes }) => probes.length === 1)))
      heard.activity++
      done.isWaiting = false
      monitor.unwatch(closed)
      alive.probes[0](true)
      ;[heard, closed, done].forEach(({ probes }) => probes[0](false))
      yield* eventually(Effect.sync(() => alive.probes.length === 2))
      assert.deepStrictEqual(all.flatMap(({ silences }) => silences), [])
      all.forEach((each) => monitor.unwatch(each))
    }))

  it.live("a blocked event loop is not taken for a silent server", () =>
    Effect.gen(function*() {
      const monitor = new SilenceMonitor(100)
      const each = new Fake("a")
      monitor.watch(each)
      yield* Effect.sleep("5 millis")
      block(400)
      yield* Effect.sleep("15 millis")
      assert.deepStrictEqual(each.probes, [])
      monitor.unwatch(each)
    }))
})

/** A connection through a proxy to a new database, whose server may fall silent. */
const proxied = Effect.gen(function*() {
  const database = yield* freshDatabase
  const between = yield* proxy(database)
  const { connection: c, losses } = yield* connected(between.url, quickly)
  return { database, between, c, losses }
})

const fallSilent = (how: "silent" | "refused" | "reset", between: Proxy) =>
  how === "silent"
    ? between.silence
    : Effect.sync(() => between.connections().forEach((each) => each.silence())).pipe(
      Effect.zipRight(how === "refused" ? between.refuse : between.onClientData(() => "reset"))
    )

describe("a server that falls silent", () => {
  for (const how of ["silent", "refused", "reset"] as const) {
    it.live(`ends a statement, and those behind it: new connections are ${how}`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { between, c, database, losses } = yield* proxied
        const waiting = yield* Effect.fork(silenced(rows(c, "SELECT pg_sleep(60)")))
        const queued = yield* Effect.fork(silenced(rows(c, "SELECT 1")))
        yield* executing(database, c)
        yield* fallSilent(how, between)
        isSilence(yield* Fiber.join(waiting))
        isSilence(yield* Fiber.join(queued))
        assert.strictEqual(c.status(), "closed")
        assert.deepStrictEqual(losses.map(({ _tag }) => _tag), ["ConnectionLost"])
      })))
  }

  it.live("ends a statement that is sent when it is silent already, and one in a transaction", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      const other = yield* connection(between.url, quickly)
      yield* other.begin({})
      yield* rows(other, "SELECT 1")
      yield* Effect.sleep("500 millis")
      yield* between.silence
      const errors = yield* Effect.all([silenced(rows(c, "SELECT 1")), silenced(rows(other, "SELECT 2"))], {
        concurrency: "unbounded"
      })
      errors.forEach((error) => isSilence(error))
    })))

  it.live("ends what waits for a stopped server", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server()
      const c = yield* connection(own.url, quickly)
      const waiting = yield* Effect.fork(silenced(rows(c, "SELECT pg_sleep(60)")))
      yield* executing(own.url, c)
      yield* own.pause
      isSilence(yield* Fiber.join(waiting))
      yield* own.resume
    })), 240_000)

  it.live("ends a stream that waits for rows", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      const stream = c.executeStream("SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) AS n", [], undefined)
      let count = 0
      const error = yield* silenced(Stream.runForEach(stream, () => ++count === 5_000 ? between.silence : Effect.void))
      isSilence(error)
      assert.isBelow(count, 100_000)
    })))

  it.live("ends a start-up after the connect timeout", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between } = yield* proxied
      yield* between.silence
      const error = yield* silenced(Effect.scoped(connection(between.url, quickly)))
      assert.strictEqual(error._tag, "ConnectionFailed")
    })))

  it.live("while it is asked, an interruption is prompt", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const pause of [100, 500, 800]) {
        const { between, c, database } = yield* proxied
        const waiting = yield* Effect.fork(rows(c, "SELECT pg_sleep(60)"))
        yield* executing(database, c)
        yield* between.silence
        yield* Effect.sleep(pause)
        yield* promptly(Fiber.interrupt(waiting))
      }
    })))

  it.live("leaves the outcome of a COMMIT unknown", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c } = yield* proxied
      yield* c.executeRaw("CREATE TABLE kept (id int)", [])
      yield* c.begin({})
      yield* rows(c, "INSERT INTO kept VALUES (1)")
      yield* between.onClientData((chunk) => chunk.includes("COMMIT") ? "silence" : "pass")
      yield* Effect.fork(Effect.zipRight(Effect.sleep("100 millis"), between.silence))
      isSilence(yield* silenced(c.commit), "CommitOutcomeUnknown")
    })))

  it.live("after a COMMIT that `verified` looks up when it answers again", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const between = yield* proxy(database)
      yield* query(database, "CREATE TABLE kept (id int)")
      const db = yield* Database.make({ url: between.url, name: "silent", ...settings })
      for (const id of [1, 2]) {
        // The COMMIT arrives or does not, and its answer never does. New connections are answered only after the loss.
        let isCommitting = false
        const silence = () => {
          isCommitting = true
          between.connections().forEach((each) => each.silence())
        }
        yield* between.onClientData((chunk) => {
          if (!chunk.includes("COMMIT")) {
            return isCommitting && chunk.length < 200 ? "drop" : "pass"
          }
          if (id === 2) {
            silence()
            return "drop"
          }
          setTimeout(silence, 0)
          return "pass"
        })
        if (id === 1) {
          yield* between.onServerData((chunk) => chunk.includes("COMMIT") ? "silence" : "pass")
        }
        const session = yield* Effect.fork(Effect.exit(
          db.session(db.sql`INSERT INTO kept VALUES (${id})`, { commit: "verified" })
        ))
        yield* eventually(Effect.sync(() => isCommitting))
        yield* Effect.sleep("1300 millis")
        yield* between.onClientData(undefined)
        yield* between.onServerData(undefined)
        const exit = yield* promptly(Fiber.join(session))
        const kept = yield* query(database, "SELECT 1 FROM kept WHERE id = $1", [id])
        assert.deepStrictEqual([exit._tag, kept.length], id === 1 ? ["Success", 1] : ["Failure", 0], String(exit))
      }
    })), 240_000)
})

describe("a server that lives", () => {
  const isAnswered = (c: Connection, sql = "SELECT pg_sleep(2.5), 'done' AS state") =>
    Effect.map(rows(c, sql), ([row]) => assert.strictEqual((row as { readonly state: string }).state, "done"))

  it.live("is never cut off, however long a statement takes", () =>
    Effect.scoped(Effect.gen(function*() {
      const { between, c, losses } = yield* proxied
      yield* isAnswered(c)
      yield* c.begin({})
      yield* isAnswered(c)
      yield* c.rollback
      assert.isAtLeast(between.connections().length, 1)
      assert.deepStrictEqual(losses, [])
    })), 240_000)

  it.live("lives also if it rejects the connection on which it is asked", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const role = `silent_${new URL(database).pathname.slice(1)}`
      yield* Effect.acquireRelease(
        query(database, `CREATE ROLE ${role} LOGIN PASSWORD 'before'`),
        () => query(database, `DROP ROLE ${role}`)
      )
      for (const change of [`ALTER ROLE ${role} PASSWORD 'after'`, `ALTER ROLE ${role} CONNECTION LIMIT 0`]) {
        yield* query(database, `ALTER ROLE ${role} PASSWORD 'before'`)
        yield* Effect.scoped(Effect.gen(function*() {
          const c = yield* connection(database, {
            settings,
            target: { username: role, password: Redacted.make("before") }
          })
          yield* query(database, change)
          yield* isAnswered(c)
        }))
      }
    })), 240_000)

  it.live.skipIf(!isInstalled)(
    "lives also behind a pooler all of whose connections are in use",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const pooled = yield* pgbouncer(yield* freshDatabase, "transaction", 1)
        const c = yield* connection(pooled, quickly)
        const other = yield* connection(pooled, quickly)
        yield* Effect.all([isAnswered(c), isAnswered(other)], { concurrency: "unbounded" })
      })),
    240_000
  )

  it.live(
    "is not cut off because the event loop was blocked, and leaves no connection behind",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { c, database } = yield* proxied
        const waiting = yield* Effect.fork(isAnswered(c, "SELECT pg_sleep(4), 'done' AS state"))
        for (let i = 0; i < 3; i++) {
          yield* Effect.sleep("150 millis")
          block(900)
        }
        yield* Fiber.join(waiting)
        yield* eventually(Effect.map(connections(database), ({ total }) => total === 1))
      })),
    240_000
  )

  it.live("is waited for as long as it takes if the silence is 0", () =>
    Effect.scoped(Effect.gen(function*() {
      const database = yield* freshDatabase
      const between = yield* proxy(database)
      const c = yield* connection(between.url, { settings: { ...settings, silence: Duration.zero } })
      yield* between.silence
      const waiting = yield* Effect.fork(rows(c, "SELECT 'done' AS state"))
      yield* Effect.sleep("2 seconds")
      yield* between.unsilence
      assert.deepStrictEqual(yield* Fiber.join(waiting), [{ state: "done" }])
    })), 240_000)

  it.live(
    "with a stopped backend: not the silence ends a statement, but the statement timeout",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const own = yield* server()
        const c = yield* connection(own.url, quickly)
        const timed = yield* connection(own.url, {
          settings: { ...settings, statementTimeout: Duration.millis(500) }
        })
        const committing = yield* connection(own.url, {
          settings: { ...settings, statementTimeout: Duration.millis(500) }
        })
        yield* committing.begin({})
        yield* rows(committing, "SELECT 1")
        for (const { id } of [c, timed, committing]) {
          yield* signal(id, "SIGSTOP")
        }
        const commit = yield* Effect.fork(failure(committing.commit))
        const waiting = yield* Effect.fork(rows(c, "SELECT 'done' AS state"))
        const [duration, error] = yield* Effect.timed(promptly(failure(rows(timed, "SELECT 1"))))
        assert.include(["ConnectionLost", "StatementTimeout"], error._tag)
        assert.include(error.message, "statement timeout")
        assert.isAtLeast(Duration.toMillis(duration), 2_500)
        assert.strictEqual(timed.status(), "closed")
        const unknown = yield* Fiber.join(commit)
        assert.strictEqual(unknown._tag, "CommitOutcomeUnknown")
        assert.include(unknown.message, "statement timeout")
        assert.strictEqual(c.status(), "active")
        process.kill(c.id, "SIGCONT")
        assert.deepStrictEqual(yield* Fiber.join(waiting), [{ state: "done" }])
      })),
    240_000
  )
})
