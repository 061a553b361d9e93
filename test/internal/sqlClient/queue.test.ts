/** Statements outside of sessions that wait for a connection: they are started by whoever returns one. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Logger from "effect/Logger"
import * as Supervisor from "effect/Supervisor"
import { Socket } from "node:net"
import { vi } from "vitest"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { type Connection, Interceptor } from "../../../src/internal/driver.js"
import { eventually } from "../../support/eventually.js"
import { Interruptor, modes } from "../../support/interruptor.js"
import { freshDatabase, url } from "../../support/postgres.js"
import { collectingSpans } from "../../support/spans.js"

/** A database with one connection, which is open. */
const single = (options: DatabaseConfig.Options = {}) =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    const database = yield* Database.make({ url, poolSize: 1, poolMaxOverflow: 0, ...options })
    yield* database.sql`CREATE TABLE entry (id serial, name text UNIQUE)`
    return database
  })

/** A database with one connection, whose methods are replaced by those that `change` gives. */
const changed = (change: (connection: Connection) => Partial<Connection>, options?: DatabaseConfig.Options) =>
  Effect.provideService(single(options), Interceptor, (driver) =>
    Effect.succeed({
      ...driver,
      connect: (onLost, restore) =>
        Effect.map(
          driver.connect(onLost, restore),
          (connection: Connection) => Object.assign(connection, change(connection))
        )
    }))

/** A statement that runs while the gate is closed, which another connection does. */
const gateOf = ({ sql }: Database.Service) =>
  Effect.gen(function*() {
    const [{ name }] = yield* sql<{ readonly name: string }>`SELECT current_database() AS name`
    const same = new URL(url())
    same.pathname = `/${name}`
    const keeper = yield* Effect.flatMap(
      Database.make({ url: String(same), poolSize: 1 }),
      (other) => other.sql.reserve
    )
    const run = (text: string) => keeper.execute(text, [], undefined)
    return {
      close: run("SELECT pg_advisory_lock(1)"),
      open: run("SELECT pg_advisory_unlock(1)"),
      pass: sql`SELECT pg_advisory_xact_lock(1)`
    }
  })

/** Waits until so many statements and sessions wait for a connection. */
const waiting = ({ poolStats }: Database.Service, count: number) =>
  eventually(Effect.map(poolStats, (pool) => pool.waiting === count))

const names = ({ sql }: Database.Service) =>
  Effect.map(sql<{ readonly name: string }>`SELECT name FROM entry ORDER BY id`, (rows) => rows.map(({ name }) => name))

const isWhole = (database: Database.Service) =>
  Effect.gen(function*() {
    const { created, idle, used, waiting } = yield* database.poolStats
    assert.deepStrictEqual({ created, idle, used, waiting }, { created: 1, idle: 1, used: 0, waiting: 0 })
  })

/** Counts how often each fiber is suspended. */
class Suspensions extends Supervisor.AbstractSupervisor<number> {
  readonly counts = new Map<unknown, number>()
  override readonly value = Effect.sync(() => this.counts.size)
  override onSuspend<A, E>(fiber: Fiber.RuntimeFiber<A, E>): void {
    this.counts.set(fiber, (this.counts.get(fiber) ?? 0) + 1)
  }
}

