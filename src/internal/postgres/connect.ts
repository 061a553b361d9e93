/**
 * Establishes a connection: tries the hosts, encrypts as sslmode says, starts up, and checks the server's role.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Runtime from "effect/Runtime"
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
import { SilenceMonitor, type Watched } from "./silence.js"
import { fromPostgres } from "./sqlState.js"
import { StartupConnection } from "./startup.js"
import { PreparePolicy } from "./statementCache.js"
import { StatementTimeout, StatementTimeoutMonitor } from "./statementTimeout.js"
import { milliseconds } from "./transactionSql.js"
import * as Socket from "./transport/socket.js"
import { staggered } from "./transport/staggered.js"
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

/** The longest delay that `setTimeout` accepts, in milliseconds. */
const maxDelay = 2_147_483_647

interface AttemptFailure {
  readonly cause: Error
  /** Whether an attempt with the other encryption may succeed. */
  readonly isEncryptionRelated: boolean
}

/** Numbers the connections to servers that send no BackendKeyData. */
let connectionCount = 0

type Resume = (effect: Effect.Effect<Connection, AttemptFailure>) => void

/** What all connections of a driver have in common. */
export interface Setup {
  readonly settings: Settings
  readonly target: PostgresTarget
  readonly preparePolicy: PreparePolicy
  /** Undefined if a server may be silent for ever. */
  readonly silence: SilenceMonitor | undefined
  readonly statementTimeouts: StatementTimeoutMonitor
}

/** Opens nothing. */
export const makeSetup = (settings: Settings, target: PostgresTarget): Setup => {
  const silence = Duration.toMillis(settings.silence)
  return {
    settings,
    target,
    preparePolicy: new PreparePolicy(settings.preparedStatements),
    silence: silence === 0 ? undefined : new SilenceMonitor(silence),
    statementTimeouts: new StatementTimeoutMonitor()
  }
}

/** Connects to one host, or to one address of it, with one encryption. */
const attempt = (
  setup: Setup,
  host: PostgresHost,
  address: string,
  encryption: Tls.Encryption,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, AttemptFailure> =>
  Effect.suspend(() => {
    const { preparePolicy, settings, target } = setup
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
      const timer = setTimeout(() => fail(new Error("timeout expired")), deadline - performance.now())
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
          // The address and not the name, which may lead to several servers.
          const address = socket.remoteAddress ?? host.host
          const encryption = isEncrypted ? "required" : "plain"
          const { statementTimeout } = settings
          const pipeline = new Pipeline({
            connection,
            backendKey: processID === null || secretKey === null ? undefined : { processId: processID, secretKey },
            route: { host: address, port: host.port, encryption, tls },
            parameters,
            preparePolicy,
            statementTimeout: new StatementTimeout(
              statementTimeout === undefined ? undefined : milliseconds(statementTimeout)
            )
          })
          watch(pipeline, setup, host, address, encryption)
          connectionCount += 1
          const connectAgain = (restore: Restore) => connect(setup, restore)
          const id = processID ?? connectionCount
          resume(Effect.succeed(new Connection(pipeline, id, describeHost(target, host), connectAgain)))
        }
      })
    }

    const connecting = Effect.async<Connection, AttemptFailure>((resume) => {
      giveUp = Socket.open(
        { host: address, port: host.port, encryption, tls, timeout: deadline - performance.now(), background: false },
        (socket) => startUp(socket, resume),
        ({ cause, stage }) => resume(Effect.fail({ cause, isEncryptionRelated: stage === "tls" }))
      )
    })
    // An interruption may arrive after `resume` was called with a connection, which is then closed here.
    return Effect.onInterrupt(restore(connecting), () => Effect.sync(() => giveUp()))
  })

/** Watches an established connection until it is closed. */
const watch = (
  pipeline: Pipeline,
  setup: Setup,
  host: PostgresHost,
  address: string,
  encryption: Tls.Encryption
): void => {
  const { silence, statementTimeouts } = setup
  const watched: Watched = {
    address: `${address}:${host.port}`,
    get isWaiting() {
      return pipeline.current !== undefined
    },
    get activity() {
      return pipeline.activity
    },
    probe: (onAnswer) => probe(setup, host, address, encryption, onAnswer),
    onSilence: (millis) => pipeline.loseSilent(millis)
  }
  silence?.watch(watched)
  statementTimeouts.watch(pipeline)
  pipeline.onWaiting = () => {
    if (pipeline.statementTimeout.current !== undefined) {
      statementTimeouts.start()
    }
  }
  pipeline.onClosed = () => {
    silence?.unwatch(watched)
    statementTimeouts.unwatch(pipeline)
  }
}

/** How long a server that is asked whether it lives may take to answer, if attempts to connect have no limit. */
const defaultProbeTimeout = 5_000
/** The parts of that time. One that takes longer, because the event loop was busy, counts once. */
const probeParts = 10

/** Whether a failed attempt to connect was answered by a server, even if with an error. */
const isAnswer = ({ cause }: AttemptFailure): boolean =>
  !(cause instanceof AggregateError) && !("syscall" in cause) &&
  (cause as { readonly code?: unknown }).code !== "ECONNRESET" &&
  !/^(?:timeout expired|Connection terminated)/.test(cause.message)

/**
 * Asks the server of an address on a connection of its own whether it lives. It does if it answers the start-up, with
 * success or with an error. No statement is sent: a pooler whose connections are all in use would keep it waiting.
 */
