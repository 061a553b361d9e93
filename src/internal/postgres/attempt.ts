/**
 * One attempt to connect to one server: opens a socket, encrypts it or not, starts up, and watches the connection.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Redacted from "effect/Redacted"
import type { Socket as NetSocket } from "node:net"
import type { PostgresHost } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Server } from "../cluster/servers.js"
import type { Restore } from "../driver.js"
import { NodeTls } from "../nodeTls.js"
import { sendElsewhere } from "./bindCheck.js"
import { Connection } from "./connection.js"
import type { Credentials } from "./credentials.js"
import { ReportedParameters } from "./parameters.js"
import { serverError } from "./pg.js"
import { Pipeline } from "./pipeline.js"
import { demandsTls } from "./poolerErrors.js"
import { describeHost, type Setup } from "./setup.js"
import type { Watched } from "./silence.js"
import { StartupConnection } from "./startup.js"
import { beginSettings, type LeftOut } from "./startupParameters.js"
import { StatementTimeout } from "./statementTimeout.js"
import { milliseconds } from "./transactionSql.js"
import type { BackendKey } from "./transport/cancelRequest.js"
import * as Socket from "./transport/socket.js"
import * as Tls from "./transport/tls.js"

/** The password of the credentials. Throws if there is none. */
const passwordOf = ({ password }: Credentials): string => {
  if (password === undefined || Redacted.value(password) === "") {
    throw serverError("28P01", "the server asks for a password, but none was given")
  }
  return Redacted.value(password)
}

/** The longest delay that `setTimeout` accepts, in milliseconds. */
export const maxDelay = 2_147_483_647

export interface AttemptFailure {
  readonly cause: Error
  /** Whether an attempt with the other encryption may succeed. */
  readonly isEncryptionRelated: boolean
  /** The start-up parameter that was refused, and that the next attempt leaves out. */
  readonly leftOut?: LeftOut | undefined
}

/** Numbers the connections to servers that send no BackendKeyData. */
let connectionCount = 0

/** Opens another connection to the same target. */
export type ConnectAgain = (restore: Restore) => Effect.Effect<Connection, DatabaseError>

type Resume = (effect: Effect.Effect<Connection, AttemptFailure>) => void

/** How to connect to one host, or to one address of it. */
export interface Route {
  readonly host: PostgresHost
  readonly address: string
  readonly encryption: Tls.Encryption
  readonly server: Server
  /** Whether the process may exit before the attempt has ended. */
  readonly isBackground: boolean
  /** Called when the server has accepted the connection, before it sends anything. */
  readonly onAccepted?: (() => void) | undefined
}

