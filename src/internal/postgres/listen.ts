/**
 * LISTEN: receives notifications on a dedicated connection, which all subscribers share and which is replaced when lost.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
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
import { type DatabaseError, fromSqlError, isRetryable, toSqlError } from "../../DatabaseError.js"
import type { Listen, Notification, Restore } from "../driver.js"
import { timeoutFail, timeoutOption } from "../raceFirst.js"
import type { Connection } from "./connection.js"
import { checkDelivery, processOf, processSql } from "./listenCheck.js"
import { serverError } from "./pg.js"
import { Pg } from "./protocol/pg.js"
import { fromPostgres } from "./sqlState.js"

/** In bytes (NAMEDATALEN - 1). The server truncates longer names, so that notifications would have another name. */
const maxChannelLength = 63

/** How long the server may take to answer a ping. */
const pingTimeout = Duration.seconds(5)

/** The longest delay of a timer, which stands for no pings. The timer keeps the process alive. */
const maxInterval = Duration.millis(2_147_483_647)

/** Pings and delays run in real time and not by the application's Clock, since the server is outside of the program. */
const realClock = Clock.make()

/** The delay before connecting again, in milliseconds. It doubles with each failure. */
const initialDelay = 50
const maxDelay = 5_000

const gap: Notification = { _tag: "Gap" }

interface Subscriber {
  readonly channel: string
  readonly notifications: Queue.Queue<Take.Take<Notification, SqlError>>
  /** Completed when the server has executed LISTEN. */
  readonly ready: Deferred.Deferred<void>
  isReady: boolean
}

/** The state of the shared connection. */
interface Shared {
  readonly subscribers: Set<Subscriber>
  /** Wakes the connection's fiber when a subscriber was added or removed, or the connection was lost. */
  readonly changed: Queue.Queue<void>
  /** Why the fiber has ended, if it has. */
  failure: Cause.Cause<SqlError> | undefined
}

const forEachChannel = (command: string, channels: ReadonlyArray<string>): string =>
  channels.map((channel) => `${command} ${Pg.escapeIdentifier(channel)}`).join("; ")

/** Executes LISTEN and UNLISTEN as the subscribers change, until the connection is lost. */
const serve = (
  shared: Shared,
  connection: Connection,
  connect: Connect,
  pingInterval: Duration.Duration,
  lossReason: () => DatabaseError | undefined,
  onListening: Effect.Effect<void>
): Effect.Effect<never, DatabaseError> => {
  const listening = new Set<string>()
  let isListening = false
  const reconcile = Effect.gen(function*() {
    const loss = lossReason()
    if (loss !== undefined) {
      return yield* Effect.fail(loss)
    }
    const subscribers = Array.from(shared.subscribers)
    const wanted = new Set(subscribers.map((subscriber) => subscriber.channel))
    const added = Array.from(wanted).filter((channel) => !listening.has(channel))
    const removed = Array.from(listening).filter((channel) => !wanted.has(channel))
    const statements = [forEachChannel("LISTEN", added), forEachChannel("UNLISTEN", removed)]
      .filter((text) => text !== "")
      .join("; ")
    if (statements !== "") {
      const isFirst = listening.size === 0 && added.length > 0
      const refusal = connection.engine.refusal("listen")
      if (refusal !== undefined) {
        return yield* Effect.fail(refusal)
      }
      const result = yield* Effect.mapError(
        connection.executeRaw(isFirst ? `${processSql}; ${statements}` : statements, []),
        (error) => connection.engine.explainNeed(fromSqlError(error), "listen")
      )
      if (isFirst) {
        yield* checkDelivery(connection, processOf(result), added, connect)
      }
      added.forEach((channel) => listening.add(channel))
      removed.forEach((channel) => listening.delete(channel))
    }
    for (const subscriber of subscribers) {
      // After LISTEN, so that a consumer that reads the data anew because of the gap is notified of every later change.
      if (subscriber.isReady && added.includes(subscriber.channel)) {
        yield* Queue.offer(subscriber.notifications, Take.of(gap))
      }
      subscriber.isReady = true
      yield* Deferred.succeed(subscriber.ready, undefined)
    }
    if (!isListening) {
      isListening = true
      yield* onListening
    }
    const change = yield* timeoutOption(Queue.take(shared.changed), pingInterval)
    if (change._tag === "None") {
      yield* timeoutFail(
        connection.ping,
        pingTimeout,
        () => fromPostgres(serverError("08006", "the server does not answer"), { phase: "statement" })
      )
    }
  })
  return Effect.forever(reconcile)
}

/** To be run in an uninterruptible region with its `restore`. */
type Connect = (restore: Restore) => Effect.Effect<Connection, DatabaseError>

