/** What the tests of sessions share: databases with tables in them, what was logged, and how long something took. */
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import type * as Scope from "effect/Scope"
import { assert } from "vitest"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../../../src/DatabaseError.js"
import { type Connection, Interceptor } from "../../../src/internal/driver.js"
import { changedConnections } from "../../support/changedConnections.js"
import { type Dialect, make } from "../../support/dialects.js"

type Options = Parameters<typeof make>[1]

/** A test on the real clock that says nothing in the log. */
export const live = <A, E>(name: string, body: () => Effect.Effect<A, E, Scope.Scope>, timeout?: number): void => {
  it.scopedLive(name, () => body().pipe(Effect.provide(Logger.remove(Logger.defaultLogger))), timeout)
}

/** `items` takes numbers; `children` checks at the commit that their parents are there. */
export const createTables = (database: Database.Service) =>
  Effect.all([
    database.sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`,
    database.sql`CREATE TABLE parents (id INTEGER PRIMARY KEY)`,
    database.sql`CREATE TABLE children (
      id INTEGER PRIMARY KEY,
      parent INTEGER NOT NULL REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED
    )`
  ], { discard: true })

/** A new database with the tables. */
export const open = (dialect: Dialect, options?: Options) => Effect.tap(make(dialect, options), createTables)

/** An embedded database with the tables, of whose connections something is other than it should be. */
export const embedded = (change: (connection: Connection) => Partial<Connection>) => {
  const made = Effect.provideService(
    Database.make({ url: ":memory:", environment: "test" }),
    Interceptor,
    (driver) => Effect.succeed(changedConnections(driver, change))
  )
  return Effect.tap(made, createTables)
}

export const insert = (database: Database.Service, n: number) => database.sql`INSERT INTO items (n) VALUES (${n})`

/** What is in `items`. */
export const numbers = (database: Database.Service) =>
  Effect.map(
    database.sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`,
    (rows) => rows.map(({ n }) => n)
  )

/** The database's error of an effect that must fail with one, or with a SqlError of one. */
export const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<DatabaseError, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert(Exit.isFailure(exit) && exit.cause._tag === "Fail", `not a failure: ${String(exit)}`)
    const { error } = exit.cause as unknown as { readonly error: any }
    return isDatabaseError(error) ? error : fromSqlError(error)
  })

/** The milliseconds that an effect takes. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<readonly [A, number], E, R> =>
  Effect.suspend(() => {
    const started = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - started] as const)
  })

/** Fails unless the pool is as if nothing had happened. */
export const assertIdle = (database: Database.Service) =>
  Effect.map(
    database.poolStats,
    ({ used, waiting }) => assert.deepStrictEqual({ used, waiting }, { used: 0, waiting: 0 })
  )

export interface Logged {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: unknown
}

/** Collects what an effect logs, down to the last remark. */
export const logged = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<ReadonlyArray<Logged>, E, R> =>
  Effect.suspend(() => {
    const logs: Array<Logged> = []
    const logger = Logger.make(({ annotations, cause, logLevel, message }) => {
      logs.push({
        level: logLevel.label,
        text: (Array.isArray(message) ? message : [message]).map(String).join(" "),
        annotations: Object.fromEntries(HashMap.toEntries(annotations)),
        cause
      })
    })
    return effect.pipe(
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.provide(Logger.add(logger)),
      Effect.as(logs)
    )
  })
