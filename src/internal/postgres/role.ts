/**
 * Whether a server has the role that `target_session_attrs` asks for.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import { type DatabaseError, fromSqlError, isRetryable } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { Connection } from "./connection.js"
import { fromPostgres } from "./sqlState.js"

interface Role {
  readonly standby: boolean
  readonly readOnly: boolean
}

/** The server's role: as reported at start-up (PostgreSQL 14 and later), else queried. */
const roleOf = (connection: Connection): Effect.Effect<Role, SqlError> => {
  const standby = connection.parameter("in_hot_standby")
  const readOnly = connection.parameter("default_transaction_read_only")
  return standby !== undefined && readOnly !== undefined
    ? Effect.succeed({ standby: standby === "on", readOnly: readOnly === "on" })
    : Effect.map(
      connection.execute(
        "SELECT pg_catalog.pg_is_in_recovery() AS standby, " +
          "pg_catalog.current_setting('default_transaction_read_only') = 'on' AS \"readOnly\"",
        [],
        undefined
      ),
      (rows) => rows[0] as Role
    )
}

export type TargetSessionAttrs = PostgresTarget["targetSessionAttrs"]

const accepts = (required: TargetSessionAttrs, role: Role): boolean => {
  switch (required) {
    case "any":
      return true
    case "read-write":
      return !role.standby && !role.readOnly
    case "read-only":
      return role.standby || role.readOnly
    case "primary":
      return !role.standby
    case "standby":
    case "prefer-standby":
      return role.standby
  }
}

export const checkRole = (
  connection: Connection,
  required: TargetSessionAttrs,
  description: string,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  if (required === "any") {
    return Effect.succeed(connection)
  }
  const fail = (code: string, reason: string, transient: boolean) =>
    makeError("ConnectionFailed", {
      dialect: "postgres",
      code,
      reason: `could not connect to ${description}: ${reason}`,
      transient
    })
  let hasExpired = false
  const check = roleOf(connection).pipe(
    Effect.mapError((error) => {
      const { code, reason } = fromSqlError(error)
      return hasExpired
        ? fromPostgres(new Error("timeout expired"), { phase: "connect", description })
        : fail(code, reason, isRetryable(fromSqlError(error)))
    }),
    Effect.filterOrFail(
      (role) => accepts(required, role),
      (role) =>
        fail(
          "08004",
          `the server is ${role.standby ? "a standby" : "the primary"}${
            role.readOnly ? " and read-only" : ""
          }, where ` +
            `target_session_attrs asks for ${required}`,
          true
        )
    ),
    Effect.as(connection)
  )
  return Effect.suspend(() => {
    const timer = setTimeout(() => {
      hasExpired = true
      connection.destroy()
    }, deadline - performance.now())
    return Effect.onExit(restore(check), (exit) =>
      Effect.sync(() => {
        clearTimeout(timer)
        if (exit._tag === "Failure") {
          connection.destroy()
        }
      }))
  })
}
