/**
 * Notifications over one connection of their own, shared by everyone who listens, and replaced when it is lost.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as RcRef from "effect/RcRef"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Take from "effect/Take"
import Pg from "pg"
import { type DatabaseError, fromSqlError, isRetryable, toSqlError } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import type { Connection } from "./connection.js"
import { serverError } from "./pg.js"
import { fromPostgres } from "./sqlState.js"

/** The server cuts longer names off, and nothing would ever arrive under the name that was asked for. */
const longestChannel = 63

/** How often a connection on which nothing arrives is asked whether it is still there, and how long it may take. */
const pingInterval = Duration.seconds(30)
const pingTimeout = Duration.seconds(5)

/** Between attempts to connect, in milliseconds. */
const firstPause = 50
const longestPause = 5_000

/** One who listens. */
interface Listener {
  readonly channel: string
  readonly messages: Queue.Queue<Take.Take<string, SqlError>>
  /** Done when the server has taken note. */
  readonly ready: Deferred.Deferred<void>
}

/** The connection's own fiber, and those it works for. */
interface Hub {
  readonly listeners: Set<Listener>
  /** Wakes the fiber: someone came or went, or the connection was lost. */
  readonly changed: Queue.Queue<void>
  /** Why it has ended. */
  failure: Cause.Cause<SqlError> | undefined
}

const quoted = (prefix: string, channels: ReadonlyArray<string>): string =>
  channels.map((channel) => `${prefix} ${Pg.escapeIdentifier(channel)}`).join("; ")

/** Brings the server to what the listeners want, again whenever that changes, for as long as the connection lives. */
const serve = (
  hub: Hub,
  connection: Connection,
  lost: () => DatabaseError | undefined
): Effect.Effect<never, DatabaseError> => {
  const heard = new Set<string>()
  const reconcile = Effect.gen(function*() {
    const loss = lost()
    if (loss !== undefined) {
      return yield* Effect.fail(loss)
    }
    const listeners = Array.from(hub.listeners)
    const wanted = new Set(listeners.map((listener) => listener.channel))
    const missing = Array.from(wanted).filter((channel) => !heard.has(channel))
    const unwanted = Array.from(heard).filter((channel) => !wanted.has(channel))
    const statements = [quoted("LISTEN", missing), quoted("UNLISTEN", unwanted)].filter((text) => text !== "").join(
      "; "
    )
    if (statements !== "") {
      yield* Effect.mapError(connection.executeRaw(statements, []), fromSqlError)
      missing.forEach((channel) => heard.add(channel))
      unwanted.forEach((channel) => heard.delete(channel))
    }
    for (const listener of listeners) {
      yield* Deferred.succeed(listener.ready, undefined)
    }
    const woken = yield* Effect.timeoutOption(Queue.take(hub.changed), pingInterval)
    if (woken._tag === "None") {
      yield* Effect.timeoutFail(connection.ping, {
        duration: pingTimeout,
        onTimeout: () => fromPostgres(serverError("08006", "the server does not answer"), { phase: "statement" })
      })
    }
  })
  return Effect.forever(reconcile)
}

/** To be run in an uninterruptible region, whose `restore` it takes. */
type Connect = (restore: Restore) => Effect.Effect<Connection, DatabaseError>

const connected = (
  hub: Hub,
  connect: Connect,
  onConnected: Effect.Effect<void>
): Effect.Effect<never, DatabaseError> => {
  const use = (connection: Connection) =>
    Effect.gen(function*() {
      let lost: DatabaseError | undefined = undefined
      connection.onLost((error) => {
        lost = error
        Queue.unsafeOffer(hub.changed, undefined)
      })
      connection.onNotification((channel, payload) => {
        for (const listener of hub.listeners) {
          if (listener.channel === channel) {
            Queue.unsafeOffer(listener.messages, Take.of(payload))
          }
        }
      })
      yield* onConnected
      return yield* serve(hub, connection, () => lost)
    })
  return Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      connect(restore),
      (connection) => Effect.ensuring(restore(use(connection)), connection.close)
    )
  )
}

const pause = (failures: number): Effect.Effect<void> =>
  Effect.flatMap(
    Random.nextRange(0.8, 1.2),
    (jitter) => Effect.sleep(Duration.millis(Math.min(longestPause, firstPause * 2 ** (failures - 1)) * jitter))
  )

/** Until nobody listens any more, or until connecting again cannot help. */
const run = (hub: Hub, connect: Connect): Effect.Effect<void> => {
  let failures = 0
  const onConnected = Effect.suspend(() => {
    const again = failures > 0
    failures = 0
    return again ? Effect.logInfo("listening for notifications again") : Effect.void
  })
  const keepConnected: Effect.Effect<never, DatabaseError> = Effect.catchIf(
    Effect.suspend(() => connected(hub, connect, onConnected)),
    isRetryable,
    (error) =>
      Effect.logWarning(`the connection that listens for notifications is being replaced: ${error.message}`).pipe(
        Effect.zipRight(pause(++failures)),
        Effect.zipRight(keepConnected)
      )
  )
  return Effect.catchAllCause(keepConnected, (cause) =>
    Effect.sync(() => {
      hub.failure = Cause.map(cause, toSqlError)
      for (const listener of hub.listeners) {
        Queue.unsafeOffer(listener.messages, Take.failCause(hub.failure))
        Deferred.unsafeDone(listener.ready, Exit.void)
      }
    }))
}

/**
 * Makes `listen`: a stream of a channel's payloads, from when it starts. It survives the loss of its connection, but what
 * is sent meanwhile is lost, as it is whenever nobody listens. What is not consumed yet is kept in memory.
 */
export const make = (
  connect: Connect
): Effect.Effect<(channel: string) => Stream.Stream<string, SqlError>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const hubs = yield* RcRef.make({
      acquire: Effect.gen(function*() {
        const hub: Hub = { listeners: new Set(), changed: yield* Queue.sliding<void>(1), failure: undefined }
        yield* Effect.forkScoped(Effect.interruptible(run(hub, connect)))
        return hub
      })
    })
    const subscribe = (channel: string) =>
      Effect.gen(function*() {
        const hub = yield* RcRef.get(hubs)
        if (hub.failure !== undefined) {
          return yield* Effect.failCause(hub.failure)
        }
        const listener: Listener = {
          channel,
          messages: yield* Queue.unbounded<Take.Take<string, SqlError>>(),
          ready: yield* Deferred.make<void>()
        }
        yield* Effect.acquireRelease(
          Effect.zipRight(Effect.sync(() => hub.listeners.add(listener)), Queue.offer(hub.changed, undefined)),
          () => Effect.zipRight(Effect.sync(() => hub.listeners.delete(listener)), Queue.offer(hub.changed, undefined))
        )
        yield* Deferred.await(listener.ready)
        return Stream.flattenTake(Stream.fromQueue(listener.messages))
      })
    return (channel) => {
      const length = Buffer.byteLength(channel)
      return length === 0 || length > longestChannel || channel.includes("\0")
        ? Stream.fail(toSqlError(fromPostgres(
          serverError("22023", `a channel's name has 1 to ${longestChannel} bytes, and no NUL among them`),
          { phase: "statement" }
        )))
        : Stream.unwrapScoped(subscribe(channel))
    }
  })
