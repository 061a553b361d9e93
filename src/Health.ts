/**
 * Whether the database answers: as a boolean, and as a report for an operator.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { DatabaseError, Dialect } from "./DatabaseError.js"
import type { Connection, Driver, ServerInfo } from "./internal/driver.js"
import { make as makeError } from "./internal/makeError.js"
import type { Pool, Stats } from "./Pool.js"

/**
 * How the database is. It holds no secret, and may be shown to whoever may see the pool's figures.
 *
 * @since 0.1.0
 * @category models
 */
export interface Report {
  /** Whether the database answered in time. */
  readonly healthy: boolean
  readonly dialect: Dialect
  /** What it took to answer, or to give up. */
  readonly latency: Duration.Duration
  /** The server's, or SQLite's; undefined where it did not answer. */
  readonly version: string | undefined
  /** `primary` and `standby` are PostgreSQL's, `embedded` is SQLite. */
  readonly role: ServerInfo["role"] | undefined
  readonly pool: Stats
  /** Why it last was not healthy, and undefined if it always was. */
  readonly lastError: DatabaseError | undefined
}

/**
 * The health check of one database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Health {
  readonly check: Effect.Effect<boolean>
  readonly report: Effect.Effect<Report>
}

/**
 * What is asked, and how long the answer may take.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly driver: Driver
  readonly pool: Pool<Connection>
  readonly timeout: Duration.Duration
}

/** Gives all who ask at the same time one answer: who asks for it is often not known, and may be many. */
const shared = <A>(effect: Effect.Effect<A>): Effect.Effect<A> => {
  let underWay: Deferred.Deferred<A> | undefined
  return Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      if (underWay !== undefined) {
        return restore(Deferred.await(underWay))
      }
      const answer = Deferred.unsafeMake<A>(FiberId.none)
      underWay = answer
      const find = Effect.onExit(Effect.interruptible(effect), (exit) => {
        underWay = undefined
        return Deferred.done(answer, exit)
      })
      // Whoever asked first need not stay until the others know.
      return Effect.zipRight(Effect.forkDaemon(find), restore(Deferred.await(answer)))
    })
  )
}

/**
 * Makes the health check. It asks on an idle connection if the pool has one, else (or if that one does not answer in half
 * of the time) on one of its own, so that neither a pool which slow sessions have exhausted nor a connection that broke
 * unnoticed looks like a database that is down. It never fails and answers within its timeout, whatever the server does.
 * All who ask at the same time share one answer, and so one connection.
 * From when the scope closes on the answer is no, and nobody is asked.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = ({ driver, pool, timeout }: Options): Effect.Effect<Health, never, Scope.Scope> => {
  let lastError: DatabaseError | undefined = undefined
  let closed = false

  const silence = () =>
    makeError("ConnectionFailed", {
      dialect: driver.dialect,
      code: "08001",
      reason: `${driver.description} did not answer within ${Duration.format(timeout)}`,
      transient: true
    })
  /** What still runs then is stopped behind the answer. */
  const within = <A>(limit: Duration.Duration, effect: Effect.Effect<A, DatabaseError>) =>
    Effect.timeoutFail(Effect.disconnect(effect), { duration: limit, onTimeout: silence })

  const asked = <A>(
    ask: (connection: Connection) => Effect.Effect<A, DatabaseError>
  ): Effect.Effect<A, DatabaseError> => {
    const onItsOwn = Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        driver.connect(() => undefined, restore),
        (connection) => Effect.ensuring(restore(ask(connection)), connection.close)
      )
    )
    const onAnIdleOne = within(Duration.times(timeout, 0.5), Effect.scoped(Effect.flatMap(pool.acquire, ask)))
    return Effect.suspend(() => {
      if (closed) {
        return Effect.fail(
          makeError("DatabaseClosed", {
            dialect: driver.dialect,
            code: "08003",
            reason: `the database ${pool.name} is closed`
          })
        )
      }
      const { idle, waiting } = pool.stats()
      return within(timeout, idle > 0 && waiting === 0 ? Effect.orElse(onAnIdleOne, () => onItsOwn) : onItsOwn)
    }).pipe(
      Effect.tapError((error) =>
        Effect.sync(() => {
          lastError = error
        })
      )
    )
  }

  const health: Health = {
    check: shared(
      Effect.match(asked((connection) => connection.ping), { onFailure: () => false, onSuccess: () => true })
    ),
    report: shared(Effect.map(
      Effect.timed(Effect.option(asked((connection) => driver.serverInfo(connection)))),
      ([latency, info]) => ({
        healthy: Option.isSome(info),
        dialect: driver.dialect,
        latency,
        version: Option.getOrUndefined(info)?.version,
        role: Option.getOrUndefined(info)?.role,
        pool: pool.stats(),
        lastError
      })
    ))
  }
  return Effect.as(
    Effect.addFinalizer(() =>
      Effect.sync(() => {
        closed = true
      })
    ),
    health
  )
}
