/**
 * What an open database is made of, for those who open one over a connection of it.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Service } from "../../Database.js"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Connection, Driver } from "../driver.js"

export interface Opened {
  readonly driver: Driver
  /** A connection from its pool. */
  readonly acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>
  /** Opens a database with the same settings over another driver. */
  readonly over: (driver: Driver) => Effect.Effect<Service, DatabaseError, Scope.Scope>
}

/** Of every database that is open. */
export const opened = new WeakMap<Service, Opened>()
