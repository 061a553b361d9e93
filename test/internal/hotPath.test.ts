/** What a statement and a session do without: counted, not timed. */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Statement from "@effect/sql/Statement"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { vi } from "vitest"
import * as Database from "../../src/Database.js"
import { type Connection, Interceptor } from "../../src/internal/driver.js"
import { TextCache } from "../../src/internal/sqlClient/texts.js"
import { changedConnections } from "../support/changedConnections.js"
import { forEachDialect } from "../support/dialects.js"
import { FiberCounter } from "../support/fiberCounter.js"

const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** A tracer of an application, which sees what Effect's own keeps to itself. */
const counting = (names: Array<string>): Tracer.Tracer =>
  Tracer.make({
    span: (name, ...rest) => {
      names.push(name)
      return native.span(name, ...rest)
    },
    context: (f) => f()
  })

/** An embedded database between whose connection and sqlayer something stands. */
const embedded = (change: (connection: Connection) => Partial<Connection>, compiled: Array<string> = []) =>
  Effect.provideService(
    Database.make({ url: ":memory:", environment: "test" }),
    Interceptor,
    (driver) =>
      Effect.succeed({
        ...changedConnections(driver, change),
        compiler: Object.create(driver.compiler, {
          compile: {
            value: (...args: Parameters<Statement.Compiler["compile"]>) => {
              const result = driver.compiler.compile(...args)
              compiled.push(result[0])
              return result
            }
          }
        }) as Statement.Compiler
      })
  )

forEachDialect((name, layer) =>
  describe(`on ${name}`, () => {
    const work = Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`SELECT ${1} AS n`
      yield* Database.session(Effect.zipRight(sql`SELECT ${2} AS n`, Database.session(sql`SELECT ${3} AS n`)))
    })
    const streaming = Effect.flatMap(SqlClient.SqlClient, (sql) => Stream.runDrain(sql`SELECT ${4} AS n`.stream))

    it.live("a span is made where somebody sees it, and only there", () =>
      Effect.gen(function*() {
        const all = Effect.zipRight(work, streaming)
        yield* all
        const seen: Array<string> = []
        yield* Effect.withTracer(all, counting(seen))
        assert.deepStrictEqual(seen, [
          "SELECT",
          "sql.transaction",
          "SELECT",
          "sql.transaction",
          "SELECT",
          "SELECT"
        ])
        yield* all.pipe(Effect.withTracerEnabled(false), Effect.withTracer(counting(seen)))
        assert.lengthOf(seen, 6)
        const made = vi.spyOn(native, "span")
        const count = yield* Effect.ensuring(
          Effect.map(all, () => made.mock.calls.length),
          Effect.sync(() => made.mockRestore())
        )
        assert.strictEqual(count, 0)
      }).pipe(Effect.provide(layer)))

    it.live("without a tracer the span of a session's code is the application's own, and a transformer still has one", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const inside = yield* Effect.withSpan(Database.session(Effect.currentSpan), "mine")
        assert.strictEqual(inside.name, "mine")
        const none = yield* Database.session(Effect.option(Effect.currentSpan))
        assert.isTrue(Option.isNone(none))
        const spans: Array<string> = []
        yield* Statement.withTransformer(sql`SELECT 1`, (statement, _sql, _refs, span) => {
          spans.push(span.name)
          return Effect.succeed(statement)
        })
        assert.deepStrictEqual(spans, ["SELECT"])
      }).pipe(Effect.provide(layer)))

    it.live("no statement and no session starts a fiber", () =>
      Effect.gen(function*() {
        yield* work
        const counter = new FiberCounter()
        yield* Effect.supervised(work, counter)
        yield* Effect.supervised(Effect.exit(Database.session(Effect.zipRight(work, Effect.fail("undone")))), counter)
        assert.strictEqual(counter.fibers, 0)
      }).pipe(Effect.provide(layer)))

    it.live("statements need no timers of their own, and sessions one for all that end within 50 ms", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* work
        const set = vi.spyOn(globalThis, "setTimeout")
        // Effect's scheduler uses timers of no delay.
        const timers = () => set.mock.calls.filter(([, delay]) => (delay ?? 0) > 0).length
        yield* Effect.gen(function*() {
          yield* Effect.repeatN(sql`SELECT ${1} AS n`, 999)
          // The pool sets one now and then.
          assert.isBelow(timers(), 100)
          const started = performance.now()
          yield* Effect.repeatN(Database.session(Effect.void), 199)
          assert.isBelow(timers(), 100 + (performance.now() - started) / 50)
        }).pipe(Effect.ensuring(Effect.sync(() => set.mockRestore())))
      }).pipe(Effect.provide(layer)))
  })
)