/** Connects with one encryption. */
export const attempt = (
  setup: Setup,
  { address, encryption, host, isBackground, onAccepted, server }: Route,
  credentials: Credentials,
  deadline: number,
  connectAgain: ConnectAgain,
  restore: Restore
): Effect.Effect<Connection, AttemptFailure> =>
  Effect.suspend(() => {
    const { preparePolicy, settings, target } = setup
    const startup = setup.startupParameters.select()
    const isDirect = target.sslNegotiation === "direct"
    const tls = () => Tls.tlsOptions(target, host.host)
    let giveUp = (): void => undefined

    const startUp = (socket: NetSocket, resume: Resume): void => {
      const parameters = new ReportedParameters()
      const isEncrypted = socket instanceof NodeTls.TLSSocket
      const requiresChannelBinding = target.channelBinding === "require"
      if (requiresChannelBinding && !isEncrypted) {
        socket.destroy()
        const cause = serverError("28000", "channel_binding is require, but this connection is not encrypted")
        return resume(Effect.fail({ cause, isEncryptionRelated: false }))
      }
      const connection = new StartupConnection(socket)
      let isSettled = false
      /** Returns whether this is the first outcome. */
      const settle = (): boolean => {
        const isFirst = !isSettled
        isSettled = true
        clearTimeout(timer)
        return isFirst
      }
      const fail = (cause: Error): void => {
        if (settle()) {
          socket.destroy()
          const refused = setup.startupParameters.refuse(cause, startup)
          resume(Effect.fail({
            cause: refused instanceof Error ? refused : cause,
            // 28000: pg_hba.conf has no entry for the host with this encryption.
            isEncryptionRelated: (cause as { readonly code?: string }).code === "28000" || demandsTls(cause),
            leftOut: refused instanceof Error ? undefined : refused
          }))
        }
      }
      const timer = setTimeout(() => fail(new Error("timeout expired")), deadline - performance.now())
      if (isBackground) {
        timer.unref()
      }
      giveUp = () => {
        settle()
        socket.destroy()
      }
      connection.onError = fail
      connection.onEnd = () => fail(new Error("Connection terminated unexpectedly"))
      const onReady = (backendKey: BackendKey | undefined): void => {
        if (settle()) {
          // The address and not the name, which may have several addresses.
          const address = socket.remoteAddress ?? host.host
          const encryption = isEncrypted ? "required" : "plain"
          const { statementTimeout } = settings
          setup.engine.identify(parameters, host.host)
          const pipeline = new Pipeline({
            connection,
            backendKey,
            route: { host: address, port: host.port, encryption, isDirect, tls },
            parameters,
            preparePolicy,
            types: setup.types,
            engine: setup.engine,
            onNotice: settings.onNotice,
            beginSettings: beginSettings(startup, parameters),
            resetAlways: settings.reset === "always",
            sendElsewhere: sendElsewhere(connectAgain, preparePolicy.checks),
            statementTimeout: new StatementTimeout(
              statementTimeout === undefined ? undefined : milliseconds(statementTimeout)
            )
          })
          watch(pipeline, setup, { host, address, encryption, server, isBackground }, credentials)
          connectionCount += 1
          const id = backendKey?.processId ?? connectionCount
          resume(Effect.succeed(new Connection(pipeline, id, describeHost(target, host), connectAgain)))
        }
      }
      connection.start({
        parameters: { user: credentials.user, database: target.database, ...startup.sent },
        user: credentials.user,
        password: () => passwordOf(credentials),
        bindsChannel: isEncrypted && target.channelBinding !== "disable",
        requiresChannelBinding,
        onParameter: (name, value) => void parameters.report(name, value, false),
        onReady
      })
    }

    const connecting = Effect.async<Connection, AttemptFailure>((resume) => {
      giveUp = Socket.open(
        {
          host: address,
          port: host.port,
          encryption,
          isDirect,
          tls,
          timeout: deadline - performance.now(),
          background: isBackground,
          onAccepted
        },
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
  route: Route,
  credentials: Credentials
): void => {
  const { silence, statementTimeouts } = setup
  const watched: Watched = {
    address: `${route.address}:${route.host.port}`,
    get isWaiting() {
      return pipeline.isWaiting
    },
    get activity() {
      return pipeline.activity
    },
    probe: (onAnswer) => probe(setup, route, credentials, onAnswer),
    onSilence: (millis) => {
      setup.servers.failed(route.server, "silent", "no answer to a statement, nor to a probe on another connection")
      pipeline.loseSilent(millis)
    }
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

/** How long a probe waits for an answer if there is no connect timeout, in milliseconds. */
const defaultProbeTimeout = 5_000
/** The longest wait with several servers, since another one may have been promoted. */
const clusterProbeTimeout = 2_000
/** The number of ticks in that time. A tick that is late because the event loop was busy counts once. */
const probeTicks = 10

/** A probe commits nothing, so that no outcome is looked up on another connection. */
const unusedConnect: ConnectAgain = () => Effect.dieMessage("a probe opens no further connection")

/** Whether a failed attempt to connect was answered by a server, even if with an error. */
export const isAnswer = ({ cause }: AttemptFailure): boolean =>
  !(cause instanceof AggregateError) && !("syscall" in cause) &&
  (cause as { readonly code?: unknown }).code !== "ECONNRESET" &&
  !/^(?:timeout expired|Connection terminated)/.test(cause.message)

/**
 * Finds out on a new connection whether a server is alive: whether it answers the start-up, with success or with an
 * error. No statement is sent, since a pooler whose connections are all in use would not answer it.
 */
const probe = (
  setup: Setup,
  route: Route,
  credentials: Credentials,
  onAnswer: (isAlive: boolean) => void
): void => {
  const timeout = Math.min(
    Duration.isFinite(setup.settings.connectTimeout)
      ? Duration.toMillis(setup.settings.connectTimeout)
      : defaultProbeTimeout,
    setup.servers.isCluster ? clusterProbeTimeout : Infinity
  )
  // The connection of a probe is not watched, since it has a timeout already.
  const unwatched: Setup = { ...setup, silence: undefined }
  const ask = Effect.uninterruptibleMask((restore) =>
    Effect.match(attempt(unwatched, route, credentials, performance.now() + maxDelay, unusedConnect, restore), {
      onFailure: isAnswer,
      onSuccess: (connection) => {
        connection.destroy()
        return true
      }
    })
  )
  const fiber = Effect.runFork(ask)
  let tick = 0
  setup.servers.checkOthers(route.server)
  const onTick = (): void => {
    tick++
    if (tick === probeTicks) {
      fiber.unsafeInterruptAsFork(FiberId.none)
    } else {
      setup.servers.checkOthers(route.server)
      timer = setTimeout(onTick, timeout / probeTicks)
    }
  }
  let timer = setTimeout(onTick, timeout / probeTicks)
  fiber.addObserver((exit) => {
    clearTimeout(timer)
    onAnswer(Exit.isSuccess(exit) && exit.value)
  })
}
