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
import type { PostgresHost } from "../../DatabaseConfig.js"
import { type DatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { attempt, type AttemptFailure, type ConnectAgain, maxDelay } from "./attempt.js"
import type { Connection } from "./connection.js"
import { areSame, type Credentials, credentialsOf } from "./credentials.js"
import { checkRole, type TargetSessionAttrs } from "./role.js"
import { describe, describeHost, type Setup } from "./setup.js"
import { fromPostgres } from "./sqlState.js"
import type { LeftOut } from "./startupParameters.js"
import { staggered } from "./transport/staggered.js"
import * as Tls from "./transport/tls.js"

/** What the attempts of one call of `connect` have in common. */
interface Parts {
  readonly setup: Setup
  readonly credentials: Credentials
}

/** Sessions and statements outside of them differ from then on in what was configured. */
const logLeftOut = ({ isFirst, parameter }: LeftOut, description: string): Effect.Effect<void> =>
  isFirst && parameter.ifRefused === "begin" && parameter.origin !== undefined
    ? Effect.logWarning(
      `a pooler at ${description} refuses the start-up parameter ${parameter.name}: it is set with the BEGIN of each ` +
        "session, and not for statements outside of sessions"
    )
    : Effect.void

/** One attempt for each encryption that may be used, and another one for each start-up parameter that is refused. */
const connectHost = (
  { credentials, setup }: Parts,
  host: PostgresHost,
  required: TargetSessionAttrs,
  deadline: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const description = describeHost(setup.target, host)
  const connectAgain: ConnectAgain = (restore) => connect(setup, restore)
  const attemptWith = (encryption: Tls.Encryption): Effect.Effect<Connection, AttemptFailure> =>
    Effect.catchAll(
      attempt(setup, { host, address: host.host, encryption }, credentials, deadline, connectAgain, restore),
      (failure) =>
        failure.leftOut === undefined
          ? Effect.fail(failure)
          : Effect.zipRight(logLeftOut(failure.leftOut, description), attemptWith(encryption))
    )
  const [first, second] = Tls.encryptionAttempts(setup.target, host.host)
  const established = second === undefined
    ? attemptWith(first)
    : Effect.catchIf(attemptWith(first), ({ isEncryptionRelated }) => isEncryptionRelated, () => attemptWith(second))
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
 */
const connectAs = (
  parts: Parts,
  startedAt: number,
  timeout: number,
  restore: Restore
): Effect.Effect<Connection, DatabaseError> => {
  const { hosts, targetSessionAttrs } = parts.setup.target
  const round = (required: TargetSessionAttrs, time: number) =>
    firstOf(
      hosts.map((host): Attempt => (restore) => connectHost(parts, host, required, startedAt + time, restore)),
      restore
    )
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
 * Asks for the user and the password where they may change, and connects. If the server rejects them, they are asked for
 * once more: they may have been replaced meanwhile. The connect timeout is that of all of it.
 *
 * To be run in an uninterruptible region with its `restore`. It is interruptible while it waits, but not between
 * having a connection and returning it.
 */
export const connect = (setup: Setup, restore: Restore): Effect.Effect<Connection, DatabaseError> =>
  Effect.suspend(() => {
    const { settings, target } = setup
    const timeout = Math.min(Math.max(1, Duration.toMillis(settings.connectTimeout)), maxDelay)
    const startedAt = performance.now()
    const asked = credentialsOf(target, describe(target), startedAt + timeout, restore)
    return Effect.flatMap(asked, (credentials) => {
      const connected = connectAs({ setup, credentials }, startedAt, timeout, restore)
      return target.credentials === undefined ? connected : Effect.catchTag(
        connected,
        "AuthenticationFailed",
        (error) =>
          Effect.flatMap(asked, (fresh) =>
            areSame(credentials, fresh)
              ? Effect.fail(error)
              : connectAs({ setup, credentials: fresh }, startedAt, timeout, restore))
      )
    })
  })
