/**
 * From settings to an established connection: hosts in turn, encryption as asked, start-up, the server's role.
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
import { serversOwn } from "./receive.js"
import { Pipeline } from "./pipeline.js"
import { Connection } from "./connection.js"
import { serverError, type Session } from "./pg.js"
import type { Preparing } from "./statementCache.js"
import * as Socket from "./transport/socket.js"
import { fromPostgres } from "./sqlState.js"
import * as Tls from "./transport/tls.js"
import { milliseconds } from "./transactionSql.js"
import { StartupConnection } from "./startup.js"

/** Where a connection leads, as it may be shown. */
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

/** The failure of an attempt, and whether another encryption might do better. */
interface Refusal {
  readonly cause: Error
  readonly elseways: boolean
}

let connections = 0

type Resume = (effect: Effect.Effect<Connection, Refusal>) => void

/** One attempt at one host with one encryption. */
const attempt = (
  settings: Settings,
  target: PostgresTarget,
  preparing: Preparing,
  host: PostgresHost,
  encryption: Tls.Encryption,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, Refusal> =>
  Effect.suspend(() => {
    const tls = () => Tls.options(target, host.host)
    let giveUp = (): void => undefined

    const startUp = (socket: NetSocket, resume: Resume): void => {
      const parameters = new Map<string, string>()
      const encrypted = socket instanceof TLSSocket
      const bound = target.channelBinding === "require"
      if (bound && !encrypted) {
        socket.destroy()
        const cause = serverError("28000", "channel_binding is require, and this connection is not encrypted")
        return resume(Effect.fail({ cause, elseways: false }))
      }
      const wire = new StartupConnection(socket, startupParameters(settings, target), bound)
      wire.on("parameterStatus", (message: { readonly parameterName: string; readonly parameterValue: string }) => {
        if (serversOwn.has(message.parameterName)) {
          parameters.set(message.parameterName, message.parameterValue)
        }
      })
      // What is left out here, pg takes from the environment; the rest it leaves to the wire.
      const client = new Pg.Client({
        connection: wire,
        host: host.host,
        port: host.port,
        user: target.username,
        database: target.database,
        password: () => Promise.resolve().then(() => passwordOf(target)),
        ssl: false,
        sslnegotiation: "postgres",
        enableChannelBinding: encrypted && target.channelBinding !== "disable"
      } as Pg.ClientConfig)
      const session = client as unknown as Session
      let settled = false
      const settle = (): boolean => {
        const first = !settled
        settled = true
        clearTimeout(timer)
        session.password = null
        session.connectionParameters.password = null
        return first
      }
      const fail = (cause: Error): void => {
        if (settle()) {
          socket.destroy()
          resume(Effect.fail({ cause, elseways: (cause as { readonly code?: string }).code === "28000" }))
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
          const { processID, secretKey } = session
          const channel = new Pipeline({
            wire,
            key: processID === null || secretKey === null ? undefined : { processId: processID, secret: secretKey },
            // A name may lead to several servers: the request must reach the one that answered.
            route: {
              host: socket.remoteAddress ?? host.host,
              port: host.port,
              encryption: encrypted ? "required" : "plain",
              tls
            },
            parameters,
            preparing
          })
          connections += 1
          const elsewhere = (restore: Restore) => connect(settings, target, preparing, restore)
          resume(
            Effect.succeed(new Connection(channel, processID ?? connections, describeHost(target, host), elsewhere))
          )
        }
      })
    }

    const waiting = Effect.async<Connection, Refusal>((resume) => {
      giveUp = Socket.open(
        { ...host, encryption, tls, timeout: deadline - Date.now(), background: false },
        (socket) => startUp(socket, resume),
        ({ cause, stage }) => resume(Effect.fail({ cause, elseways: stage === "tls" }))
      )
    })
    // An interruption may come when it has succeeded already, and then takes what nobody has seen.
    return Effect.onInterrupt(restore(waiting), () => Effect.sync(() => giveUp()))
  })

interface Role {
  readonly standby: boolean
  readonly readOnly: boolean
}

