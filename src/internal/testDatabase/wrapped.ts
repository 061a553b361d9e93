/**
 * Connections that wrap another one.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import type { Connection, Driver } from "../driver.js"

export type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

export interface Wrapped extends Connection {
  readonly inner: Connection
}

/**
 * Makes a driver whose connections wrap those of another. The dialect's own methods get the wrapped connection, since they
 * use more than the contract.
 */
export const wrapping = (driver: Driver, wrap: (connect: Driver["connect"]) => Driver["connect"]): Driver => {
  const unwrap = (connection: Connection): Connection => (connection as Wrapped).inner
  return {
    ...driver,
    connect: wrap(driver.connect),
    readers: () => {
      const readers = driver.readers?.()
      return readers === undefined ? undefined : { ...readers, connect: wrap(readers.connect) }
    },
    replicas: driver.replicas === undefined ? undefined : {
      ...driver.replicas,
      servers: Arr.map(driver.replicas.servers, (server) => ({ ...server, connect: wrap(server.connect) }))
    },
    serverInfo: (connection) => driver.serverInfo(unwrap(connection)),
    checkHealth: driver.checkHealth && ((connection) => driver.checkHealth!(unwrap(connection))),
    monitoring: {
      waits: driver.monitoring.waits && ((connection, ids) => driver.monitoring.waits!(unwrap(connection), ids)),
      sections: driver.monitoring.sections.map((section) =>
        Object.assign({}, section, { read: (connection: Connection) => section.read(unwrap(connection)) })
      ),
      explain: (connection, statement) => driver.monitoring.explain(unwrap(connection), statement)
    },
    extendClient: (client, acquire, listen) => driver.extendClient(client, Effect.map(acquire, unwrap), listen)
  }
}
