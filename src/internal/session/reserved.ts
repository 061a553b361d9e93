/**
 * A connection that was reserved, and the transaction that its holder may begin on it with statements of its own.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Lease } from "../../Pool.js"
import type { Connection } from "../driver.js"
import { SessionActivity } from "../telemetry/activity.js"
import { bounded } from "../watchdog.js"
import { BorrowedConnection } from "./borrowedConnection.js"
import { transactionOpen } from "./errors.js"
import { type Enclosing, Transaction } from "./transaction.js"

/** What `reserve` gives, until its scope closes. */
export class Reserved extends BorrowedConnection {
  /**
   * The transaction that the holder begins with a statement of its own. Sessions that run on the connection are nested
   * in it. The holder also commits it, so the commit hooks of these sessions are never run.
   */
  readonly transaction: Transaction
  readonly depth = 0
  /** The session that has begun its transaction on this connection, until it has ended. */
  session: Transaction | undefined = undefined
  private closeReason: DatabaseError | undefined = undefined

  constructor(
    /** Identifies the database that it belongs to. */
    readonly database: object,
    dialect: Dialect,
    readonly lease: Lease<Connection>,
    /** The session or reserved connection around the code that reserved it. */
    readonly enclosing: Enclosing,
    name = "reserved"
  ) {
    super()
    this.transaction = new Transaction({
      database,
      dialect,
      activity: new SessionActivity(name),
      options: {},
      parent: undefined,
      enclosing,
      begin: () => Effect.succeed(lease.connection)
    })
  }

  get connection(): Connection {
    return this.lease.connection
  }

  /** Lends the connection to a session, whose lease does not give it back to the pool. */
  lend(session: Transaction): Effect.Effect<Lease<Connection>, DatabaseError> {
    const refusal = this.refusal() ?? (this.hasTransaction ? transactionOpen(this.transaction.dialect) : undefined)
    if (refusal !== undefined) {
      return Effect.fail(refusal)
    }
    this.session = session
    const giveBack = () => {
      this.session = undefined
    }
    return Effect.succeed({ connection: this.connection, release: Effect.sync(giveBack), giveBack })
  }

  /** Whether a transaction is open on the connection. */
  get hasTransaction(): boolean {
    const status = this.connection.status()
    return status === "active" || status === "aborted"
  }

  refusal(): DatabaseError | undefined {
    return this.closeReason
  }

  endReason(): DatabaseError | undefined {
    return this.closeReason
  }

  close(reason: DatabaseError): void {
    this.closeReason = reason
    this.transaction.end(reason)
  }

  /** A transaction that the holder has begun must not be committed with a statement in it whose result is not known. */
  protected statementInterrupted(): Effect.Effect<void> | undefined {
    const { connection } = this
    return Effect.suspend(() =>
      connection.status() === "active" ? Effect.asVoid(bounded(connection, connection.failStatement)) : Effect.void
    )
  }

  override waitForLock() {
    return this.transaction.waitForLock()
  }

  protected begunConnection() {
    return this.connection
  }

  protected beginConnection() {
    return Effect.succeed(this.connection)
  }
}
