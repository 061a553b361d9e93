/**
 * Establishes a connection: asks for the user and the password, and tries the hosts until one accepts.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Attempt as ConnectAttempt } from "../cluster/connectLimit.js"
import type { Server, Servers } from "../cluster/servers.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { attempt, type AttemptFailure, type ConnectAgain, isAnswer, maxDelay } from "./attempt.js"
import { type Candidate, candidatesOf, ranked } from "./candidates.js"
import type { Connection } from "./connection.js"
import { areSame, type Credentials, credentialsOf } from "./credentials.js"
import { checkRole, examine, type TargetSessionAttrs } from "./role.js"
import { describe, describeHost, type Setup } from "./setup.js"
import { fromPostgres } from "./sqlState.js"
import type { LeftOut } from "./startupParameters.js"
import { attemptDelay, staggered } from "./transport/staggered.js"
import * as Tls from "./transport/tls.js"

/** What the attempts of one call of `connect` have in common. */
interface Parts {
  readonly setup: Setup
  readonly credentials: Credentials
}

/** Warns once that a setting applies in sessions only. */
const logLeftOut = ({ isFirst, parameter }: LeftOut, description: string): Effect.Effect<void> =>
  isFirst && parameter.ifRefused === "begin" && parameter.origin !== undefined
    ? Effect.logWarning(
      `a pooler at ${description} refuses the start-up parameter ${parameter.name}: it is set with the BEGIN of each ` +
        "session, and not for statements outside of sessions"
    )
    : Effect.void

/**
 * Makes one attempt for each encryption that may be used, and another one for each start-up parameter that is refused.
 */
const startUp = (
  { credentials, setup }: Parts,
  { host, server }: Candidate,
  deadline: number,
  restore: Restore,
  /** Called when the server has accepted a connection. Undefined for a check in the background. */
  onAccepted?: () => void
): Effect.Effect<Connection, AttemptFailure> => {
  const isBackground = onAccepted === undefined
  const description = describeHost(setup.target, host)
  const connectAgain: ConnectAgain = (restore) => connect(setup, restore)
  const attemptWith = (encryption: Tls.Encryption): Effect.Effect<Connection, AttemptFailure> =>
    Effect.catchAll(
      attempt(
        setup,
        { host, address: server.address, encryption, server, isBackground, onAccepted },
        credentials,
        deadline,
        connectAgain,
        restore
      ),
      (failure) =>
        failure.leftOut === undefined
          ? Effect.fail(failure)
          : Effect.zipRight(logLeftOut(failure.leftOut, description), attemptWith(encryption))
    )
  const [first, second] = Tls.encryptionAttempts(setup.target, host.host)
  const established = second === undefined
    ? attemptWith(first)
    : Effect.catchIf(attemptWith(first), ({ isEncryptionRelated }) => isEncryptionRelated, () => attemptWith(second))
  return Effect.tapBoth(established, {
    onSuccess: () => Effect.sync(() => setup.servers.answered(server)),
    onFailure: (failure) => Effect.sync(() => noteFailure(setup.servers, server, failure))
  })
}

/** Whether an attempt has run out of time. */
const isTimeout = ({ code, message }: Error & { readonly code?: unknown }): boolean =>
  message === "timeout expired" || code === "ETIMEDOUT"

/** Notes the state of a server after a failed attempt. One that starts up or shuts down (57P03) counts as down. */
const noteFailure = (servers: Servers, server: Server, failure: AttemptFailure): void => {
  const cause: Error & { readonly code?: unknown } = failure.cause
  if (isAnswer(failure) && cause.code !== "57P03") {
    servers.answered(server)
  } else {
    const isSilent = isTimeout(cause) || (cause instanceof AggregateError && cause.errors.every(isTimeout))
    servers.failed(server, isSilent ? "silent" : "down", fromPostgres(cause, { phase: "connect" }).reason)
  }
}

/** Waits until the limit of the server lets an attempt begin. Undefined if the deadline comes first. */
const waitForPermit = (
  { connectLimit }: Setup,
  server: Server,
  deadline: number
): Effect.Effect<ConnectAttempt | undefined> =>
  Effect.async<ConnectAttempt | undefined>((resume) => {
    const timer = setTimeout(() => {
      attempt.end()
      resume(Effect.succeed(undefined))
    }, Math.min(maxDelay, deadline - performance.now()))
    const onGranted = (): void => {
      clearTimeout(timer)
      // It may be granted before `take` has returned.
      resume(Effect.sync(() => attempt))
    }
    const attempt: ConnectAttempt = connectLimit.take(server, onGranted)
    // An interruption may also come after the attempt was granted.
    return Effect.sync(() => {
      clearTimeout(timer)
      attempt.end()
    })
  })

