/**
 * Connections of a driver that differ from those that it opens.
 */
import * as Effect from "effect/Effect"
import type { Connection, Driver } from "../../src/internal/driver.js"

/** The driver, whose connections have the properties that `change` gives in place of their own. */
export const changedConnections = (driver: Driver, change: (connection: Connection) => object): Driver => ({
  ...driver,
  connect: (onLost, restore) =>
    Effect.map(
      driver.connect(onLost, restore),
      (connection) => Object.defineProperties({ ...connection }, Object.getOwnPropertyDescriptors(change(connection)))
    )
})
