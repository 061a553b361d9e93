/**
 * What a server is: whether it has the role that `target_session_attrs` asks for, and which history it writes.
 *
 * The role is asked for with SQL. The parameters reported at start-up do not count: a pooler keeps those of the server
 * that it was connected to first.
 */
import * as Effect from "effect/Effect"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import { type Member, outdatedTimeline, type Server, type Servers, type WriterIdentity } from "../cluster/servers.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { Connection } from "./connection.js"
import { isRefusal } from "./engine.js"
import { lagSql } from "./position.js"
import { identityColumns, type IdentityRow, parseServerIdentity } from "./serverIdentity.js"
import { fromPostgres } from "./sqlState.js"

interface Role {
  readonly standby: boolean
  readonly readOnly: boolean
}

const readOnlyColumn = "pg_catalog.current_setting('default_transaction_read_only') AS read_only"

const roleSql = `SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text AS standby, ${readOnlyColumn}`

/** Null for a primary. */
const lagColumn = `CASE WHEN pg_catalog.pg_is_in_recovery() THEN (${lagSql})::pg_catalog.text END AS lag`

const serverSql = `SELECT ${identityColumns}, ${readOnlyColumn}, ${lagColumn}`

/** What a server has answered. A field is undefined if the server does not report it. */
interface Answer extends Role {
  readonly systemIdentifier?: string | undefined
  readonly timeline?: number | undefined
  readonly lag?: number | undefined
}

type Row = IdentityRow & { readonly read_only: string | null; readonly lag: string | null }

const parse = (row: Row): Answer => {
  const { isStandby, systemIdentifier, timeline } = parseServerIdentity(row)
  const lag = Number(row.lag ?? Number.NaN)
  return {
    standby: isStandby,
    readOnly: row.read_only === "on",
    systemIdentifier,
    timeline,
    lag: Number.isNaN(lag) ? undefined : Math.max(0, lag)
  }
}

/** Whether an engine lacks a function, or the user may not call it (insufficient_privilege). */
const isUnsupported = (error: DatabaseError): boolean => isRefusal(error) || error.code === "42501"

/** The answer of a server that returns no row. */
const noRow: Row = {
  standby: null,
  system: null,
  timeline: null,
  started: null,
  statistics: null,
  read_only: null,
  lag: null
}

/** Asks for the role and, where the server has it, the history. */
const askServer = (connection: Connection, asksHistory: boolean): Effect.Effect<Answer, DatabaseError> => {
  const ask = (text: string) => Effect.map(connection.query(text), (rows) => parse({ ...noRow, ...rows.at(0) }))
  return asksHistory ? Effect.catchIf(ask(serverSql), isUnsupported, () => ask(roleSql)) : ask(roleSql)
}

export type TargetSessionAttrs = PostgresTarget["targetSessionAttrs"]

export const accepts = (required: TargetSessionAttrs, role: Role): boolean => {
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

/** Why a server whose role is not the required one is not used. */
const describeRole = ({ readOnly, standby }: Role, required: TargetSessionAttrs): string =>
  `the server is ${standby ? "a standby" : "the primary"}${readOnly ? " and read-only" : ""}, where ` +
  `target_session_attrs asks for ${required}`

/** The identity of a writer; undefined for a standby, and for a server that does not report it. */
const writerOf = ({ standby, systemIdentifier, timeline }: Answer): WriterIdentity | undefined =>
  standby || systemIdentifier === undefined || timeline === undefined ? undefined : { systemIdentifier, timeline }

/** Notes what a server has answered. Returns why it must not be used, if it must not. */
const note = (servers: Servers, server: Server, answer: Answer): string | undefined => {
  const { lag, readOnly, standby, systemIdentifier, timeline } = answer
  servers.setLag(server, lag)
  if (systemIdentifier !== undefined && timeline !== undefined) {
    const role = standby ? "standby" : "writer"
    if (!servers.setIdentity(server, { systemIdentifier, timeline }, role)) {
      // It was replaced by a promoted server, so that it is neither a writer nor a standby.
      server.role = "unknown"
      return outdatedTimeline(timeline, servers.highestTimeline(systemIdentifier) ?? timeline)
    }
  }
  servers.setRole(server, standby ? "standby" : "writer", readOnly)
  return undefined
}

/** Asks a server for its role, its history and its lag, and notes the answer. */
export const examine = (connection: Connection, servers: Servers, server: Server): Effect.Effect<void, DatabaseError> =>
  Effect.map(askServer(connection, true), (answer) => {
    note(servers, server, answer)
  })

export interface Requirement {
  readonly required: TargetSessionAttrs
  readonly servers: Servers
  readonly server: Server
  /** Names the server in errors. */
  readonly description: string
  readonly deadline: number
  /** Which servers are preferred to this one; undefined if none are. */
  readonly prefers?: Member["prefers"]
}

/** Retires a connection when its server is no longer what it was opened for. */
const watch = (
  connection: Connection,
  { prefers, required, server, servers }: Requirement,
  identity: WriterIdentity | undefined
): void => {
  const needsWriter = prefers === undefined &&
    (required === "any" || required === "read-write" || required === "primary")
  connection.joinServer(servers, { server, identity, needsWriter, prefers })
  connection.onRole((standby, readOnly) => {
    servers.setRole(server, standby ? "standby" : "writer", readOnly)
    if (!accepts(required, { standby, readOnly })) {
      connection.retire(describeRole({ standby, readOnly }, required))
    }
  })
}

/**
 * Checks that the server has the required role, and watches it from then on. Asks nothing if any server will do and
 * there is only one.
 */
export const checkRole = (
  connection: Connection,
  requirement: Requirement,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const { deadline, description, required, server, servers } = requirement
  if (required === "any" && !servers.isCluster) {
    return Effect.sync(() => {
      watch(connection, requirement, undefined)
      return connection
    })
  }
  const fail = (code: string, reason: string, transient: boolean) =>
    makeError("ConnectionFailed", {
      dialect: "postgres",
      code,
      reason: `could not connect to ${description}: ${reason}`,
      transient
    })
  let hasExpired = false
  const check = askServer(connection, servers.isCluster).pipe(
    Effect.mapError((error) =>
      hasExpired
        ? fromPostgres(new Error("timeout expired"), { phase: "connect", description })
        : fail(error.code, error.reason, isRetryable(error))
    ),
    Effect.flatMap((answer) => {
      const refusal = note(servers, server, answer) ??
        (accepts(required, answer) ? undefined : describeRole(answer, required))
      if (refusal !== undefined) {
        return Effect.fail(fail("08004", refusal, true))
      }
      watch(connection, requirement, writerOf(answer))
      return Effect.succeed(connection)
    })
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