/** Serves the subscribers on a new connection until that is lost. */
const serveConnected = (
  shared: Shared,
  connect: Connect,
  pingInterval: Duration.Duration,
  onListening: Effect.Effect<void>
): Effect.Effect<never, DatabaseError> => {
  const use = (connection: Connection) =>
    Effect.gen(function*() {
      let lost: DatabaseError | undefined = undefined
      connection.onLost((error) => {
        lost = error
        Queue.unsafeOffer(shared.changed, undefined)
      })
      connection.onNotification((channel, payload) => {
        for (const subscriber of shared.subscribers) {
          if (subscriber.channel === channel) {
            Queue.unsafeOffer(subscriber.notifications, Take.of<Notification>({ _tag: "Message", payload }))
          }
        }
      })
      return yield* serve(shared, connection, connect, pingInterval, () => lost, onListening)
    })
  return Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      connect(restore),
      (connection) => Effect.ensuring(restore(use(connection)), connection.close)
    )
  )
}

const delayAfter = (failures: number): Effect.Effect<void> =>
  Effect.flatMap(
    Random.nextRange(0.8, 1.2),
    (jitter) => Effect.sleep(Duration.millis(Math.min(maxDelay, initialDelay * 2 ** (failures - 1)) * jitter))
  )

/** What is kept when the connection and the subscribers change. */
interface History {
  hasListened: boolean
}

/** Keeps the shared connection open until it is interrupted, or an error is not retryable and fails all subscribers. */
const run = (
  shared: Shared,
  connect: Connect,
  pingInterval: Duration.Duration,
  history: History
): Effect.Effect<void> => {
  let failures = 0
  const onListening = Effect.suspend(() => {
    const isRestored = failures > 0
    failures = 0
    history.hasListened = true
    return isRestored ? Effect.logInfo("listening for notifications again") : Effect.void
  })
  /**
   * A standby cannot listen. If LISTEN has succeeded before, it is in the primary's place only until the failover has
   * ended.
   */
  const isTransient = (error: DatabaseError): boolean =>
    error._tag === "ReadOnlyViolation" ? history.hasListened : isRetryable(error)
  const keepConnected: Effect.Effect<never, DatabaseError> = Effect.catchIf(
    Effect.suspend(() => serveConnected(shared, connect, pingInterval, onListening)),
    isTransient,
    (error) =>
      Effect.suspend(() => {
        failures++
        const message = `the connection that listens for notifications is being replaced: ${error.message}`
        // Each loss is one warning, however many attempts follow.
        return (failures === 1 ? Effect.logWarning(message) : Effect.logDebug(message)).pipe(
          Effect.zipRight(delayAfter(failures)),
          Effect.zipRight(keepConnected)
        )
      })
  )
  return Effect.catchAllCause(keepConnected, (cause) =>
    Effect.sync(() => {
      shared.failure = Cause.map(cause, toSqlError)
      for (const subscriber of shared.subscribers) {
        Queue.unsafeOffer(subscriber.notifications, Take.failCause(shared.failure))
        Deferred.unsafeDone(subscriber.ready, Exit.void)
      }
    }))
}

/**
 * Makes a stream of the notifications that are sent to a channel while it runs. The first subscriber opens the shared
 * connection, and the last one closes it. The stream survives the loss of its connection; notifications that are sent
 * before the next connection listens are lost, and the stream has a gap in their place. Notifications that are not
 * consumed yet are kept in memory, without a limit.
 */
export const make = (
  connect: Connect,
  silence: Duration.Duration
): Effect.Effect<Listen, never, Scope.Scope> =>
  Effect.gen(function*() {
    const pingInterval = Duration.isZero(silence) ? maxInterval : silence
    const history: History = { hasListened: false }
    const sharedRef = yield* RcRef.make({
      acquire: Effect.gen(function*() {
        const shared: Shared = { subscribers: new Set(), changed: yield* Queue.sliding<void>(1), failure: undefined }
        yield* Effect.forkScoped(
          Effect.interruptible(Effect.withClock(run(shared, connect, pingInterval, history), realClock))
        )
        return shared
      })
    })
    const subscribe = (channel: string) =>
      Effect.gen(function*() {
        const shared = yield* RcRef.get(sharedRef)
        if (shared.failure !== undefined) {
          return yield* Effect.failCause(shared.failure)
        }
        const subscriber: Subscriber = {
          channel,
          notifications: yield* Queue.unbounded<Take.Take<Notification, SqlError>>(),
          ready: yield* Deferred.make<void>(),
          isReady: false
        }
        const notify = Queue.offer(shared.changed, undefined)
        yield* Effect.acquireRelease(
          Effect.zipRight(Effect.sync(() => shared.subscribers.add(subscriber)), notify),
          () => Effect.zipRight(Effect.sync(() => shared.subscribers.delete(subscriber)), notify)
        )
        yield* Deferred.await(subscriber.ready)
        return Stream.flattenTake(Stream.fromQueue(subscriber.notifications))
      })
    return (channel) => {
      const length = Buffer.byteLength(channel)
      return length === 0 || length > maxChannelLength || channel.includes("\0")
        ? Stream.fail(toSqlError(fromPostgres(
          serverError("22023", `a channel's name must be 1 to ${maxChannelLength} bytes long, without NUL characters`),
          { phase: "statement" }
        )))
        : Stream.unwrapScoped(subscribe(channel))
    }
  })