/** Connects to one server, and checks that it has the required role. */
const connectTo = (
  parts: Parts,
  candidate: Candidate,
  required: TargetSessionAttrs,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const { setup } = parts
  const { servers, target } = setup
  const { host, server } = candidate
  const description = describeHost(target, host)
  const failure = (cause: Error) => fromPostgres(cause, { phase: "connect", description })
  const prefers = required === "any" && target.targetSessionAttrs === "prefer-standby"
    ? (other: Server) => target.hosts.some(({ host, port }) => host === other.host && port === other.port)
    : undefined
  return Effect.flatMap(restore(waitForPermit(setup, server, deadline)), (attempt) =>
    attempt === undefined
      ? Effect.fail(failure(new Error("timeout expired")))
      : startUp(parts, candidate, deadline, restore, attempt.accepted).pipe(
        Effect.mapError(({ cause }) => failure(cause)),
        Effect.flatMap((connection) =>
          checkRole(connection, { required, servers, server, description, deadline, prefers }, restore)
        ),
        Effect.ensuring(Effect.sync(attempt.end))
      ))
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

/**
 * How long an attempt may go unanswered when all other servers have failed, in milliseconds: in general, and at a
 * server that was silent before. The server is then checked in the background, with the whole connect timeout.
 */
const maxUnanswered = 1_000
const maxUnansweredIfSilent = attemptDelay

/**
 * Makes attempts that overlap (RFC 8305), and returns the first connection that is established. The others are closed.
 * As in libpq, a host that rejects the user ends all attempts, since the others would reject them too.
 *
 * A server that has not answered when another one has connected is tried last the next time. When all others have
 * failed, it is not waited for until the connect timeout: one of the others may have been promoted meanwhile, and a new
 * attempt finds it.
 */
const firstOf = (
  candidates: ReadonlyArray<Candidate>,
  { servers, target }: Setup,
  attempt: (candidate: Candidate, restore: Restore) => Effect.Effect<Connection, DatabaseError>,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> =>
  candidates.length === 1 ? attempt(candidates[0], restore) : Effect.flatMap(Effect.runtime(), (runtime) => {
    const fibers: Array<Fiber.RuntimeFiber<Connection, DatabaseError>> = []
    /** The attempts under way, and until when each is waited for if all others have failed. */
    const running = new Map<Server, number>()
    const errors: Array<DatabaseError> = []
    const unanswered = ({ host }: Candidate) =>
      fromPostgres(new Error("timeout expired"), { phase: "connect", description: describeHost(target, host) })
    let hasWon = false
    let giveUp = (): void => undefined
    const start = (
      candidate: Candidate,
      onSuccess: (connection: Connection) => void,
      onFailure: (error: DatabaseError) => void
    ): () => void => {
      const { server } = candidate
      const startedAt = performance.now()
      running.set(server, startedAt + (server.state === "silent" ? maxUnansweredIfSilent : maxUnanswered))
      let isGivenUp = false
      // Fibers inherit whether they can be interrupted, and this runs in an uninterruptible region.
      const fiber = Runtime.runFork(
        runtime,
        Effect.interruptible(Effect.uninterruptibleMask((restore) => attempt(candidate, restore)))
      )
      fibers.push(fiber)
      fiber.addObserver((exit) => {
        running.delete(server)
        if (isGivenUp) {
          return Exit.match(exit, { onFailure: () => undefined, onSuccess: (late) => late.destroy() })
        }
        Exit.match(exit, {
          onFailure: (cause) => {
            const error = failureOf(cause)
            errors.push(error)
            onFailure(error)
          },
          onSuccess: (connection) => {
            hasWon = true
            onSuccess(connection)
          }
        })
      })
      return () => {
        isGivenUp = true
        if (hasWon && performance.now() - startedAt >= attemptDelay && server.answeredAt < startedAt) {
          servers.markSilent(
            server,
            `no answer within ${attemptDelay} milliseconds, although another server had answered`
          )
        }
        fiber.unsafeInterruptAsFork(FiberId.none)
      }
    }
    const race = Effect.async<Connection, DatabaseError>((resume) => {
      const unansweredTimer = setInterval(() => {
        const now = performance.now()
        const isAnswered = candidates.some(({ server }) => server.state === "up" && !running.has(server))
        if (isAnswered && errors.length + running.size === candidates.length) {
          const silent = candidates.filter(({ server }) => running.has(server))
          if (silent.every(({ server }) => running.get(server)! <= now)) {
            giveUp()
            silent.forEach(({ server }) =>
              servers.markSilent(server, "no answer, although all other servers had answered")
            )
            resume(Effect.fail(combine([...errors, ...silent.map(unanswered)])))
          }
        }
      }, maxUnansweredIfSilent / 5)
      const stop = staggered<Connection, DatabaseError>({
        count: candidates.length,
        start: (index, onSuccess, onFailure) => start(candidates[index], onSuccess, onFailure),
        isFinal: (error) => error._tag === "AuthenticationFailed",
        onSuccess: (connection) => {
          clearInterval(unansweredTimer)
          // An interruption may arrive after `resume` was called with a connection, which is then closed.
          giveUp = () => connection.destroy()
          resume(Effect.succeed(connection))
        },
        onFailure: (errors) => {
          clearInterval(unansweredTimer)
          resume(Effect.fail(combine(errors)))
        }
      })
      giveUp = () => {
        clearInterval(unansweredTimer)
        stop()
      }
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
 * Tries each server once. The attempts overlap and share the timeout. `prefer-standby` accepts any server in a second
 * round; the first round may use half of the time.
 */
const connectAs = (
  parts: Parts,
  startedAt: number,
  timeout: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const { servers, target } = parts.setup
  const { targetSessionAttrs } = target
  const round = (required: TargetSessionAttrs, time: number) =>
    Effect.flatMap(restore(candidatesOf(target, servers, startedAt + time)), (candidates) => {
      servers.used()
      return firstOf(
        ranked(candidates, required),
        parts.setup,
        (candidate, restore) => connectTo(parts, candidate, required, startedAt + time, restore),
        restore
      )
    })
  return targetSessionAttrs === "prefer-standby"
    ? Effect.catchAll(
      round(targetSessionAttrs, timeout / 2),
      (error) =>
        error._tag === "AuthenticationFailed"
          ? Effect.fail(error)
          : Effect.mapError(
            round("any", timeout),
            (last) => last._tag === "AuthenticationFailed" ? last : combine([error, last])
          )
    )
    : round(targetSessionAttrs, timeout)
}

/**
 * Asks for the user and the password where they may change, and connects. If the server rejects them, they are asked
 * for once more: they may have been replaced meanwhile. The connect timeout covers all of this.
 *
 * To be run in an uninterruptible region with its `restore`. It is interruptible while it waits, but not between
 * establishing a connection and returning it.
 */
export const connect = (setup: Setup, restore: Restore): Effect.Effect<Connection, DatabaseError> =>
  Effect.suspend(() => {
    const { settings, target } = setup
    const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), maxDelay)
    const startedAt = performance.now()
    const currentCredentials = credentialsOf(target, describe(target), startedAt + timeout, restore)
    return Effect.flatMap(currentCredentials, (credentials) => {
      const connected = connectAs({ setup, credentials }, startedAt, timeout, restore)
      return target.credentials === undefined ? connected : Effect.catchTag(
        connected,
        "AuthenticationFailed",
        (error) =>
          Effect.flatMap(currentCredentials, (fresh) =>
            areSame(credentials, fresh)
              ? Effect.fail(error)
              : connectAs({ setup, credentials: fresh }, startedAt, timeout, restore))
      )
    })
  })

/** How long a check of a server takes at most, in milliseconds, whatever the connect timeout. */
const maxCheckTime = 5_000

/**
 * Checks a server in the background: whether it answers, its role, its timeline and its lag. Keeps no process alive,
 * and calls `onEnd` in any case.
 */
export const probeServer = (setup: Setup, server: Server, onEnd: () => void): void => {
  const { settings, servers, target } = setup
  const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), maxCheckTime)
  const host = target.hosts.find(({ host, port }) => host === server.host && port === server.port)
  // Its deadline takes the place of watching it for silence.
  const unwatched: Setup = { ...setup, silence: undefined }
  const probe = Effect.uninterruptibleMask((restore) => {
    const deadline = performance.now() + timeout
    return Effect.flatMap(
      credentialsOf(target, describe(target), deadline, restore),
      (credentials) =>
        host === undefined
          ? Effect.void
          : Effect.flatMap(
            startUp({ setup: unwatched, credentials }, { host, server }, deadline, restore),
            (connection) => {
              const timer = setTimeout(() => connection.destroy(), deadline - performance.now()).unref()
              return Effect.ensuring(
                restore(examine(connection, servers, server)),
                Effect.zipRight(Effect.sync(() => clearTimeout(timer)), connection.close)
              )
            }
          )
    )
  })
  Effect.runFork(probe).addObserver(onEnd)
}
