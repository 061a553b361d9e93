/**
 * Establishes a connection: tries the hosts in order, encrypts as sslmode says, starts up, and checks the server's role.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { Socket as NetSocket } from "node:net"
import { TLSSocket } from "node:tls"
import Pg from "pg"
import type { PostgresHost, PostgresTarget, Settings } from "../../DatabaseConfig.js"
import { type DatabaseError, fromSqlError, isRetryable } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { Connection } from "./connection.js"
import { type PgClientState, serverError } from "./pg.js"
import { Pipeline } from "./pipeline.js"
import { trackedParameters } from "./receive.js"
import { fromPostgres } from "./sqlState.js"
import { StartupConnection } from "./startup.js"
import type { PreparePolicy } from "./statementCache.js"
import { milliseconds } from "./transactionSql.js"
import * as Socket from "./transport/socket.js"
import * as Tls from "./transport/tls.js"

/** A host as it is shown in errors and spans. Contains no secret. */
export const describeHost = (target: PostgresTarget, { host, port }: PostgresHost): string =>
  host.startsWith("/")
    ? `${host}/.s.PGSQL.${port}/${target.database}`
    : `${host.includes(":") ? `[${host}]` : host}:${port}/${target.database}`

const startupParameters = (settings: Settings, target: PostgresTarget): Record<string, string> => {
  const parameters: Record<string, string> = { user: target.username, database: target.database }
  if (target.applicationName !== "") {
    parameters.application_name = target.applicationName
  }
  const timeouts = {
    statement_timeout: settings.statementTimeout,
    lock_timeout: settings.lockTimeout,
    idle_in_transaction_session_timeout: settings.idleInTransactionTimeout
  }
  for (const [name, timeout] of Object.entries(timeouts)) {
    if (timeout !== undefined) {
      parameters[name] = String(milliseconds(timeout))
    }
  }
  if (target.serverOptions !== undefined) {
    parameters.options = target.serverOptions
  }
  return parameters
}

const passwordOf = (target: PostgresTarget): string => {
  const password = target.password === undefined ? "" : Redacted.value(target.password)
  if (password === "") {
    throw serverError("28P01", "the server asks for a password, and none is given")
  }
  return password
}

interface AttemptFailure {
  readonly cause: Error
  /** Whether an attempt with the other encryption may succeed. */
  readonly isEncryptionRelated: boolean
}

/** Numbers the connections to servers that send no BackendKeyData. */
let connectionCount = 0

type Resume = (effect: Effect.Effect<Connection, AttemptFailure>) => void

/** Connects to one host with one encryption. */
const attempt = (
  settings: Settings,
  target: PostgresTarget,
  preparePolicy: PreparePolicy,
  host: PostgresHost,
  encryption: Tls.Encryption,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, AttemptFailure> =>
  Effect.suspend(() => {
    const tls = () => Tls.tlsOptions(target, host.host)
    let giveUp = (): void => undefined

    const startUp = (socket: NetSocket, resume: Resume): void => {
      const parameters = new Map<string, string>()
      const isEncrypted = socket instanceof TLSSocket
      const requiresChannelBinding = target.channelBinding === "require"
      if (requiresChannelBinding && !isEncrypted) {
        socket.destroy()
        const cause = serverError("28000", "channel_binding is require, and this connection is not encrypted")
        return resume(Effect.fail({ cause, isEncryptionRelated: false }))
      }
      const connection = new StartupConnection(socket, startupParameters(settings, target), requiresChannelBinding)
      connection.on(
        "parameterStatus",
        (message: { readonly parameterName: string; readonly parameterValue: string }) => {
          if (trackedParameters.has(message.parameterName)) {
            parameters.set(message.parameterName, message.parameterValue)
          }
        }
      )
      // Without these options `pg` would read the environment. The other ones matter to its own Connection only.
      const client = new Pg.Client({
        connection,
        host: host.host,
        port: host.port,
        user: target.username,
        database: target.database,
        password: () => Promise.resolve().then(() => passwordOf(target)),
        ssl: false,
        sslnegotiation: "postgres",
        enableChannelBinding: isEncrypted && target.channelBinding !== "disable"
      } as Pg.ClientConfig)
      const state = client as unknown as PgClientState
      let isSettled = false
      /** Returns whether this is the first outcome. Drops the password in any case. */
      const settle = (): boolean => {
        const isFirst = !isSettled
        isSettled = true
        clearTimeout(timer)
        state.password = null
        state.connectionParameters.password = null
        return isFirst
      }
      const fail = (cause: Error): void => {
        if (settle()) {
          socket.destroy()
          // 28000: pg_hba.conf has no entry for the host with this encryption.
          resume(Effect.fail({ cause, isEncryptionRelated: (cause as { readonly code?: string }).code === "28000" }))
        }
      }
      const timer = setTimeout(() => fail(new Error("timeout expired")), deadline - Date.now())
      giveUp = () => {
        settle()
        socket.destroy()
      }
      client.on("error", fail)
      client.connect((error: Error | null) => {
        if (error) {
          return fail(error)
        }
        if (settle()) {
          const { processID, secretKey } = state
          const pipeline = new Pipeline({
            connection,
            backendKey: processID === null || secretKey === null ? undefined : { processId: processID, secretKey },
            // The address and not the name, which may lead to several servers.
            route: {
              host: socket.remoteAddress ?? host.host,
              port: host.port,
              encryption: isEncrypted ? "required" : "plain",
              tls
            },
            parameters,
            preparePolicy
          })
          connectionCount += 1
          const connectAgain = (restore: Restore) => connect(settings, target, preparePolicy, restore)
          const id = processID ?? connectionCount
          resume(Effect.succeed(new Connection(pipeline, id, describeHost(target, host), connectAgain)))
        }
      })
    }

    const connecting = Effect.async<Connection, AttemptFailure>((resume) => {
      giveUp = Socket.open(
        { ...host, encryption, tls, timeout: deadline - Date.now(), background: false },
        (socket) => startUp(socket, resume),
        ({ cause, stage }) => resume(Effect.fail({ cause, isEncryptionRelated: stage === "tls" }))
      )
    })
    // An interruption may arrive after `resume` was called with a connection, which is then closed here.
    return Effect.onInterrupt(restore(connecting), () => Effect.sync(() => giveUp()))
  })

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

type TargetSessionAttrs = PostgresTarget["targetSessionAttrs"]

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

const checkRole = (
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
    }, deadline - Date.now())
    return Effect.onExit(restore(check), (exit) =>
      Effect.sync(() => {
        clearTimeout(timer)
        if (exit._tag === "Failure") {
          connection.destroy()
        }
      }))
  })
}

