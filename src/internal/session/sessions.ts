/**
 * The sessions of one database: how a unit of work takes its connection, begins, ends, and gives it back.
 */
import { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type * as Tracer from "effect/Tracer"
import { type DatabaseError, type Dialect, fromSqlError, isDatabaseError, isRetryable } from "../../DatabaseError.js"
import type { Lease, Pool, Restore } from "../../Pool.js"
import type { Handle, Options, Session } from "../../Session.js"
import * as Telemetry from "../../Telemetry.js"
import type { BeginOptions, Connection, Isolation } from "../driver.js"
import { make as makeError } from "../failure.js"
import { currentContext, innermost, provide } from "./context.js"
import { briefly, committed, rolledBack } from "./ending.js"
import { endLevel, endMessage } from "./report.js"
import { Reserved, Unit } from "./unit.js"

const strength: Record<Isolation, number> = {
  "read uncommitted": 0,
  "read committed": 1,
  "repeatable read": 2,
  "serializable": 3
}

/** Every error that a session itself fails with goes through this, so that `withTransaction` can promise SqlError. */
type Fail<E> = (error: DatabaseError) => E

/**
 * Gets to know how a unit of work ended, which its own fiber forgets when it is interrupted at that moment: a commit that
 * was answered is not a timeout.
 */
type Note<A, E> = (exit: Exit.Exit<A, E>) => void

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
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly recorder: Telemetry.OperationRecorder
}

const defaultRetry = Schedule.intersect(Schedule.jittered(Schedule.exponential("20 millis")), Schedule.recurs(5))

const duration = (input: Duration.DurationInput | undefined): Duration.Duration | undefined =>
  input === undefined ? undefined : Duration.decode(input)

const beginOptions = (options: Options): BeginOptions => ({
  isolation: options.isolation,
  readOnly: options.readOnly,
  deferrable: options.deferrable,
  statementTimeout: duration(options.statementTimeout),
  lockTimeout: duration(options.lockTimeout)
})

/** What an effect inside of a session failed with, if a database failed. */
const databaseError = (error: unknown): DatabaseError | undefined =>
  isDatabaseError(error) ? error : error instanceof SqlError ? fromSqlError(error) : undefined

export class Sessions {
  constructor(private readonly settings: Settings) {}

  /** The innermost session of this database that the code of this context runs in, ended or not. */
  current(context: Context.Context<never>): Unit | undefined {
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
    return Effect.suspend(() => {
      const context = currentContext()
      const surrounding = this.current(context)
      if (surrounding === undefined || options.propagation === "new") {
        return this.limited<A, E | E2, Exclude<R, Session>, E2>(
          (note) => this.outermost(effect, options, fail, innermost(context), note),
          options,
          fail
        )
      }
      const refusal = surrounding.refusal()
      if (refusal !== undefined) {
        return Effect.fail(fail(refusal))
      }
      if (options.propagation === "join") {
        return this.limited<A, E | E2, Exclude<R, Session>, E2>(
          () => provide(effect, surrounding, undefined),
          options,
          fail
        )
      }
      return this.limited<A, E | E2, Exclude<R, Session>, E2>(
        (note) => this.nested(effect, options, fail, surrounding, innermost(context), note),
        options,
        fail
      )
    })
  }

