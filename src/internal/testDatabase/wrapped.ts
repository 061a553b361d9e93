/**
 * Connections that stand before another one.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import * as Effect from "effect/Effect"
import type { Connection, Driver } from "../driver.js"

export type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

export interface Wrapped extends Connection {
  readonly inner: Connection
}

/**
 * Makes a driver whose connections wrap those of another. What a dialect does beyond the contract, it does with a
 * connection of its own.
 */
export const wrapping = (driver: Driver, connect: Driver["connect"]): Driver => {
  const unwrap = (connection: Connection): Connection => (connection as Wrapped).inner
  return {
    ...driver,
    connect,
    serverInfo: (connection) => driver.serverInfo(unwrap(connection)),
    extendClient: (client, acquire) => driver.extendClient(client, Effect.map(acquire, unwrap))
  }
}
