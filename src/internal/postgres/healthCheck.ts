/**
 * Checks whether the database can be used as it was opened: for writing, unless its URL asks for something else.
 */
import * as Effect from "effect/Effect"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Server, Servers } from "../cluster/servers.js"
import { make as makeError } from "../makeError.js"
import type { Connection } from "./connection.js"
import { isRefusal } from "./engine.js"
import { accepts, examine } from "./role.js"

/** Whether the `options` of the URL set default_transaction_read_only. */
const asksForReadOnly = ({ serverOptions }: PostgresTarget): boolean =>
  serverOptions?.includes("default_transaction_read_only") === true

const roleOf = ({ isReadOnly, role }: Server): string =>
  role === "standby"
    ? "a standby"
    : role === "unknown"
    ? "a primary that was replaced by a promoted one"
    : isReadOnly
    ? "read-only: default_transaction_read_only is on"
    : "a primary"

/** Asks the server for its role, and fails with ReadOnlyViolation if the target requires another one. */
export const checkHealth = (
  connection: Connection,
  servers: Servers,
  target: PostgresTarget
): Effect.Effect<void, DatabaseError> => {
  const { server } = connection
  const { targetSessionAttrs: attrs } = target
  if (server === undefined || attrs === "prefer-standby") {
    return connection.ping
  }
  const required = attrs === "any" ? "read-write" : attrs
  return Effect.matchEffect(examine(connection, servers, server), {
    // An engine without these functions has answered.
    onFailure: (error) => isRefusal(error) ? Effect.void : Effect.fail(error),
    onSuccess: () => {
      const readOnly = server.isReadOnly && !(attrs === "any" && asksForReadOnly(target))
      return server.role !== "unknown" && accepts(required, { standby: server.role === "standby", readOnly })
        ? Effect.void
        : Effect.fail(makeError("ReadOnlyViolation", {
          dialect: "postgres",
          code: "25006",
          reason: `no server that ${
            required === "read-write" || required === "primary" ? "can be written to" : "has the required role"
          } has answered: ${server.host}:${server.port} is ${roleOf(server)}`
        }))
    }
  })
}