describe("a statement that waits for a connection", () => {
  it.scopedLive("suspends its fiber once, and is written before the fiber of the one before it goes on", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { sql } = database
      const events: Array<string> = []
      const { write } = Socket.prototype
      const spy = vi.spyOn(Socket.prototype, "write").mockImplementation(function(this: Socket, ...args) {
        const name = /first|second|third|fourth/.exec(String(args[0]))?.[0]
        if (name !== undefined) {
          events.push(`${name} is written`)
        }
        return Reflect.apply<Socket, typeof args, boolean>(write, this, args)
      })
      const suspensions = new Suspensions()
      const fibers: Array<Fiber.RuntimeFiber<unknown, unknown>> = []
      yield* Effect.gen(function*() {
        for (const name of ["first", "second", "third", "fourth"]) {
          const statement = name === "third" ? sql`SELECT ${name}::int` : sql`SELECT ${name}::text`
          fibers.push(yield* Effect.fork(Effect.map(Effect.exit(statement), () => events.push(`${name} has ended`))))
        }
        yield* Fiber.joinAll(fibers)
      }).pipe(
        Effect.supervised(suspensions),
        Effect.ensuring(Effect.sync(() => spy.mockRestore()))
      )
      assert.deepStrictEqual(events, [
        "first is written",
        "second is written",
        "first has ended",
        "third is written",
        "second has ended",
        // It has failed, and keeps its connection until its fiber knows.
        "third has ended",
        "fourth is written",
        "fourth has ended"
      ])
      // Those that wait are suspended as often as the one that does not.
      const [first, ...others] = fibers.map((fiber) => suspensions.counts.get(fiber))
      assert.deepStrictEqual(others, [first, first, first])
    }))

  it.scopedLive("comes in the order of asking, sessions included, whatever becomes of those before it", () =>
    Effect.gen(function*() {
      const database = yield* single({ transformResultNames: (name) => name.toLowerCase() })
      const { session, sql } = database
      const insert = (name: string) => sql`INSERT INTO entry (name) VALUES (${name})`
      const hold = yield* Deferred.make<void>()
      const holder = yield* Effect.fork(session(Effect.zipRight(insert("holder"), Deferred.await(hold))))
      yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
      const asked: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        insert("a"),
        insert("a"),
        session(Effect.zipRight(insert("b"), insert("c"))),
        sql`SELECT ${{ toPostgres: () => assert.fail("it cannot be encoded") }}`,
        insert("d"),
        sql`SELECT nothing`,
        session(insert("e")),
        insert("f")
      ]
      const fibers: Array<Fiber.RuntimeFiber<Exit.Exit<unknown, unknown>>> = []
      for (const [i, effect] of asked.entries()) {
        fibers.push(yield* Effect.fork(Effect.exit(effect)))
        yield* waiting(database, i + 1)
      }
      yield* Deferred.succeed(hold, undefined)
      yield* Fiber.join(holder)
      const ended = yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(ended.map(Exit.isSuccess), [true, false, true, false, true, false, true, true])
      assert.deepStrictEqual(yield* names(database), ["holder", "a", "b", "c", "d", "e", "f"])
      yield* isWhole(database)
    }))

  it.scopedLive("has no effect if it is interrupted before, in the very step in which a connection comes free too", () =>
    Effect.gen(function*() {
      let onStatus = (): void => undefined
      const database = yield* changed((connection) => {
        const status = connection.status.bind(connection)
        return {
          status: () => {
            onStatus()
            return status()
          }
        }
      })
      const { session, sql } = database
      const gate = yield* gateOf(database)
      const asked: ReadonlyArray<Effect.Effect<unknown, unknown>> = [gate.pass, session(gate.pass)]
      for (const first of asked) {
        yield* gate.close
        const holder = yield* Effect.fork(first)
        yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
        const dropped = yield* Effect.fork(sql`INSERT INTO entry (name) VALUES ('dropped')`)
        const next = yield* Effect.fork(sql`SELECT 1`)
        yield* waiting(database, 2)
        onStatus = () => dropped.unsafeInterruptAsFork(FiberId.none)
        yield* gate.open
        yield* Fiber.join(holder)
        assert.isTrue(Exit.isInterrupted(yield* Fiber.await(dropped)))
        yield* Fiber.join(next)
        onStatus = () => undefined
      }
      yield* gate.close
      const holder = yield* Effect.fork(gate.pass)
      const dropped = yield* Effect.fork(sql`INSERT INTO entry (name) VALUES ('dropped')`)
      yield* waiting(database, 1)
      yield* Fiber.interrupt(dropped)
      assert.strictEqual((yield* database.poolStats).waiting, 0)
      yield* gate.open
      yield* Fiber.join(holder)
      assert.deepStrictEqual(yield* names(database), [])
      yield* isWhole(database)
    }))

  it.scopedLive("is canceled if it is interrupted after it was started, and not while that is not allowed", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { sql } = database
      const gate = yield* gateOf(database)
      yield* gate.close
      const holder = yield* Effect.fork(gate.pass)
      const canceled = yield* Effect.fork(sql`SELECT pg_sleep(600)`)
      yield* waiting(database, 1)
      const kept = yield* Effect.fork(Effect.uninterruptible(sql`INSERT INTO entry (name) VALUES ('kept')`))
      yield* waiting(database, 2)
      yield* Fiber.interruptFork(kept)
      yield* gate.open
      yield* Fiber.join(holder)
      yield* waiting(database, 1)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(canceled)))
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(kept)))
      assert.deepStrictEqual(yield* names(database), ["kept"])
      // Its fiber ends when it is canceled, and the connection needs no further cleaning.
      yield* gate.close
      const before = yield* Effect.fork(gate.pass)
      const alone = yield* Effect.fork(sql`SELECT pg_sleep(600)`)
      yield* waiting(database, 1)
      yield* gate.open
      yield* Fiber.join(before)
      yield* waiting(database, 0)
      yield* Fiber.interrupt(alone)
      yield* isWhole(database)
    }))

  it.scopedLive("never loses its connection nor returns that of another, wherever it is interrupted", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { session, sql } = database
      const insert = sql`INSERT INTO entry (name) VALUES (NULL) RETURNING id`
      let inserted = 0
      const victims: ReadonlyArray<Effect.Effect<unknown, unknown>> = [insert, session(insert)]
      for (const victim of victims) {
        for (const mode of modes) {
          for (let at = 1;; at++) {
            const interruptor = new Interruptor(mode, at)
            const [, exit, behind] = yield* Effect.all([
              sql`SELECT 1`,
              interruptor.victim(victim),
              sql`SELECT pg_backend_pid(), pg_sleep(0.001)`
            ], { concurrency: "unbounded" })
            assert.lengthOf(behind, 1)
            inserted += Exit.isSuccess(exit) ? 1 : 0
            assert.isTrue(Exit.isSuccess(exit) || Exit.isInterrupted(exit))
            yield* isWhole(database)
            if (!interruptor.hit) {
              assert.isTrue(Exit.isSuccess(exit))
              break
            }
          }
        }
      }
      const [{ count }] = yield* sql<{ readonly count: number }>`SELECT count(*)::int AS count FROM entry`
      assert.isAtLeast(count, inserted)
      yield* isWhole(database)
    }))

  it.scopedLive("runs on a connection that is clean, and fails with one that is lost", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { sql } = database
      const [, [shown]] = yield* Effect.all([
        sql`SET application_name = 'left behind'`,
        sql<{ readonly application_name: string }>`SHOW application_name`
      ], { concurrency: "unbounded" })
      assert.notStrictEqual(shown.application_name, "left behind")
      const [, lost, after] = yield* Effect.all([
        sql`SELECT 1`,
        Effect.exit(sql`SELECT pg_terminate_backend(pg_backend_pid())`),
        sql<{ readonly n: number }>`SELECT 1 AS n`
      ], { concurrency: "unbounded" })
      assert.isTrue(Exit.isFailure(lost))
      assert.deepStrictEqual(after, [{ n: 1 }])
      const { closed, used, waiting } = yield* database.poolStats
      assert.deepStrictEqual({ lost: closed.lost, unusable: closed.unusable, used, waiting }, {
        lost: 1,
        unusable: 0,
        used: 0,
        waiting: 0
      })
    }))

  it.scopedLive("fails with DatabaseClosed, and with PoolTimeout, as a session does", () =>
    Effect.gen(function*() {
      const database = yield* single({ poolTimeout: "50 millis" })
      const { sql } = database
      const gate = yield* gateOf(database)
      yield* gate.close
      const holder = yield* Effect.fork(gate.pass)
      yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 1))
      const late = yield* Effect.flip(sql`INSERT INTO entry (name) VALUES ('late')`)
      assert.propertyVal(late.cause, "_tag", "PoolTimeout")
      yield* gate.open
      yield* Fiber.join(holder)
      assert.deepStrictEqual(yield* names(database), [])
      assert.strictEqual((yield* database.poolStats).timeouts, 1)
      yield* isWhole(database)
    }))

  it.scopedLive("tells its causal scope of nothing that happens on its connection afterwards", () =>
    Effect.gen(function*() {
      let isTracked = false
      const returned: Array<string> = []
      const database = yield* changed((connection) => {
        const status = connection.status.bind(connection)
        const trackPositions = connection.trackPositions!.bind(connection)
        return {
          status: () => {
            returned.push(isTracked ? "tracked" : "untracked")
            return status()
          },
          trackPositions: (tracking) => {
            isTracked = tracking !== undefined
            trackPositions(tracking)
          }
        }
      })
      const { sql } = database
      // The last one leaves a transaction open, which is rolled back when its connection is returned.
      for (const statement of [sql`SELECT 1`, sql`SELECT nothing`, sql`BEGIN`]) {
        returned.length = 0
        yield* Effect.all([
          Database.causal(Effect.exit(statement)),
          Database.causal(Effect.exit(statement)),
          sql`SELECT 1`
        ], { concurrency: "unbounded" })
        assert.isNotEmpty(returned)
        assert.notInclude(returned, "tracked")
      }
    }))

  it.scopedLive("adds what the server says to its span, which its fiber is not in any more when it has ended", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { sql } = database
      const warn = (name: string) => sql.unsafe(`DO $$ BEGIN RAISE WARNING 'from ${name}'; END $$`)
      const { spans, value } = yield* collectingSpans(
        Effect.forEach(
          ["one", "two", "three"],
          (name) => Effect.withSpan(Effect.zipRight(warn(name), Effect.currentSpan), name),
          { concurrency: "unbounded" }
        ).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
      )
      assert.deepStrictEqual(value.map(({ name }) => name), ["one", "two", "three"])
      const events = spans.filter(({ kind }) => kind === "client").map((span) => {
        const names = (span as unknown as { readonly events: ReadonlyArray<readonly [string]> }).events.map(([name]) =>
          name
        )
        const parent = span.parent._tag === "Some" && span.parent.value._tag === "Span"
          ? span.parent.value.name
          : "none"
        return [parent].concat(names)
      })
      assert.deepStrictEqual(events, [
        ["one", "WARNING: from one"],
        ["two", "WARNING: from two"],
        ["three", "WARNING: from three"]
      ])
    }))

  it.scopedLive("logs what the server says in the span of the one that ran it", () =>
    Effect.gen(function*() {
      const database = yield* single()
      const { sql } = database
      const logged: Array<string> = []
      yield* Effect.forEach(
        ["one", "two"],
        (name) =>
          Effect.annotateLogs(sql.unsafe(`DO $$ BEGIN RAISE WARNING 'from ${name}'; END $$`), "statement", name),
        { concurrency: "unbounded" }
      ).pipe(Effect.provide(Logger.replace(
        Logger.defaultLogger,
        Logger.make(({ annotations, message }) => {
          logged.push(`${String([...annotations].find(([key]) => key === "statement")?.[1])}: ${String(message)}`)
        })
      )))
      assert.lengthOf(logged, 2)
      assert.match(logged[0], /^one: .*from one/)
      assert.match(logged[1], /^two: .*from two/)
      yield* isWhole(database)
    }))
})