/** What target_session_attrs can ask of a server, from its own words where it reports them (PostgreSQL 14 and later). */
const role = (connection: Connection): Effect.Effect<Role, SqlError> => {
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

type Wanted = PostgresTarget["targetSessionAttrs"]

const accepts = (wanted: Wanted, is: Role): boolean => {
  switch (wanted) {
    case "any":
      return true
    case "read-write":
      return !is.standby && !is.readOnly
    case "read-only":
      return is.standby || is.readOnly
    case "primary":
      return !is.standby
    case "standby":
    case "prefer-standby":
      return is.standby
  }
}

const checkRole = (
  connection: Connection,
  wanted: Wanted,
  description: string,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  if (wanted === "any") {
    return Effect.succeed(connection)
  }
  const fail = (code: string, reason: string, transient: boolean) =>
    makeError("ConnectionFailed", {
      dialect: "postgres",
      code,
      reason: `could not connect to ${description}: ${reason}`,
      transient
    })
  let expired = false
  const check = role(connection).pipe(
    Effect.mapError((error) => {
      const { code, reason } = fromSqlError(error)
      return expired
        ? fromPostgres(new Error("timeout expired"), { phase: "connect", description })
        : fail(code, reason, isRetryable(fromSqlError(error)))
    }),
    Effect.filterOrFail(
      (is) => accepts(wanted, is),
      (is) =>
        fail(
          "08004",
          `the server is ${is.standby ? "a standby" : "the primary"}${is.readOnly ? " and read-only" : ""}, where ` +
            `target_session_attrs asks for ${wanted}`,
          true
        )
    ),
    Effect.as(connection)
  )
  return Effect.suspend(() => {
    const timer = setTimeout(() => {
      expired = true
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
  preparing: Preparing,
  host: PostgresHost,
  wanted: Wanted,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const description = describeHost(target, host)
  const [first, second] = Tls.attempts(target, host.host)
  const one = attempt(settings, target, preparing, host, first, deadline, restore)
  const established = second === undefined
    ? one
    : Effect.catchAll(one, (refusal) =>
      refusal.elseways
        ? attempt(settings, target, preparing, host, second, deadline, restore)
        : Effect.fail(refusal))
  return established.pipe(
    Effect.mapError(({ cause }) => fromPostgres(cause, { phase: "connect", description })),
    Effect.flatMap((connection) => checkRole(connection, wanted, description, deadline, restore))
  )
}

/** One failure of several hosts: it can pass if one of them can. */
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

/** A timer cannot be set for longer. */
const longestTimeout = 2_147_483_647

/**
 * One attempt to connect. Each host has its equal share of the time that is left, so that one that is silent leaves some
 * to those behind it. A host that refuses the user ends the attempt, as in libpq: the others would refuse too.
 *
 * To be run in an uninterruptible region, whose `restore` it takes: interruptible while it waits, and not between having
 * a connection and giving it to the caller.
 */
export const connect = (
  settings: Settings,
  target: PostgresTarget,
  preparing: Preparing,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> =>
  Effect.suspend(() => {
    const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), longestTimeout)
    const deadline = Date.now() + timeout
    const wanted = target.targetSessionAttrs
    const candidates = target.hosts.map((host): readonly [PostgresHost, Wanted] => [host, wanted])
    if (wanted === "prefer-standby") {
      candidates.push(...target.hosts.map((host) => [host, "any"] as const))
    }
    const errors: Array<DatabaseError> = []
    const from = (index: number): Effect.Effect<Connection, DatabaseError> => {
      const [host, role] = candidates[index]
      const now = Date.now()
      const share = now + Math.max(1, (deadline - now) / (candidates.length - index))
      return Effect.catchAll(connectHost(settings, target, preparing, host, role, share, restore), (error) => {
        errors.push(error)
        return error._tag === "AuthenticationFailed"
          ? Effect.fail(error)
          : index + 1 < candidates.length
          ? Effect.suspend(() => from(index + 1))
          : Effect.fail(combine(errors))
      })
    }
    return from(0)
  })
