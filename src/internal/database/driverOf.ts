/**
 * The driver of the database that the settings name.
 */
import type { Settings } from "../../DatabaseConfig.js"
import type { Driver } from "../driver.js"
import * as Drivers from "../drivers.js"

const drivers = { ...Drivers }

/** Makes the driver; nothing is opened yet. */
export const driverOf = (settings: Settings): Driver => {
  const { target } = settings
  // TypeScript does not see that the driver and the target are of the same dialect.
  const make = drivers[target._tag] as (settings: Settings, target: Settings["target"]) => Driver
  return make(settings, target)
}
