/**
 * The sessions of one database: how a unit of work takes its connection, begins, ends, and gives it back.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type * as Tracer from "effect/Tracer"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Lease, Pool } from "../../Pool.js"
import type { Handle, Options, Session } from "../../Session.js"
import type { BeginOptions, Connection } from "../driver.js"
import type { Tracker, Watched } from "../telemetry/activity.js"
import { acquired, type Beginning, joined } from "./handle.js"
import { currentContext, innermost, provide, within } from "./context.js"
import { answered, decided, rolledBack, runHooks } from "./commit.js"
import { type Fail, lostBeforeCommit, reservedClosed, timedOut } from "./errors.js"
import { fateOf } from "./commitOutcome.js"
import { judged, type Timeout, limited } from "./timeout.js"
import { nested, nestedByHand } from "./nested.js"
import { unacceptable, unfitting, unrepeatable } from "./options.js"
import { limitedRegionOf, type Interruptibility, regionOf } from "./interruptibility.js"
import { endLevel, endMessage, endReason, unnamed } from "./log.js"
import { failedWith, retried } from "./retry.js"
import { ended, traced } from "./span.js"
import { Reserved, Transaction } from "./transaction.js"

/** How a unit of work went, and what is left to do once its connection is back. */
interface Outcome<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly committed: boolean
  readonly hooks: ReadonlyArray<Effect.Effect<void>>
}

export interface Settings {
  readonly name: string
  readonly dialect: Dialect
  readonly pool: Pool<Connection>
  /** Connections for sessions that only read, where they have some of their own. */
  readonly readers: Pool<Connection> | undefined
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly tracker: Tracker
}

const duration = (input: Duration.DurationInput | undefined): Duration.Duration | undefined =>
  input === undefined ? undefined : Duration.decode(input)

const plainBegin: BeginOptions = { verified: false }

const beginOptions = (options: Options): BeginOptions =>
  Object.keys(options).length === 0 ? plainBegin : ({
    isolation: options.isolation,
    readOnly: options.readOnly,
    deferrable: options.deferrable,
    statementTimeout: duration(options.statementTimeout),
    lockTimeout: duration(options.lockTimeout),
    verified: options.commit === "verified"
  })

const noHooks: Outcome<never, never>["hooks"] = []

const both = (first: Outcome<never, never>["hooks"], second: Outcome<never, never>["hooks"]) =>
  first.length + second.length === 0 ? noHooks : [...first, ...second]

export class Sessions {
  constructor(private readonly settings: Settings) {}

  /** The innermost session of this database that the code of this context runs in, ended or not. */
  current(context: Context.Context<never>): Transaction | undefined {
    let unit = innermost(context)
    while (unit !== undefined && unit.owner !== this) {
      unit = unit.outer
    }
    return unit
  }