const probe = (
  setup: Setup,
  host: PostgresHost,
  address: string,
  encryption: Tls.Encryption,
  onAnswer: (isAlive: boolean) => void
): void => {
  const timeout = Duration.isFinite(setup.settings.connectTimeout)
    ? Duration.toMillis(setup.settings.connectTimeout)
    : defaultProbeTimeout
  // The connection of a probe is not watched, since it has a timeout already.
  const unwatched: Setup = { ...setup, silence: undefined }
  const ask = Effect.uninterruptibleMask((restore) =>
    Effect.match(attempt(unwatched, host, address, encryption, performance.now() + maxDelay, restore), {
      onFailure: isAnswer,
      onSuccess: (connection) => {
        connection.destroy()
        return true
      }
    })
  )
  const fiber = Effect.runFork(ask)
  let part = 0
  const onPart = (): void => {
    part++
    if (part === probeParts) {
      fiber.unsafeInterruptAsFork(FiberId.none)
    } else {
      timer = setTimeout(onPart, timeout / probeParts)
    }
  }
  let timer = setTimeout(onPart, timeout / probeParts)
  fiber.addObserver((exit) => {
    clearTimeout(timer)
    onAnswer(Exit.isSuccess(exit) && exit.value)
  })
}

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

const connectHost = (
  setup: Setup,
  host: PostgresHost,
  required: TargetSessionAttrs,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const description = describeHost(setup.target, host)
  const [first, second] = Tls.encryptionAttempts(setup.target, host.host)
  const firstAttempt = attempt(setup, host, host.host, first, deadline, restore)
  const established = second === undefined
    ? firstAttempt
    : Effect.catchAll(firstAttempt, (failure) =>
      failure.isEncryptionRelated
        ? attempt(setup, host, host.host, second, deadline, restore)
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

type Attempt = (restore: Restore) => Effect.Effect<Connection, DatabaseError>

/**
 * Makes attempts that overlap (RFC 8305), and gives the first connection that is established. The others are closed. As in
 * libpq, a host that rejects the user ends all attempts, since the others would too.
 */
const firstOf = (attempts: ReadonlyArray<Attempt>, restore: Restore): Effect.Effect<Connection, DatabaseError> =>
  attempts.length === 1 ? attempts[0](restore) : Effect.flatMap(Effect.runtime(), (runtime) => {
    const fibers: Array<Fiber.RuntimeFiber<Connection, DatabaseError>> = []
    let giveUp = (): void => undefined
    const start = (
      attempt: Attempt,
      onSuccess: (connection: Connection) => void,
      onFailure: (error: DatabaseError) => void
    ): () => void => {
      let isGivenUp = false
      // Fibers inherit whether they can be interrupted, and this runs in an uninterruptible region.
      const fiber = Runtime.runFork(runtime, Effect.interruptible(Effect.uninterruptibleMask(attempt)))
      fibers.push(fiber)
      fiber.addObserver((exit) => {
        if (isGivenUp) {
          Exit.match(exit, { onFailure: () => undefined, onSuccess: (late) => late.destroy() })
        } else {
          Exit.match(exit, { onFailure: (cause) => onFailure(failureOf(cause)), onSuccess })
        }
      })
      return () => {
        isGivenUp = true
        fiber.unsafeInterruptAsFork(FiberId.none)
      }
    }
    const race = Effect.async<Connection, DatabaseError>((resume) => {
      giveUp = staggered<Connection, DatabaseError>({
        count: attempts.length,
        start: (index, onSuccess, onFailure) => start(attempts[index], onSuccess, onFailure),
        isFinal: (error) => error._tag === "AuthenticationFailed",
        onSuccess: (connection) => {
          // An interruption may arrive after `resume` was called with a connection, which is then closed.
          giveUp = () => connection.destroy()
          resume(Effect.succeed(connection))
        },
        onFailure: (errors) => resume(Effect.fail(combine(errors)))
      })
    })
    return Effect.onInterrupt(
      restore(race),
      () => Effect.zipRight(Effect.sync(() => giveUp()), Fiber.interruptAll(fibers))
    )
  })

/** A defect of one attempt must not keep the others from being awaited. */
const failureOf = (cause: Cause.Cause<DatabaseError>): DatabaseError =>
  Option.getOrElse(Cause.failureOption(cause), () => fromPostgres(Cause.squash(cause), { phase: "connect" }))

/**
 * Tries each host once. The attempts begin in order and overlap, and the timeout is that of all of them. `prefer-standby`
 * accepts any server in a second round; the first one may use half of the time.
 *
 * To be run in an uninterruptible region with its `restore`. It is interruptible while it waits, but not between
 * having a connection and returning it.
 */
export const connect = (setup: Setup, restore: Restore): Effect.Effect<Connection, DatabaseError> =>
  Effect.suspend(() => {
    const { settings, target } = setup
    const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), maxDelay)
    const startedAt = performance.now()
    const round = (required: TargetSessionAttrs, time: number) =>
      firstOf(
        target.hosts.map((host): Attempt => (restore) => connectHost(setup, host, required, startedAt + time, restore)),
        restore
      )
    const required = target.targetSessionAttrs
    return required === "prefer-standby"
      ? Effect.catchAll(
        round(required, timeout / 2),
        (error) =>
          error._tag === "AuthenticationFailed"
            ? Effect.fail(error)
            : Effect.mapError(
              round("any", timeout),
              (last) => last._tag === "AuthenticationFailed" ? last : combine([error, last])
            )
      )
      : round(required, timeout)
  })
