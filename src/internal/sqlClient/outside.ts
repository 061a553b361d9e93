/**
 * Where statements run that belong to no session.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { toSqlError } from "../../DatabaseError.js"
import type { Pool } from "../../Pool.js"
import type { Connection } from "../driver.js"
import type { Target } from "./statement.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

/** Takes a connection for one statement. */
export class Outside implements Target {
  readonly watched = undefined
  since = Infinity

  constructor(private readonly pool: Pool<Connection>) {}

  execute(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.use((connection) => connection.execute(sql, params, transformRows))
  }

  executeRaw(sql: string, params: ReadonlyArray<unknown>) {
    return this.use((connection) => connection.executeRaw(sql, params))
  }

  executeValues(sql: string, params: ReadonlyArray<unknown>) {
    return this.use((connection) => connection.executeValues(sql, params))
  }

  executeUnprepared(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return this.use((connection) => connection.executeUnprepared(sql, params, transformRows))
  }

  executeStream(sql: string, params: ReadonlyArray<unknown>, transformRows: TransformRows) {
    return Stream.unwrapScoped(
      Effect.map(
        Effect.mapError(this.pool.acquire, toSqlError),
        (connection) => connection.executeStream(sql, params, transformRows)
      )
    )
  }

  private use<A>(f: (connection: Connection) => Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        Effect.mapError(this.pool.take(restore), toSqlError),
        (lease) => {
          this.since = performance.now()
          return Effect.ensuring(restore(f(lease.connection)), lease.release)
        }
      )
    )
  }
}