  /** Runs an effect as a unit of work. */
  run<A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    options: Options,
    fail: Fail<E2>
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const { dialect, spanAttributes } = this.settings
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const unaccepted = unacceptable(options, dialect)
      if (unaccepted !== undefined) {
        return Effect.fail(fail(unaccepted))
      }
      const region = (options.timeout === undefined ? regionOf : limitedRegionOf)(runtimeFlags)
      const context = fiber.currentContext
      const surrounding = this.surrounding(context, options)
      if (surrounding === undefined) {
        return this.limited<A, E | E2, Exclude<R, Session>, E2>(
          (limit) => this.outermost(effect, options, fail, innermost(context), limit, region),
          options,
          fail
        )
      }
      const unfit = unfitting(options, surrounding, fiber.id())
      if (unfit !== undefined) {
        return Effect.fail(fail(unfit))
      }
      return this.limited<A, E | E2, Exclude<R, Session>, E2>(
        options.propagation === "join"
          ? () => provide(effect, surrounding)
          : (limit) =>
            nested(effect, {
              options,
              parent: surrounding,
              outer: innermost(context),
              limit,
              fail,
              spanAttributes,
              region
            }),
        options,
        fail
      )
    })
  }

  /** A session whose end is told explicitly. */
  acquire(options: Options): Effect.Effect<Handle, DatabaseError, Scope.Scope> {
    const { dialect } = this.settings
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const unaccepted = unacceptable(options, dialect) ?? unrepeatable(options, dialect)
      if (unaccepted !== undefined) {
        return Effect.fail(unaccepted)
      }
      const context = fiber.currentContext
      const surrounding = this.surrounding(context, options)
      const unfit = surrounding === undefined ? undefined : unfitting(options, surrounding, fiber.id())
      if (unfit !== undefined) {
        return Effect.fail(unfit)
      }
      const outer = innermost(context)
      const beginning = () =>
        surrounding === undefined
          ? this.byHand(options, outer)
          : options.propagation === "join"
          ? joined(options, surrounding, outer)
          : nestedByHand({ options, parent: surrounding, outer }, fiber.id())
      return acquired(beginning, options, regionOf(runtimeFlags), dialect)
    })
  }

  /** The session that one with these options is to be within. */
  private surrounding(context: Context.Context<never>, { propagation }: Options): Transaction | undefined {
    return propagation === "new" ? undefined : this.current(context)
  }

  private byHand(options: Options, outer: Transaction | undefined): Beginning {
    const watched = this.watch(options)
    const fail: Fail<DatabaseError> = (error) => error
    return {
      begin: (region) =>
        Effect.map(this.begin(region, options, outer, watched), (unit) => ({
          unit,
          inside: unit,
          finish: (exit, region) => Effect.map(this.end(unit, exit, fail, region), ({ exit }) => exit)
        })),
      neverBegan: (cause) => this.neverBegan(cause, watched, fail)
    }
  }

  /** A connection for free use until the scope closes. */
  readonly reserve: Effect.Effect<Reserved, DatabaseError, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => this.settings.pool.take(restore, this.holding(innermost(currentContext())))).pipe(
      Effect.flatMap((lease) => {
        const reserved = new Reserved(lease.connection)
        return Effect.as(
          Effect.addFinalizer(() => {
            reserved.closed = reservedClosed(this.settings.dialect)
            return lease.release
          }),
          reserved
        )
      })
    )
  )

  private outermost<A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    options: Options,
    fail: Fail<E2>,
    outer: Transaction | undefined,
    limit: Timeout<A, E | E2>,
    region: Interruptibility
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const attempt: Effect.Effect<A, E | E2, Exclude<R, Session>> = Effect.uninterruptible(
      traced(options, this.settings.spanAttributes, (span) => {
        const watched = this.watch(options)
        return Effect.matchCauseEffect(this.begin(region, options, outer, watched), {
          onFailure: (cause): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
            this.neverBegan(
              limit.expired !== undefined && Cause.isInterrupted(cause)
                ? Cause.fail(timedOut(options, this.settings.dialect))
                : cause,
              watched,
              fail
            ),
          onSuccess: (unit) => {
            const told = span === undefined ? effect : Effect.suspend(() => {
              span.attribute("sqlayer.session.id", unit.id)
              return effect
            })
            return within(
              region.restore,
              told,
              unit,
              span,
              (exit) =>
                Effect.flatMap(this.end<A, E | E2>(unit, judged(exit, limit), fail, region, span), ({ exit }) => {
                  limit.ended = exit
                  return exit
                })
            )
          }
        })
      })
    )
    return retried(attempt, options, limit, this.settings.tracker)
  }

  /** Takes a connection and begins a transaction on it. To be run uninterruptibly, by the fiber that calls it. */
  private begin(
    { restore }: Interruptibility,
    options: Options,
    outer: Transaction | undefined,
    watched: Watched
  ): Effect.Effect<Transaction, DatabaseError> {
    const { dialect, readers } = this.settings
    const pool = options.readOnly === true && readers !== undefined ? readers : this.settings.pool
    const start = (lease: Lease<Connection>) =>
      Effect.matchCauseEffect(restore(Effect.suspend(() => lease.connection.begin(beginOptions(options)))), {
        onFailure: (cause) =>
          Effect.zipRight(
            Effect.zipRight(rolledBack(lease.connection), lease.release),
            Effect.failCause(cause)
          ),
        onSuccess: () => {
          const unit = new Transaction(this, dialect, lease, watched, options, undefined, outer)
          watched.begun = unit
          return Effect.succeed(unit)
        }
      })
    const lease = pool.takeIdle()
    return lease === undefined ? Effect.flatMap(pool.take(restore, this.holding(outer)), start) : start(lease)
  }

  /** Commits or rolls back, gives the connection back, says what went wrong, and runs what waited for the end. */
  private end<A, E>(
    unit: Transaction,
    exit: Exit.Exit<A, E>,
    fail: Fail<E>,
    region: Interruptibility,
    span?: Tracer.Span
  ): Effect.Effect<Outcome<A, E>> {
    const { connection, watched } = unit
    watched.ends()
    const undone = (exit: Exit.Exit<A, E>) =>
      Effect.map(rolledBack(connection), (): Outcome<A, E> => ({
        exit,
        committed: false,
        hooks: both(unit.undoneHooks, unit.rollbackHooks)
      }))
    const commit = (): Effect.Effect<Outcome<A, E>> =>
      Effect.flatMap(answered(connection, connection.commit, region), (result) => {
        const done: Outcome<A, E> = { exit, committed: true, hooks: both(unit.undoneHooks, unit.commitHooks) }
        if (Exit.isSuccess(result)) {
          return Effect.succeed(done)
        }
        const failed: Exit.Exit<A, E> = Exit.failCause(Cause.map(result.cause, fail))
        const unknown = Option.exists(
          Cause.failureOption(result.cause),
          ({ _tag }) => _tag === "CommitOutcomeUnknown"
        )
        return unknown
          ? Effect.flatMap(fateOf(connection, region.restore), (fate): Effect.Effect<Outcome<A, E>> => {
            switch (fate) {
              case "committed":
                return Effect.succeed(done)
              case "aborted":
                return undone(Exit.fail(fail(lostBeforeCommit(unit, this.settings.dialect))))
              case "unknown":
                return Effect.as(rolledBack(connection), { exit: failed, committed: false, hooks: unit.undoneHooks })
            }
          })
          : undone(failed)
      })
    const goOn = (outcome: Outcome<A, E>): Effect.Effect<Outcome<A, E>> => {
      unit.lease.giveBack()
      const told = outcome.hooks.length === 0
        ? Effect.succeed(outcome)
        : Effect.as(runHooks(outcome.hooks, region), outcome)
      const report = this.report(watched, outcome)
      const rest = report === undefined ? told : Effect.zipRight(report, told)
      return span === undefined ? rest : Effect.zipRight(
        Effect.ensuring(Effect.sync(() => ended(span, outcome.committed)), rest),
        Effect.succeed(outcome)
      )
    }
    return Effect.matchCauseEffect(decided(unit, exit, fail, commit, undone), {
      onSuccess: goOn,
      onFailure: (cause) => {
        // A driver that throws must not keep the connection, nor leave it to others.
        connection.destroy()
        return goOn({ exit: Exit.failCause(cause), committed: false, hooks: unit.undoneHooks })
      }
    })
  }

  /** Ends an effect that takes too long; not once its commit has begun. */
  private limited<A, E, R, E2>(
    work: (limit: Timeout<A, E | E2>) => Effect.Effect<A, E | E2, R>,
    options: Options,
    fail: Fail<E2>
  ): Effect.Effect<A, E | E2, R> {
    return limited(work, options.timeout, () => fail(timedOut(options, this.settings.dialect)))
  }

  private neverBegan<A, E>(
    cause: Cause.Cause<DatabaseError>,
    watched: Watched,
    fail: Fail<E>
  ): Effect.Effect<A, E> {
    const exit: Exit.Exit<A, DatabaseError> = Exit.failCause(cause)
    return Effect.zipRight(
      this.report(watched, { exit, committed: false, hooks: noHooks }) ?? Effect.void,
      Exit.mapError(exit, fail)
    )
  }

  private watch({ name = unnamed }: Options): Watched {
    return this.settings.tracker.opened(name)
  }

  /** Counts the session, which is over, and logs once what went wrong. */
  private report(watched: Watched, outcome: Outcome<unknown, unknown>): Effect.Effect<void> | undefined {
    const { tracker } = this.settings
    const { age, id = "none", name } = watched
    tracker.closed(watched)
    if (outcome.committed) {
      tracker.committed(age)
      return undefined
    }
    const error = failedWith(outcome.exit)
    const level = endLevel(outcome.exit, error)
    const reason = endReason(outcome.exit, error)
    tracker.rolledBack(age, reason)
    return Effect.annotateLogs(
      Effect.logWithLevel(level, ...endMessage(name, outcome.exit, reason, error)),
      { session: name, sessionId: id, durationMillis: Math.round(age * 1_000) }
    )
  }

  /** The leases on connections of this database that the surrounding sessions hold. */
  private holding(outer: Transaction | undefined): ReadonlyArray<Lease<Connection>> {
    const leases: Array<Lease<Connection>> = []
    for (let unit = outer; unit !== undefined; unit = unit.outer) {
      if (unit.owner === this && unit.refusal() === undefined) {
        leases.push(unit.lease)
      }
    }
    return leases
  }
}
