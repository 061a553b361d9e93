/**
 * The sessions of one database. A session is outermost, or nested in the session of its caller, or joins that session.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Chunk from "effect/Chunk"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import { type DefaultOptions, Defaults, type Handle, type Options, ReserveName, type Session } from "../../Session.js"
import { type Track, trackOf, trackStatements } from "../cluster/causality.js"
import type { Connection } from "../driver.js"
import { leakDetectionExempt } from "../pool/leakDetection.js"
import { currentContext, innermost, isOutsideTransaction, provide } from "./context.js"
import { type Fail, failDefect, reservedClosed, timedOut } from "./errors.js"
import { type HandleSource, joinedHandle, makeHandle } from "./handle.js"
import { interruptibilityOf, timeoutInterruptibilityOf } from "./interruptibility.js"
import { nested, nestedHandle } from "./nested.js"
import { validateHandleOptions, validateNesting, validateOptions, validateReader, withDefaults } from "./options.js"
import { type Environment, heldLeases, outermost, outermostHandle } from "./outermost.js"
import { Reserved } from "./reserved.js"
import { openSessionStream } from "./sessionStream.js"
import { scopedSessionSpan } from "./span.js"
import { type Timeout, withTimeout } from "./timeout.js"
import type { Enclosing, Transaction } from "./transaction.js"

/** What a session begins with. */
interface Beginning {
  readonly options: Options
  /** The session that it is nested in or joins. */
  readonly parent: Transaction | undefined
  /** The reserved connection that it is to use. */
  readonly reserved: Reserved | undefined
  readonly refusal: DatabaseError | undefined
}

const defaultsOf = (context: Context.Context<never>): DefaultOptions | undefined =>
  context.unsafeMap.get(Defaults.key) as DefaultOptions | undefined

export class Sessions {
  constructor(private readonly environment: Environment) {}

  get dialect(): Dialect {
    return this.environment.dialect
  }

  /** Identifies the database. */
  get database(): object {
    return this.environment
  }

  /** The innermost session or reserved connection of this database in a context, even if it has ended. */
  current(context: Context.Context<never>): Exclude<Enclosing, undefined> | undefined {
    let enclosing = innermost(context)
    while (enclosing !== undefined && enclosing.database !== this.environment) {
      enclosing = enclosing.enclosing
    }
    return enclosing
  }

  /** The histories that apply to code in a context; undefined if no positions are tracked. */
  track(context: Context.Context<never>): Track | undefined {
    return trackOf(this.environment, this.environment.history, context)
  }

