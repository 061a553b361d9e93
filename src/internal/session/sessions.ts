/**
 * The sessions of one database. A session is outermost, nested in the one that its caller runs in, or joins that one.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Handle, Options, Session } from "../../Session.js"
import { currentContext, innermost, provide } from "./context.js"
import { type Fail, reservedClosed, timedOut } from "./errors.js"
import { joinedHandle, makeHandle } from "./handle.js"
import { interruptibilityOf, timeoutInterruptibilityOf } from "./interruptibility.js"
import { nested, nestedHandle } from "./nested.js"
import { validateHandleOptions, validateNesting, validateOptions } from "./options.js"
import { type Environment, heldLeases, outermost, outermostHandle } from "./outermost.js"
import { type Timeout, withTimeout } from "./timeout.js"
import { Reserved, type Transaction } from "./transaction.js"

export class Sessions {
  constructor(private readonly environment: Environment) {}

  /** The innermost session of this database in a context, even if it has ended. */
  current(context: Context.Context<never>): Transaction | undefined {
    let transaction = innermost(context)
    while (transaction !== undefined && transaction.database !== this.environment) {
      transaction = transaction.enclosing
    }
    return transaction
  }

  /** Runs an effect as a session. `fail` turns the session's own errors into those of the caller. */
  run<A, E, R, E2>(
    effect: Effect.Effect<A, E, R>,
    options: Options,
    fail: Fail<E2>
  ): Effect.Effect<A, E | E2, Exclude<R, Session>> {
    const { environment } = this
    const { dialect, spanAttributes } = environment
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const invalid = validateOptions(options, dialect)
      if (invalid !== undefined) {
        return Effect.fail(fail(invalid))
      }
      const context = fiber.currentContext
      const surrounding = this.surrounding(context, options)
      const refusal = surrounding === undefined ? undefined : validateNesting(options, surrounding, fiber.id())
      if (refusal !== undefined) {
        return Effect.fail(fail(refusal))
      }
      const interruptibility = options.timeout === undefined
        ? interruptibilityOf(runtimeFlags)
        : timeoutInterruptibilityOf(runtimeFlags)
      const enclosing = innermost(context)
      const session = (timeout: Timeout<A, E | E2>): Effect.Effect<A, E | E2, Exclude<R, Session>> =>
        surrounding === undefined
          ? outermost(effect, { environment, options, enclosing, timeout, fail, interruptibility })
          : options.propagation === "join"
          ? provide(effect, surrounding)
          : nested(effect, {
            options,
            parent: surrounding,
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
  acquire(options: Options): Effect.Effect<Handle, DatabaseError, Scope.Scope> {
    const { environment } = this
    const { dialect } = environment
    return Effect.withFiberRuntime((fiber, { runtimeFlags }) => {
      const invalid = validateOptions(options, dialect) ?? validateHandleOptions(options, dialect)
      if (invalid !== undefined) {
        return Effect.fail(invalid)
      }
      const context = fiber.currentContext
      const surrounding = this.surrounding(context, options)
      const refusal = surrounding === undefined ? undefined : validateNesting(options, surrounding, fiber.id())
      if (refusal !== undefined) {
        return Effect.fail(refusal)
      }
      const enclosing = innermost(context)
      const source = () =>
        surrounding === undefined
          ? outermostHandle(environment, options, enclosing)
          : options.propagation === "join"
          ? joinedHandle(options, surrounding, enclosing)
          : nestedHandle({ options, parent: surrounding, enclosing }, fiber.id())
      return makeHandle(source, options, interruptibilityOf(runtimeFlags), dialect)
    })
  }

  /** A connection without a transaction, until the scope closes. */
  readonly reserve: Effect.Effect<Reserved, DatabaseError, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.suspend(() => {
      const { environment } = this
      return environment.pool.take(restore, heldLeases(environment, innermost(currentContext())))
    }).pipe(
      Effect.flatMap((lease) => {
        const reserved = new Reserved(lease.connection)
        return Effect.as(
          Effect.addFinalizer(() => {
            reserved.closed = reservedClosed(this.environment.dialect)
            return lease.release
          }),
          reserved
        )
      })
    )
  )

  /** The session that a new one with these options is nested in or joins. */
  private surrounding(context: Context.Context<never>, { propagation }: Options): Transaction | undefined {
    return propagation === "new" ? undefined : this.current(context)
  }
}