describe("a template", () => {
  it.scopedLive("is compiled once where its arguments are all parameters", () =>
    Effect.gen(function*() {
      const compiled: Array<string> = []
      const { sql } = yield* embedded(() => ({}), compiled)
      const select = (a: unknown, b: unknown) =>
        sql<{ readonly a: unknown; readonly b: unknown }>`SELECT ${a} AS a, ${b} AS b`
      for (const n of [1, 2, 3]) {
        assert.deepStrictEqual(yield* select(n, "x"), [{ a: n, b: "x" }])
      }
      assert.deepStrictEqual(yield* select(null, 4).withoutTransform, [{ a: null, b: 4 }])
      assert.deepStrictEqual(compiled, ["SELECT ? AS a, ? AS b"])
      assert.deepStrictEqual(select(5, 6).compile(), ["SELECT ? AS a, ? AS b", [5, 6]])
      assert.deepStrictEqual(yield* sql.unsafe("SELECT ? AS a", [7]), [{ a: 7 }])
      assert.lengthOf(compiled, 1)
    }))

  it.scopedLive("is compiled anew where an argument is more than a parameter", () =>
    Effect.gen(function*() {
      const compiled: Array<string> = []
      const { sql } = yield* embedded(() => ({}), compiled)
      const select = (what: Statement.Fragment | Statement.Identifier | number) => sql`SELECT ${what} AS a`
      assert.deepStrictEqual(yield* select(1), [{ a: 1 }])
      assert.deepStrictEqual(yield* select(sql`${2} + ${3}`), [{ a: 5 }])
      assert.deepStrictEqual(yield* select(sql.literal("4")), [{ a: 4 }])
      assert.deepStrictEqual(yield* sql`SELECT 1 AS a WHERE 2 IN ${sql.in([1, 2])}`, [{ a: 1 }])
      assert.deepStrictEqual(select(sql("a")).compile()[0], "SELECT \"a\" AS a")
      assert.deepStrictEqual(yield* select(6), [{ a: 6 }])
      assert.deepStrictEqual(compiled, [
        "SELECT ? AS a",
        "SELECT ? + ? AS a",
        "SELECT 4 AS a",
        "SELECT 1 AS a WHERE 2 IN (?,?)",
        "SELECT \"a\" AS a"
      ])
    }))

  it.scopedLive("can be a fragment of another, and is what a list of parameters was when the statement was made", () =>
    Effect.gen(function*() {
      const { sql } = yield* embedded(() => ({}))
      const part = sql`n > ${1}`
      assert.deepStrictEqual(sql`SELECT ${2} WHERE ${part} AND ${sql.and([part, sql`m = ${3}`])}`.compile(), [
        "SELECT ? WHERE n > ? AND (n > ? AND m = ?)",
        [2, 1, 1, 3]
      ])
      const params = [1]
      const statement = sql.unsafe("SELECT ? AS a", params)
      params[0] = 2
      assert.deepStrictEqual(yield* statement, [{ a: 1 }])
    }))

  it("that was made by hand is not remembered, because it can change", () => {
    const texts = new TextCache()
    const made = Object.assign(["SELECT 1"], { raw: ["SELECT 1"] })
    assert.strictEqual(texts.set(made, "SELECT 1"), "SELECT 1")
    assert.strictEqual(texts.get(made), undefined)
    const written = ((strings: TemplateStringsArray) => strings)`SELECT 1`
    assert.strictEqual(texts.set(written, "SELECT 1"), "SELECT 1")
    assert.strictEqual(texts.get(written), "SELECT 1")
  })
})

describe("a driver that throws", () => {
  it.scopedLive("does not keep the connection, in a session or outside", () =>
    Effect.gen(function*() {
      const db = yield* embedded(() => ({
        executeRaw: () => {
          throw new Error("a mistake")
        }
      }))
      const runs: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        db.sql`SELECT 1`.raw,
        db.session(db.sql`SELECT 1`.raw)
      ]
      for (const run of runs) {
        const exit = yield* Effect.exit(run)
        assert(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        assert.strictEqual((yield* db.poolStats).used, 0)
      }
      const { sessions } = yield* db.activity
      assert.deepStrictEqual(sessions, [])
      assert.lengthOf(yield* db.sql`SELECT 1`, 1)
    }).pipe(Effect.provide(Logger.remove(Logger.defaultLogger))))
})

describe("the end of a session", () => {
  /** A session whose commit says that it has begun, and takes its time. */
  const committing = (commit: (own: Connection["commit"]) => Connection["commit"]) =>
    Effect.gen(function*() {
      const begun = yield* Deferred.make<void>()
      let destroyed = 0
      const db = yield* embedded((connection) => ({
        commit: Effect.zipRight(Deferred.succeed(begun, undefined), commit(connection.commit)),
        destroy: () => {
          destroyed++
          connection.destroy()
        }
      }))
      return { begun, db, destroyed: () => destroyed }
    })

  it.scopedLive("is waited for when nothing around it can be interrupted", () =>
    Effect.gen(function*() {
      const { begun, db, destroyed } = yield* committing((own) => Effect.zipRight(Effect.sleep("900 millis"), own))
      const fiber = yield* Effect.fork(Effect.uninterruptible(db.session(db.sql`SELECT 1`)))
      yield* Deferred.await(begun)
      yield* Fiber.interruptFork(fiber)
      yield* Fiber.await(fiber)
      assert.strictEqual(destroyed(), 0)
      assert.strictEqual((yield* db.activity).committed, 1)
    }))

  it.scopedLive("is waited for without an interruption, however long it takes", () =>
    Effect.gen(function*() {
      const { db, destroyed } = yield* committing((own) => Effect.zipRight(Effect.sleep("900 millis"), own))
      assert.lengthOf(yield* db.session(db.sql`SELECT 1`), 1)
      assert.strictEqual(destroyed(), 0)
    }))

  it.scopedLive("is given up half a second after an interruption, and the connection with it", () =>
    Effect.gen(function*() {
      const { begun, db, destroyed } = yield* committing((own) =>
        Effect.zipRight(
          Effect.async<void>((resume) => {
            const look = setInterval(() => {
              if (destroyed() > 0) {
                clearInterval(look)
                resume(Effect.void)
              }
            }, 10)
          }),
          own
        )
      )
      const fiber = yield* Effect.fork(db.session(db.sql`SELECT 1`))
      yield* Deferred.await(begun)
      yield* Effect.sleep("700 millis")
      assert.strictEqual(destroyed(), 0)
      const started = performance.now()
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isInterrupted(exit))
      assert.isAtLeast(performance.now() - started, 400)
      assert.isAtLeast(destroyed(), 1)
    }))
})