  /** Runs an effect as a session. `fail` turns the session's own errors into those of the caller. */
  run<A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    given: Options,
    fail: Fail<E2>
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const { environment } = this
    const { dialect, spanAttributes } = environment
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const context = fiber.currentContext
      const begin = this.beginning(context, given, fiber.id())
      if (begin.refusal !== undefined) {
        return Effect.fail(fail(begin.refusal))
      }
      const { options, parent, reserved } = begin
      const interruptibility = options.timeout === undefined
        ? interruptibilityOf(runtimeFlags)
        : timeoutInterruptibilityOf(runtimeFlags)
      const enclosing = innermost(context)
      const session = (timeout: Timeout<A, E | E2>): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
        parent === undefined
          ? outermost(effect, {
            environment,
            options,
            defaults: defaultsOf(context),
            track: this.track(context),
            enclosing,
            reserved,
            timeout,
            fail,
            interruptibility
          })
          : options.propagation === "join"
          ? join(effect, parent, fail)
          : nested(effect, {
            options,
            parent,
            enclosing,
            timeout,
            fail,
            spanAttributes,
            interruptibility
          })
      return withTimeout(session, options.timeout, () => fail(timedOut(options, dialect)))
    })
  }

  /** A session as a handle, until the scope closes. */
  acquire(given: Options): Effect.Effect<Handle, DatabaseError, Scope.Scope> {
    const { dialect } = this.environment
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const context = fiber.currentContext
      const begin = this.beginning(context, given, fiber.id())
      const refusal = begin.refusal ?? validateHandleOptions(given, dialect)
      return refusal !== undefined ? Effect.fail(refusal) : makeHandle({
        source: () => this.handleSource(begin, context, fiber.id(), true),
        options: begin.options,
        caller: interruptibilityOf(runtimeFlags),
        dialect
      })
    })
  }

  /** A session that lasts as long as a stream. */
  stream<A, E, R>(
    stream: Stream.Stream<A, E, R>,
    given: Options
  ): Stream.Stream<A, Exclude<E, SqlError> | DatabaseError, Exclude<R, Session>> {
    const { dialect, spanAttributes } = this.environment
    const pull = Effect.withFiberRuntime<
      Effect.Effect<Chunk.Chunk<A>, Option.Option<E | DatabaseError>, R>,
      never,
      Scope.Scope | R
    >((fiber, { runtimeFlags }) => {
      const context = fiber.currentContext
      const begin = this.beginning(context, given, fiber.id())
      const refusal = begin.refusal ?? validateHandleOptions(given, dialect)
      if (refusal !== undefined) {
        return Effect.succeed(Effect.fail(Option.some(refusal)))
      }
      const { options, parent } = begin
      const isJoined = parent !== undefined && options.propagation === "join"
      const opened = Effect.flatMap(
        isJoined ? Effect.succeed(undefined) : scopedSessionSpan(options, spanAttributes),
        (span) =>
          openSessionStream(stream, {
            source: () => this.handleSource(begin, context, fiber.id(), false),
            options,
            caller: interruptibilityOf(runtimeFlags),
            dialect,
            span
          })
      )
      return Effect.uninterruptible(
        Effect.catchAll(opened, (error) => Effect.succeed(Effect.fail(Option.some(error))))
      )
    })
    return Stream.fromPull(pull) as Stream.Stream<A, Exclude<E, SqlError> | DatabaseError, Exclude<R, Session>>
  }

  /** How the session of a handle or of a stream begins. See `joinedHandle` for `undoesSurrounding`. */
  private handleSource(
    { options, parent, reserved }: Beginning,
    context: Context.Context<never>,
    fiber: FiberId.FiberId,
    undoesSurrounding: boolean
  ): HandleSource {
    const enclosing = innermost(context)
    return parent === undefined
      ? outermostHandle(this.environment, options, enclosing, reserved, defaultsOf(context), this.track(context))
      : options.propagation === "join"
      ? joinedHandle(options, parent, enclosing, undoesSurrounding)
      : nestedHandle({ options, parent, enclosing }, fiber)
  }

  /** A connection without a transaction, until the scope closes. */
  readonly reserve: Effect.Effect<Reserved, DatabaseError, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      const { environment } = this
      const context = currentContext()
      const enclosing = innermost(context)
      const track = this.track(context)
      const name = context.unsafeMap.get(ReserveName.key) as string | undefined
      return Effect.flatMap(environment.pool.take(restore, heldLeases(environment, enclosing)), (lease) => {
        if (name !== undefined) {
          leakDetectionExempt.add(lease)
        }
        const reserved = new Reserved(environment, environment.dialect, lease, enclosing, name)
        const untrack = trackStatements(lease.connection, track)
        return Effect.as(
          Effect.addFinalizer(() => {
            untrack()
            reserved.close(reservedClosed(environment.dialect))
            return lease.release
          }),
          reserved
        )
      })
    })
  )

  /** Runs an effect outside of every session. Its statements use a connection that the caller has opened. */
  runOn<A, E, R>(connection: Connection, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    const { environment } = this
    const { dialect } = environment
    return Effect.suspend(() => {
      const lease = { connection, release: Effect.void, giveBack: () => undefined }
      const reserved = new Reserved(environment, dialect, lease, undefined)
      return Effect.ensuring(
        Effect.provideService(effect, SqlClient.TransactionConnection, [reserved, -1]),
        Effect.sync(() => reserved.close(reservedClosed(dialect)))
      )
    })
  }

  /** What a session begins with, or why it may not begin. */
  private beginning(context: Context.Context<never>, given: Options, fiber: FiberId.FiberId): Beginning {
    const { dialect, supportsSettings } = this.environment
    const invalid = validateOptions(given, dialect, supportsSettings)
    if (invalid !== undefined) {
      return { options: given, parent: undefined, reserved: undefined, refusal: invalid }
    }
    const defaults = defaultsOf(context)
    const { parent, reserved } = this.surrounding(context, given)
    // Inside a session that was made with these defaults they are not applied again.
    const options = parent !== undefined && parent.outermost.defaults === defaults
      ? given
      : withDefaults(given, defaults)
    return {
      options,
      parent,
      reserved,
      refusal: (options === given ? undefined : validateOptions(options, dialect, supportsSettings)) ??
        (parent === undefined
          ? validateReader(options, dialect, this.environment.replicas !== undefined)
          : validateNesting(options, parent, fiber))
    }
  }

  /** The session that a new one is nested in or joins, or the reserved connection that it is to use. */
  private surrounding(
    context: Context.Context<never>,
    { propagation }: Options
  ): { readonly parent: Transaction | undefined; readonly reserved: Reserved | undefined } {
    const enclosing = propagation === "new" ? undefined : this.current(context)
    if (!(enclosing instanceof Reserved)) {
      return { parent: enclosing, reserved: undefined }
    }
    if (enclosing.session !== undefined) {
      return { parent: enclosing.session, reserved: undefined }
    }
    return isOutsideTransaction(context) && !enclosing.hasTransaction
      ? { parent: undefined, reserved: enclosing }
      : { parent: enclosing.transaction, reserved: undefined }
  }
}

/** Runs an effect in the session around it. */
const join = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  parent: Transaction,
  fail: Fail<E2>
): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
  Effect.matchCauseEffect(provide(effect, parent), {
    onSuccess: (value) => Effect.succeed(value),
    onFailure: (cause) => failDefect<A, E, E2>(Exit.failCause(cause), fail)
  })
