/**
 * Runs all statements of a database in one transaction, which is rolled back at the end.
 *
 * A sandbox has one connection of the database. Its own connections share it: each begins a savepoint where another
 * connection would begin a transaction. A statement outside of every session gets a savepoint of its own too, so that its
 * failure rolls back nothing else, and its deferred constraints are checked at its end.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../DatabaseError.js"
import type { BeginOptions, Connection, Driver } from "../driver.js"
import type { Readiness } from "../fifoLock.js"
import { make as makeError } from "../makeError.js"
import { rollback } from "../session/commit.js"
import { currentContext, innermost } from "../session/context.js"
import type { Enclosing } from "../session/transaction.js"
import { bounded } from "../watchdog.js"
import { describe } from "./errors.js"
import { SandboxConnection } from "./sandboxConnection.js"
import { SandboxLock } from "./sandboxLock.js"
import { type Wrapped, wrapping } from "./wrapped.js"

/** A savepoint that is open. */
export interface Savepoint {
  readonly name: string
  readonly owner: SandboxConnection
  /** The options of the transaction that it stands for, or undefined if it is only a savepoint. */
  readonly options: BeginOptions | undefined
}

type Tag = "ConnectionLost" | "SessionClosed" | "TransactionAborted" | "InvalidStatement"

/** Blanks, semicolons and comments before a statement. */
const leading = /^(?:[\s;]|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/)*/

const transactionControl =
  /^(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!(?:\s+TRANSACTION|\s+WORK)?\s+TO\b))\b/i

/** Counts the savepoints of all sandboxes, as a sandbox may be inside another. */
let savepointCount = 0

export class Sandbox {
  readonly lock = new SandboxLock()
  /** The open savepoints, innermost last. */
  private readonly stack: Array<Savepoint> = []

  constructor(
    readonly driver: Driver,
    readonly connection: Connection,
    /** Runs an effect in the background. */
    readonly runFork: (effect: Effect.Effect<void>) => unknown
  ) {}

  error(tag: Tag, reason: string, statement?: string): DatabaseError {
    const { dialect } = this.driver
    return makeError(tag, { dialect, code: describe(tag, dialect).code, reason, statement })
  }

  /** The error of every use, if the sandbox's transaction has ended already. */
  get endedError(): DatabaseError | undefined {
    const status = this.connection.status()
    return status === "active" || status === "closed" || (status === "aborted" && this.stack.length > 0)
      ? undefined
      : this.error(
        "TransactionAborted",
        "the sandbox's transaction has ended: a failure rolled all of it back, or one of its own statements ended it"
      )
  }

  /** The error of a statement that would begin or end a transaction. */
  transactionControlError(statement: string): DatabaseError | undefined {
    return transactionControl.test(statement.slice(leading.exec(statement)![0].length))
      ? this.error(
        "InvalidStatement",
        "a sandbox is one transaction, and no statement may end it: use sessions",
        statement
      )
      : undefined
  }

  /** The savepoint of the session that the calling code is in. Waiting for that one to end would be a deadlock. */
  enclosingSavepoint(): Savepoint | undefined {
    for (let enclosing = innermost(currentContext()); enclosing !== undefined; enclosing = enclosing.enclosing) {
      const connection = this.connectionOf(enclosing)
      if (connection !== undefined && connection.savepoints.length > 0 && enclosing.endReason() === undefined) {
        return connection.savepoints[Math.min(enclosing.depth, connection.savepoints.length - 1)]
      }
    }
    return undefined
  }

  /** Whether this savepoint is the innermost one or, if undefined, none is open. */
  readonly readiness = (savepoint: Savepoint | undefined) => (): Readiness => {
    const top = this.stack.at(-1)
    return top === savepoint ? "ready" : savepoint === undefined || this.stack.includes(savepoint) ? "waiting" : "never"
  }

  /** Begins a savepoint that stands for a transaction. Needs the lock. */
  begin(owner: SandboxConnection, options: BeginOptions): Effect.Effect<Savepoint, DatabaseError> {
    return this.push(
      { name: `sqlayer_sandbox_${++savepointCount}`, owner, options },
      (name) => this.connection.beginWithin(name, options)
    )
  }

