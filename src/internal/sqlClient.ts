/**
 * The standard SqlClient of @effect/sql over a pool and its sessions.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import * as Statement from "@effect/sql/Statement"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { toSqlError } from "../DatabaseError.js"
import type { Pool } from "../Pool.js"
import type { Options } from "../Session.js"
import type { OperationRecorder } from "../Telemetry.js"
import type { Connection, Driver } from "./driver.js"
import type { Sessions } from "./session/sessions.js"
import { makeConstructor } from "./sqlClient/statement.js"

interface MakeOptions {
  readonly driver: Driver
  readonly pool: Pool<Connection>
  readonly sessions: Sessions
  readonly recorder: OperationRecorder
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly transformResultNames: ((name: string) => string) | undefined
  readonly transformJson: boolean
}

const noOptions: Options = {}

/** Takes a connection for each statement: what runs outside of every session. */
const perStatement = (pool: Pool<Connection>): SqlConnection.Connection => {
  const use = <A, E>(f: (connection: Connection) => Effect.Effect<A, E>) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        Effect.mapError(pool.take(restore), toSqlError),
        (lease) => Effect.ensuring(restore(f(lease.connection)), lease.release)
      )
    )
  return {
    execute: (sql, params, transformRows) => use((connection) => connection.execute(sql, params, transformRows)),
    executeRaw: (sql, params) => use((connection) => connection.executeRaw(sql, params)),
    executeValues: (sql, params) => use((connection) => connection.executeValues(sql, params)),
    executeUnprepared: (sql, params, transformRows) =>
      use((connection) => connection.executeUnprepared(sql, params, transformRows)),
    executeStream: (sql, params, transformRows) =>
      Stream.unwrapScoped(
        Effect.map(
          Effect.mapError(pool.acquire, toSqlError),
          (connection) => connection.executeStream(sql, params, transformRows)
        )
      )
  }
}

/** The application's, if it has one, so that what it says has changed is heard here. */
const reactivityOf = Effect.flatMap(
  Effect.serviceOption(Reactivity.Reactivity),
  Option.match({ onNone: () => Reactivity.make, onSome: Effect.succeed })
)

/** Makes the client; the driver adds its own methods to it. */
export const make = (options: MakeOptions): Effect.Effect<SqlClient.SqlClient> =>
  Effect.map(reactivityOf, (reactivity) => {
    const { driver, pool, recorder, sessions, spanAttributes } = options
    const outside = perStatement(pool)
    const environment = {
      connection: (context: Parameters<Sessions["current"]>[0]) => sessions.current(context) ?? outside,
      spanAttributes,
      recorder
    }
    const transformRows = options.transformResultNames === undefined
      ? undefined
      : Statement.defaultTransforms(options.transformResultNames, options.transformJson).array
    const plain = () =>
      makeConstructor({ ...environment, compiler: driver.compiler.withoutTransform, transformRows: undefined })

    const client = Object.assign(makeConstructor({ ...environment, compiler: driver.compiler, transformRows }), {
      [SqlClient.TypeId]: SqlClient.TypeId,
      safe: undefined as unknown as SqlClient.SqlClient,
      withTransaction: <R, E, A>(effect: Effect.Effect<A, E, R>) =>
        sessions.run(effect, noOptions, toSqlError) as Effect.Effect<A, E | ReturnType<typeof toSqlError>, R>,
      reserve: Effect.mapError(sessions.reserve, toSqlError),
      withoutTransforms(this: SqlClient.SqlClient): SqlClient.SqlClient {
        if (transformRows === undefined) {
          return this
        }
        const constructor = plain()
        const untransformed: SqlClient.SqlClient = Object.assign(constructor, { ...this, ...constructor })
        return Object.assign(untransformed, { safe: untransformed, withoutTransforms: () => untransformed })
      },
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }) as unknown as SqlClient.SqlClient
    return Object.assign(client, { safe: client })
  })