  /** A session whose end is told explicitly. */
  acquire(options: Options): Effect.Effect<Handle, DatabaseError, Scope.Scope> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen(this, function*() {
        const started = performance.now()
        const unit = yield* this.begin(restore, options, innermost(currentContext()))
        let over = false
        const end = (exit: Exit.Exit<void, DatabaseError>) =>
          Effect.suspend(() => {
            if (over) {
              return Effect.succeed({ exit: Exit.fail(unit.refusal()!), committed: false, hooks: [] })
            }
            over = true
            return this.end(unit, exit, started, (error) => error, restore)
          })
        const rollback = Effect.uninterruptible(Effect.asVoid(Effect.suspend(() => {
          unit.isRollbackOnly = true
          return end(Exit.void)
        })))
        yield* Effect.addFinalizer(() => rollback)
        if (options.timeout !== undefined) {
          const expire = Effect.suspend(() => {
            unit.end(this.settings.dialect, this.timeoutError(options))
            unit.connection.destroy()
            return rollback
          })
          yield* Effect.forkScoped(Effect.interruptible(Effect.zipRight(Effect.sleep(options.timeout), expire)))
        }
        return {
          id: unit.id,
          run: (effect) => provide(effect, unit, undefined),
          commit: Effect.uninterruptible(Effect.flatMap(end(Exit.void), ({ exit }) => exit)),
          rollback
        }
      })
    )
  }

  /** A connection for free use until the scope closes. */
  readonly reserve: Effect.Effect<Reserved, DatabaseError, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => this.settings.pool.take(restore, this.holding(innermost(currentContext())))).pipe(
      Effect.flatMap((lease) => {
        const reserved = new Reserved(lease.connection)
        return Effect.as(
          Effect.addFinalizer(() => {
            reserved.closed = makeError("SessionClosed", {
              dialect: this.settings.dialect,
              code: "08003",
              reason: "the scope that reserved the connection is closed"
            })
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
    outer: Unit | undefined,
    note: Note<A, E | E2>
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const attempt: Effect.Effect<A, E | E2, Exclude<R, Session>> = Effect.uninterruptibleMask((restore) =>
      this.traced(options, (span) =>
        Effect.suspend(() => {
          const started = performance.now()
          return Effect.matchCauseEffect(this.begin(restore, options, outer), {
            onFailure: (cause): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
              this.neverBegan(cause, options, started, fail),
            onSuccess: (unit) => {
              span.attribute("sqlayer.session.id", unit.id)
              return restore(provide(effect, unit, span)).pipe(
                Effect.exit,
                Effect.flatMap((exit) => this.end<A, E | E2>(unit, exit, started, fail, restore, span)),
                Effect.flatMap(({ exit }) => {
                  note(exit)
                  return exit
                })
              )
            }
          })
        }))
    )
    return this.retried(attempt, options)
  }

  private retried<A, E, R>(attempt: Effect.Effect<A, E, R>, options: Options): Effect.Effect<A, E, R> {
    if (options.retry === undefined || options.retry === false) {
      return attempt
    }
    const schedule: Schedule.Schedule<unknown, DatabaseError> = options.retry === true ? defaultRetry : options.retry
    return Effect.suspend(() => {
      const attempts = Effect.catchAll(
        attempt,
        (error) => Effect.fail({ error, known: databaseError(error) })
      )
      return Effect.retry(attempts, {
        while: ({ known }) => known !== undefined && isRetryable(known),
        schedule: Schedule.tapInput(
          Schedule.mapInput(schedule, ({ known }: { readonly known: DatabaseError | undefined }) => known!),
          ({ known }: { readonly known: DatabaseError | undefined }) =>
            Effect.sync(() => this.settings.recorder.retried(known!._tag))
        )
      }).pipe(Effect.mapError(({ error }) => error))
    })
  }

  /** Takes a connection and begins a transaction on it. To be run uninterruptibly. */
  private begin(restore: Restore, options: Options, outer: Unit | undefined): Effect.Effect<Unit, DatabaseError> {
    const take = this.settings.pool.take(restore, this.holding(outer))
    return Effect.flatMap(
      take,
      (lease) =>
        Effect.matchCauseEffect(restore(lease.connection.begin(beginOptions(options))), {
          onFailure: (cause) =>
            Effect.zipRight(
              Effect.zipRight(rolledBack(lease.connection), lease.release),
              Effect.failCause(cause)
            ),
          onSuccess: () => Effect.succeed(new Unit(this, lease, options, undefined, outer))
        })
    )
  }

  /** Commits or rolls back, gives the connection back, says what went wrong, and runs what waited for the end. */
  private end<A, E>(
    unit: Unit,
    exit: Exit.Exit<A, E>,
    started: number,
    fail: Fail<E>,
    restore: Restore,
    span?: Tracer.Span
  ): Effect.Effect<Outcome<A, E>> {
    const { connection } = unit
    const commits = Exit.isSuccess(exit) && !unit.isRollbackOnly
    unit.end(this.settings.dialect)
    const finish = commits
      ? Effect.flatMap(committed(connection, restore), (result): Effect.Effect<Outcome<A, E>> => {
        if (Exit.isSuccess(result)) {
          return Effect.succeed({ exit, committed: true, hooks: unit.commitHooks })
        }
        const unknown = Option.exists(
          Cause.failureOption(result.cause),
          ({ _tag }) => _tag === "CommitOutcomeUnknown"
        )
        return Effect.as(rolledBack(connection), {
          exit: Exit.failCause(Cause.map(result.cause, fail)),
          committed: false,
          hooks: unknown ? [] : unit.rollbackHooks
        })
      })
      : Effect.as(rolledBack(connection), { exit, committed: false, hooks: unit.rollbackHooks })
    return Effect.flatMap(finish, (outcome) => {
      const seconds = (performance.now() - started) / 1_000
      span?.event(outcome.committed ? "db.transaction.commit" : "db.transaction.rollback", now())
      return Effect.zipRight(
        unit.lease.release,
        Effect.zipRight(
          this.report(unit.name, unit.id, outcome, seconds, span),
          Effect.as(Effect.forEach(outcome.hooks, (run) => restore(run), { discard: true }), outcome)
        )
      )
    })
  }

  private nested<A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    options: Options,
    fail: Fail<E2>,
    parent: Unit,
    outer: Unit | undefined,
    note: Note<A, E | E2>
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const { connection, lease } = parent
    const around = parent.root.options.isolation ?? "read committed"
    if (options.isolation !== undefined && strength[options.isolation] > strength[around]) {
      return Effect.fail(fail(makeError("InvalidStatement", {
        dialect: this.settings.dialect,
        code: "25001",
        reason: `a session nested in one that is "${around}" cannot be "${options.isolation}": ` +
          `ask for it in the outermost session, or use propagation "new"`
      })))
    }
    return Effect.uninterruptibleMask((restore) =>
      Effect.zipRight(
        parent.gate.hold(restore),
        this.traced(options, (span) => {
          const refusal = parent.refusal()
          if (refusal !== undefined) {
            return Effect.fail(fail(refusal))
          }
          const unit = new Unit(this, lease, options, parent, outer)
          span.attribute("sqlayer.session.id", unit.id)
          const savepoint = parent.savepoint()
          const undo = briefly(connection, connection.rollbackToSavepoint(savepoint)).pipe(
            Effect.tap((exit) =>
              Effect.sync(() => {
                if (Exit.isFailure(exit)) {
                  connection.destroy()
                }
                parent.root.rollbackHooks.push(...unit.rollbackHooks)
              })
            )
          )
          return restore(connection.savepoint(savepoint)).pipe(
            Effect.mapError(fail),
            Effect.zipRight(Effect.flatMap(
              Effect.exit(restore(provide(effect, unit, span))),
              (exit): Effect.Effect<A, E | E2> => {
                unit.end(this.settings.dialect)
                if (Exit.isFailure(exit) || unit.isRollbackOnly) {
                  return Effect.zipRight(
                    undo,
                    Effect.suspend(() => {
                      note(exit)
                      return exit
                    })
                  )
                }
                return Effect.matchCauseEffect(restore(connection.releaseSavepoint(savepoint)), {
                  onFailure: (cause) => Effect.zipRight(undo, Effect.failCause(Cause.map(cause, fail))),
                  onSuccess: () => {
                    parent.adopt(unit)
                    note(exit)
                    return exit
                  }
                })
              }
            ))
          )
        }).pipe(Effect.ensuring(Effect.sync(() => parent.gate.release())))
      )
    )
  }

  /** Ends an effect that takes too long; not once its commit has begun. */
  private limited<A, E, R, E2>(
    work: (note: Note<A, E>) => Effect.Effect<A, E, R>,
    options: Options,
    fail: Fail<E2>
  ): Effect.Effect<A, E | E2, R> {
    const { timeout } = options
    if (timeout === undefined) {
      return work(() => undefined)
    }
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen(this, function*() {
        let expired = false
        let ended: Exit.Exit<A, E> | undefined = undefined
        const fiber = yield* Effect.fork(Effect.interruptible(work((exit) => {
          ended = exit
        })))
        const timer = yield* Effect.fork(Effect.interruptible(Effect.zipRight(
          Effect.sleep(timeout),
          Effect.suspend(() => {
            expired = true
            return Fiber.interruptFork(fiber)
          })
        )))
        const exit = yield* Effect.onInterrupt(restore(Fiber.await(fiber)), () => Fiber.interrupt(fiber))
        yield* Fiber.interruptFork(timer)
        if (!expired || !Exit.isInterrupted(exit)) {
          return yield* exit
        }
        const outcome = ended as Exit.Exit<A, E> | undefined
        return yield* outcome === undefined || Exit.isInterrupted(outcome)
          ? Effect.fail(fail(this.timeoutError(options)))
          : outcome
      })
    )
  }

  private timeoutError(options: Options): DatabaseError {
    return makeError("SessionTimeout", {
      dialect: this.settings.dialect,
      code: "57014",
      reason: `the session ${options.name ?? "session"} took longer than ${Duration.format(options.timeout ?? 0)}`
    })
  }

  private neverBegan<A, E>(
    cause: Cause.Cause<DatabaseError>,
    options: Options,
    started: number,
    fail: Fail<E>
  ): Effect.Effect<A, E> {
    const exit: Exit.Exit<A, DatabaseError> = Exit.failCause(cause)
    const seconds = (performance.now() - started) / 1_000
    return Effect.zipRight(
      this.report(options.name ?? "session", "none", { exit, committed: false, hooks: [] }, seconds),
      Exit.mapError(exit, fail)
    )
  }

  /** Counts the session, and logs once what went wrong. */
  private report(
    name: string,
    id: string,
    outcome: Outcome<unknown, unknown>,
    seconds: number,
    span?: Tracer.Span
  ): Effect.Effect<void> {
    const { recorder } = this.settings
    if (outcome.committed) {
      recorder.committed(seconds)
      return Effect.void
    }
    const failure = Exit.isFailure(outcome.exit) ? Cause.failureOption(outcome.exit.cause) : Option.none()
    const error = Option.isSome(failure) ? databaseError(failure.value) : undefined
    const level = endLevel(outcome.exit, error)
    const reason = error?._tag ??
      (Exit.isSuccess(outcome.exit)
        ? "rollback"
        : Option.isSome(failure)
        ? "failure"
        : Exit.isInterrupted(outcome.exit)
        ? "interrupted"
        : "defect")
    recorder.rolledBack(seconds, reason)
    span?.attribute(Telemetry.errorType, reason)
    if (error !== undefined) {
      span?.attribute(Telemetry.responseStatusCode, error.code)
    }
    return Effect.annotateLogs(
      Effect.logWithLevel(level, ...endMessage(name, outcome.exit, reason, error)),
      { session: name, sessionId: id, durationMillis: Math.round(seconds * 1_000) }
    )
  }

  private traced<A, E, R>(options: Options, f: (span: Tracer.Span) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.useSpan(Telemetry.sessionSpan, { kind: "client", captureStackTrace: false }, (span) => {
      for (const [key, value] of this.settings.spanAttributes) {
        span.attribute(key, value)
      }
      if (options.name !== undefined) {
        span.attribute("sqlayer.session.name", options.name)
      }
      return f(span)
    })
  }

  /** The leases on connections of this database that the surrounding sessions hold. */
  private holding(outer: Unit | undefined): ReadonlyArray<Lease<Connection>> {
    const leases: Array<Lease<Connection>> = []
    for (let unit = outer; unit !== undefined; unit = unit.outer) {
      if (unit.owner === this && unit.refusal() === undefined) {
        leases.push(unit.lease)
      }
    }
    return leases
  }
}

const now = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n
