/**
 * Everything that is done with a database, in one transaction that is rolled back at the end.
 *
 * There is one physical connection. The sandbox's database has as many virtual ones as it would have real ones; each
 * begins a savepoint where a real one would begin a transaction. What runs outside of every session gets a savepoint of
 * its own too, so that its failure undoes nothing else, and its deferred constraints are checked when it is done.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import type { DatabaseError } from "../../DatabaseError.js"
import type { BeginOptions, Connection, Driver } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { currentContext, innermost } from "../session/context.js"
import { briefly, rolledBack } from "../session/commit.js"
import type { Transaction } from "../session/transaction.js"
import { byTag } from "./errors.js"
import { type Readiness, Turns } from "./sandboxLock.js"
import { Virtual } from "./sandboxConnection.js"
import { type Wrapped, wrapping } from "./wrapped.js"

/** A savepoint that is open. */
export interface Frame {
  readonly name: string
  readonly owner: Virtual
  /** What it was begun with, where it stands for a transaction. */
  readonly options: BeginOptions | undefined
}

type Tag = "ConnectionLost" | "SessionClosed" | "TransactionAborted" | "InvalidStatement"

const leading = /^(?:[\s;]|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/)*/

const controls =
  /^(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!(?:\s+TRANSACTION|\s+WORK)?\s+TO\b))\b/i

/** Of all sandboxes: one may be inside of another. */
let names = 0

export class Sandbox {
  readonly turns = new Turns()
  /** Innermost last. */
  private readonly stack: Array<Frame> = []

  constructor(
    readonly driver: Driver,
    readonly physical: Connection,
    /** Runs what nobody waits for. */
    readonly run: (effect: Effect.Effect<void>) => unknown
  ) {}

  error(tag: Tag, reason: string, statement?: string): DatabaseError {
    const { dialect } = this.driver
    return makeError(tag, { dialect, code: byTag[tag].codes[dialect], reason, statement })
  }

  /** Whether the transaction that everything is in has ended before its time. */
  get over(): DatabaseError | undefined {
    const status = this.physical.status()
    return status === "active" || status === "closed" || (status === "aborted" && this.stack.length > 0)
      ? undefined
      : this.error(
        "TransactionAborted",
        "the sandbox's transaction has ended, by a failure that ends all of it or by a statement of its own"
      )
  }

  /** Statements may not end the transaction, and need not begin one. */
  refused(statement: string): DatabaseError | undefined {
    return controls.test(statement.slice(leading.exec(statement)![0].length))
      ? this.error(
        "InvalidStatement",
        "a sandbox is one transaction, which no statement may end: use sessions",
        statement
      )
      : undefined
  }

  /** What the code that asks is written inside of, so that it need not wait for itself. */
  surrounding(): Frame | undefined {
    for (let unit = innermost(currentContext()); unit !== undefined; unit = unit.outer) {
      const virtual = this.virtualOf(unit)
      if (virtual !== undefined && virtual.frames.length > 0 && unit.refusal() === undefined) {
        return virtual.frames[Math.min(unit.depth, virtual.frames.length - 1)]
      }
    }
    return undefined
  }

  /** Whether nothing is open within this savepoint, or none is at all. */
  readonly readiness = (frame: Frame | undefined) => (): Readiness => {
    const top = this.stack.at(-1)
    return top === frame ? "ready" : frame === undefined || this.stack.includes(frame) ? "waiting" : "gone"
  }

  /** Begins what stands for a transaction. To be run in turn. */
  begin(owner: Virtual, options: BeginOptions): Effect.Effect<Frame, DatabaseError> {
    return this.push(
      { name: `sqlayer_sandbox_${++names}`, owner, options },
      (name) => this.physical.beginWithin(name, options)
    )
  }

  /** Opens a savepoint. To be run in turn. */
  push(frame: Frame, open: (name: string) => Effect.Effect<void, DatabaseError>): Effect.Effect<Frame, DatabaseError> {
    return Effect.suspend(() => {
      const refusal = this.over ?? this.aborted()
      if (refusal !== undefined) {
        return Effect.fail(refusal)
      }
      return Effect.map(Effect.flatten(briefly(this.physical, open(frame.name))), () => {
        this.stack.push(frame)
        return frame
      })
    })
  }

  /** Checks and keeps what was done since; where that cannot be, it is rolled back. To be run in turn. */
  commit(frame: Frame): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const refusal = this.over ?? this.aborted()
      const kept = refusal === undefined
        ? Effect.exit(this.physical.commitWithin(frame.name, this.around(frame)))
        : Effect.succeed(Exit.fail(refusal))
      return Effect.flatMap(kept, (exit) =>
        Exit.isFailure(exit)
          ? Effect.zipRight(Effect.ignore(this.rollback(frame)), exit)
          : Effect.sync(() => this.pop(frame)))
    })
  }

  /** Undoes what was done since, and whatever is open in it. To be run in turn. */
  rollback(frame: Frame): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      const over = this.over !== undefined || this.physical.status() === "closed"
      const around = this.around(frame)
      return Effect.flatMap(
        over ? Effect.succeed(Exit.void) : briefly(this.physical, this.physical.rollbackWithin(frame.name, around)),
        (exit) => {
          this.pop(frame)
          return exit
        }
      )
    })
  }

  /** Whoever still had something open in it has lost it. */
  pop(frame: Frame): void {
    const at = this.stack.indexOf(frame)
    for (const { owner } of at < 0 ? [] : this.stack.splice(at)) {
      owner.frames.splice(0, owner.frames.length, ...owner.frames.filter((open) => this.stack.includes(open)))
      if (owner !== frame.owner) {
        owner.closed = true
      }
    }
  }

  private aborted(): DatabaseError | undefined {
    return this.physical.status() === "aborted"
      ? this.error("TransactionAborted", "a statement of the transaction failed before, so it can only be rolled back")
      : undefined
  }

  /** What the transaction around this one was begun with, if there is one but the sandbox's own. */
  private around(frame: Frame): BeginOptions | undefined {
    const below = this.stack.slice(0, Math.max(0, this.stack.indexOf(frame)))
    return below.findLast(({ options }) => options !== undefined)?.options
  }

  /** This sandbox's connection that a session is on, whatever stands before it. */
  private virtualOf(unit: Transaction): Virtual | undefined {
    let connection: Connection | undefined = unit.connection
    while (connection !== undefined && !(connection instanceof Virtual && connection.sandbox === this)) {
      connection = (connection as Partial<Wrapped>).inner
    }
    return connection
  }
}

/** A driver whose database is one transaction on a connection of another database; rolled back with the scope. */
export const make = (
  driver: Driver,
  acquire: Effect.Effect<Connection, DatabaseError, Scope.Scope>
): Effect.Effect<Driver, DatabaseError, Scope.Scope> =>
  Effect.gen(function*() {
    const physical = yield* acquire
    yield* Effect.addFinalizer(() => rolledBack(physical))
    yield* physical.begin({ readOnly: false })
    const run = yield* FiberSet.makeRuntime<never, void>()
    const sandbox = new Sandbox(driver, physical, run)
    return {
      ...wrapping(driver, () => () => Effect.sync(() => new Virtual(sandbox))),
      pool: { ...driver.pool, recycle: Duration.infinity }
    }
  })