const connectHost = (
  settings: Settings,
  target: PostgresTarget,
  preparePolicy: PreparePolicy,
  host: PostgresHost,
  required: TargetSessionAttrs,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const description = describeHost(target, host)
  const [first, second] = Tls.encryptionAttempts(target, host.host)
  const firstAttempt = attempt(settings, target, preparePolicy, host, first, deadline, restore)
  const established = second === undefined
    ? firstAttempt
    : Effect.catchAll(firstAttempt, (failure) =>
      failure.isEncryptionRelated
        ? attempt(settings, target, preparePolicy, host, second, deadline, restore)
        : Effect.fail(failure))
  return established.pipe(
    Effect.mapError(({ cause }) => fromPostgres(cause, { phase: "connect", description })),
    Effect.flatMap((connection) => checkRole(connection, required, description, deadline, restore))
  )
}

/** Combines the failures of several hosts. It is transient if one of them is. */
const combine = (errors: ReadonlyArray<DatabaseError>): DatabaseError => {
  const reasons = new Set(errors.map((error) => error.reason))
  const last = errors[errors.length - 1]
  return reasons.size === 1 ? last : makeError("ConnectionFailed", {
    dialect: "postgres",
    code: last.code,
    reason: Array.from(reasons).join("; "),
    transient: errors.some(isRetryable)
  })
}

/** The longest delay that `setTimeout` accepts, in milliseconds. */
const maxDelay = 2_147_483_647

/**
 * Tries each host once, in order. The remaining time is divided equally among the remaining hosts, so that a silent host
 * leaves time for the others. As in libpq, a host that rejects the user ends the attempt, since the others would too.
 *
 * To be run in an uninterruptible region with its `restore`. It is interruptible while it waits, but not between
 * having a connection and returning it.
 */
export const connect = (
  settings: Settings,
  target: PostgresTarget,
  preparePolicy: PreparePolicy,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> =>
  Effect.suspend(() => {
    const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), maxDelay)
    const deadline = Date.now() + timeout
    const required = target.targetSessionAttrs
    const candidates = target.hosts.map((host): readonly [PostgresHost, TargetSessionAttrs] => [host, required])
    if (required === "prefer-standby") {
      candidates.push(...target.hosts.map((host) => [host, "any"] as const))
    }
    const errors: Array<DatabaseError> = []
    const connectFrom = (index: number): Effect.Effect<Connection, DatabaseError> => {
      const [host, role] = candidates[index]
      const now = Date.now()
      const hostDeadline = now + Math.max(1, (deadline - now) / (candidates.length - index))
      return Effect.catchAll(
        connectHost(settings, target, preparePolicy, host, role, hostDeadline, restore),
        (error) => {
          errors.push(error)
          return error._tag === "AuthenticationFailed"
            ? Effect.fail(error)
            : index + 1 < candidates.length
            ? Effect.suspend(() => connectFrom(index + 1))
            : Effect.fail(combine(errors))
        }
      )
    }
    return connectFrom(0)
  })