  /** Opens a savepoint. Needs the lock. */
  push(
    savepoint: Savepoint,
    open: (name: string) => Effect.Effect<void, DatabaseError>
  ): Effect.Effect<Savepoint, DatabaseError> {
    return Effect.suspend(() => {
      const error = this.endedError ?? this.abortedError()
      if (error !== undefined) {
        return Effect.fail(error)
      }
      return Effect.map(Effect.flatten(bounded(this.connection, open(savepoint.name))), () => {
        this.stack.push(savepoint)
        return savepoint
      })
    })
  }

  /** Commits a savepoint that stands for a transaction: checks deferred constraints. Rolls back on failure. Needs the lock. */
  commit(savepoint: Savepoint): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const error = this.endedError ?? this.abortedError()
      const result = error === undefined
        ? Effect.exit(this.connection.commitWithin(savepoint.name, this.enclosingOptions(savepoint)))
        : Effect.succeed(Exit.fail(error))
      return Effect.flatMap(result, (exit) =>
        Exit.isFailure(exit)
          ? Effect.zipRight(Effect.ignore(this.rollback(savepoint)), exit)
          : Effect.sync(() => this.pop(savepoint)))
    })
  }

  /** Rolls back a savepoint, and the savepoints inside it. Needs the lock. */
  rollback(savepoint: Savepoint): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const isEnded = this.endedError !== undefined || this.connection.status() === "closed"
      const enclosing = this.enclosingOptions(savepoint)
      return Effect.flatMap(
        isEnded
          ? Effect.succeed(Exit.void)
          : bounded(this.connection, this.connection.rollbackWithin(savepoint.name, enclosing)),
        (exit) => {
          this.pop(savepoint)
          return exit
        }
      )
    })
  }

  /** Removes a savepoint and those inside it. Other connections that had one of those are closed. */
  pop(savepoint: Savepoint): void {
    const at = this.stack.indexOf(savepoint)
    for (const { owner } of at < 0 ? [] : this.stack.splice(at)) {
      owner.savepoints.splice(
        0,
        owner.savepoints.length,
        ...owner.savepoints.filter((open) => this.stack.includes(open))
      )
      if (owner !== savepoint.owner) {
        owner.closed = true
      }
    }
  }

  private abortedError(): DatabaseError | undefined {
    return this.connection.status() === "aborted"
      ? this.error(
        "TransactionAborted",
        "an earlier statement of the transaction failed, so it can only be rolled back"
      )
      : undefined
  }

  /** The options of the transaction around this one, or undefined if that is the sandbox's own. */
  private enclosingOptions(savepoint: Savepoint): BeginOptions | undefined {
    const below = this.stack.slice(0, Math.max(0, this.stack.indexOf(savepoint)))
    return below.findLast(({ options }) => options !== undefined)?.options
  }

  /** The connection of this sandbox that a transaction is on, which other connections may wrap. */
  private connectionOf(enclosing: Exclude<Enclosing, undefined>): SandboxConnection | undefined {
    let connection: Connection | undefined = enclosing.connection
    while (connection !== undefined && !(connection instanceof SandboxConnection && connection.sandbox === this)) {
      connection = (connection as Partial<Wrapped>).inner
    }
    return connection
  }
}

/** A driver whose database is one transaction on a connection of another database. The scope rolls it back. */
export const make = (
  driver: Driver,
  acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>
): Effect.Effect<Driver, DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const connection = yield* acquire
    yield* Effect.addFinalizer(() => rollback(connection))
    yield* connection.begin({ readOnly: false })
    const runFork = yield* FiberSet.makeRuntime<never, void>()
    const sandbox = new Sandbox(driver, connection, runFork)
    return {
      ...wrapping(driver, () => () => Effect.sync(() => new SandboxConnection(sandbox))),
      // A failed statement of the sandbox would make the check fail too.
      checkHealth: undefined,
      // Nothing is committed, so nothing is recorded.
      commitRecords: undefined,
      // Another server does not see what the sandbox has written.
      replicas: undefined,
      pool: { ...driver.pool, recycle: Duration.infinity }
    }
  })
