/**
 * Runs exchanges as effects: sends them, awaits their completion, cancels them on interruption, and classifies failures.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Predicate from "effect/Predicate"
import { type DatabaseError, isDatabaseError, toSqlError } from "../../DatabaseError.js"
import { asyncInterrupt } from "../asyncInterrupt.js"
import type { Restore, StatementGuard } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { isWellFormed, malformedText } from "../wellFormed.js"
import { cancelTimeout } from "./cancellation.js"
import type { Exchange } from "./exchange.js"
import { reportNotices } from "./notices.js"
import { serverError } from "./pg.js"
import { asksReadOnly, type Pipeline } from "./pipeline.js"
import { type Batch, batchOf, type BatchRequest } from "./portal.js"
import { type Encoded, maxBytesPerCodeUnit } from "./protocol/writer.js"
import { fromPostgres } from "./sqlState.js"
import { mayCommit, mayCommitInPart, mayWrite } from "./statementText.js"
import { CannotBeEncoded, encode } from "./types/encode.js"
import type { TypeRegistry } from "./types/registry.js"

/** The protocol counts parameters with 16 bits. */
const maxParams = 65_535

/** The longest message that a server reads: PQ_LARGE_MESSAGE_LIMIT, which is MaxAllocSize - 1. */
const maxMessageLength = 0x3fff_fffe
/** What Bind holds for each value in addition to its bytes: its length and its format. */
const bytesPerValue = 6
/** What Parse and Bind hold in addition to the text and the values: names and counts. */
const headerBytes = 256

/** read_only_sql_transaction */
const readOnlyCode = "25006"

/** How long a stream that ends early waits for a requested batch before it cancels it, in milliseconds. */
const releaseTimeout = 500

/** Another connection of the driver's own. */
interface OwnConnection {
  readonly query: (text: string) => Effect.Effect<ReadonlyArray<object>, DatabaseError>
  readonly close: Effect.Effect<void>
}

export class Sender {
  constructor(
    private readonly pipeline: Pipeline,
    /** Names the server in errors. */
    private readonly description: string,
    /** Opens another connection to the same target. */
    readonly connectAgain: (restore: Restore) => Effect.Effect<OwnConnection, DatabaseError>
  ) {}

  get types(): TypeRegistry {
    return this.pipeline.types
  }

  /**
   * Encodes parameters for Bind, by their types if these are given. Throws a DatabaseError if the statement or a parameter
   * cannot be sent.
   */
  encode(
    statement: string,
    params: ReadonlyArray<unknown>,
    types?: ReadonlyArray<number>
  ): ReadonlyArray<Encoded> {
    // Without the parameters, since no reason contains a value that would have to be masked.
    const failure = (code: string, reason: string): DatabaseError =>
      fromPostgres(serverError(code, reason), { phase: "statement", statement })
    // The protocol ends strings with NUL, so the server would read other fields.
    if (statement.includes("\0")) {
      throw failure("42601", "a statement may not contain a NUL character")
    }
    if (!isWellFormed(statement)) {
      throw failure("22021", `the statement cannot be sent: ${malformedText}`)
    }
    const encoded: Array<Encoded> = []
    let count = 0
    let reason: string | undefined = undefined
    try {
      count = params.length
      reason = count > maxParams ? undefined : encodeAll(params, count, encoded, this.types, types)
    } catch {
      // The list itself may be a proxy.
      reason = "the parameters cannot be read"
    }
    if (count > maxParams) {
      throw failure(
        "54023",
        `a statement may have at most ${maxParams} parameters, but was given ${count}: pass arrays, run it in parts, or use copyFrom`
      )
    }
    if (reason !== undefined) {
      throw failure("22023", reason)
    }
    const oversize = oversizeOf(statement, encoded)
    if (oversize !== undefined) {
      throw failure("54000", oversize)
    }
    return encoded
  }

  /** Runs one exchange. `guard` is asked immediately before it is submitted. */
  send<A, E>(
    make: () => Exchange,
    finish: (exchange: Exchange) => Effect.Effect<A, E>,
    fail: (error: DatabaseError) => E,
    guard?: StatementGuard,
    /** How it is canceled when its fiber is interrupted. */
    cancel: (exchange: Exchange) => Effect.Effect<void> = this.cancel
  ): Effect.Effect<A, E> {
    const pipeline = this.pipeline
    return asyncInterrupt<A, E>((resume) => {
      const refused = guard?.refusal()
      if (refused !== undefined) {
        return resume(Effect.fail(fail(refused)))
      }
      let exchange: Exchange
      try {
        exchange = make()
      } catch (error) {
        return resume(Effect.fail(fail(cannotBeSent(error))))
      }
      exchange.guard = guard
      exchange.onComplete = (lost) => {
        resume(this.withNotices(exchange, this.resultOf(exchange, lost, finish, fail)))
        exchange.releaseResult()
      }
      pipeline.submit(exchange)
      return cancel(exchange)
    })
  }

  /** Submits an exchange, and calls back when it is complete, with its error if it has failed. */
  submit(
    exchange: Exchange,
    guard: StatementGuard | undefined,
    onComplete: (error: DatabaseError | undefined) => void
  ): void {
    exchange.guard = guard
    exchange.onComplete = (lost) => onComplete(this.failure(exchange, lost))
    this.pipeline.submit(exchange)
  }

  /** Submits an exchange at once, so that the server reads a batch before the consumer asks for it. */
  requestBatch(
    exchange: Exchange,
    guard: StatementGuard | undefined,
    cancel: (exchange: Exchange) => Effect.Effect<void>
  ): BatchRequest {
    const pipeline = this.pipeline
    const refused = guard?.refusal()
    let batch: Effect.Effect<Batch, SqlError> | undefined = undefined
    let onBatch = (): void => undefined
    let duration = Infinity
    const submittedAt = performance.now()
    exchange.guard = guard
    exchange.onComplete = (lost) => {
      duration = performance.now() - submittedAt
      const result = this.resultOf(exchange, lost, (completed) => Effect.succeed(batchOf(completed)), toSqlError)
      batch = this.withNotices(exchange, result)
      exchange.releaseResult()
      onBatch()
    }
    if (refused === undefined) {
      pipeline.submit(exchange)
    } else {
      batch = Effect.fail(toSqlError(refused))
    }
    // `onComplete` lives as long as the exchange and must not retain the rows: see `releaseResult`.
    const handOver = (resume: (batch: Effect.Effect<Batch, SqlError>) => void): void => {
      const completed = batch!
      batch = undefined
      resume(completed)
    }
    return {
      batch: asyncInterrupt((resume) => {
        if (batch !== undefined) {
          return handOver(resume)
        }
        onBatch = () => handOver(resume)
        return cancel(exchange)
      }),
      duration: () => duration,
      release: refused === undefined ? this.cancelLate(exchange) : Effect.void
    }
  }

  /** Runs one exchange in a finalizer, which is uninterruptible: a timeout destroys the connection instead. */
  sendWithTimeout(make: () => Exchange): Effect.Effect<void, DatabaseError> {
    return Effect.async<void, DatabaseError>((resume) => {
      const exchange = make()
      exchange.onComplete = (lost) => resume(this.resultOf(exchange, lost, () => Effect.void, identity))
      this.pipeline.submitWithTimeout(exchange)
    })
  }

  /** Classifies why nothing can be sent. */
  connectionError(cause: Error): DatabaseError {
    return fromPostgres(cause, { phase: "statement", description: this.description })
  }

  /** Cancels an exchange. */
  readonly cancel = (exchange: Exchange): Effect.Effect<void> =>
    Effect.suspend(() => this.pipeline.cancel(exchange, cancelTimeout))

  /** Gives an exchange that was sent a short time to complete before it cancels it, since that fails the transaction. */
  readonly cancelLate = (exchange: Exchange): Effect.Effect<void> =>
    Effect.async<void>((resume) => {
      if (exchange.isComplete || !exchange.isSent) {
        return resume(this.cancel(exchange))
      }
      const timer = setTimeout(() => resume(this.cancel(exchange)), releaseTimeout)
      const { onComplete } = exchange
      exchange.onComplete = (lost) => {
        clearTimeout(timer)
        try {
          onComplete(lost)
        } finally {
          resume(Effect.void)
        }
      }
    })

  /** Reports the notices of an exchange before its result is given. */
  withNotices<A, E>(exchange: Exchange, result: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return exchange.notices === undefined
      ? result
      : Effect.zipRight(reportNotices(exchange, this.pipeline.onNotice), result)
  }

  /** The result of a completed exchange. There is one even if making it throws. */
  private resultOf<A, E>(
    exchange: Exchange,
    lost: Error | undefined,
    finish: (exchange: Exchange) => Effect.Effect<A, E>,
    fail: (error: DatabaseError) => E
  ): Effect.Effect<A, E> {
    try {
      const error = this.failure(exchange, lost)
      return error === undefined ? finish(exchange) : Effect.fail(fail(error))
    } catch {
      const { options, text } = exchange
      const fields = { dialect: "postgres", code: "XX000", statement: options.user ? text : undefined } as const
      return Effect.fail(fail(
        lost !== undefined && this.mayBeCommitted(exchange)
          ? makeError("CommitOutcomeUnknown", { ...fields, reason: unknownOutcome })
          : makeError("UnknownDatabaseError", { ...fields, reason: "the server's answer could not be delivered" })
      ))
    }
  }

  /** The failure of a completed exchange, if any. */
  private failure(exchange: Exchange, lost: Error | undefined): DatabaseError | undefined {
    const { options: { commit, user }, text, unconfirmed } = exchange
    const statement = user ? text : undefined
    if (unconfirmed !== undefined && (lost !== undefined || exchange.error === undefined)) {
      return makeError("CommitOutcomeUnknown", {
        dialect: "postgres",
        code: unconfirmed.code ?? "01000",
        reason: `it is committed on ${this.description}, but no synchronous standby has confirmed that, so it may be ` +
          `lost with that server: ${unconfirmed.message}`,
        statement
      })
    }
    if (lost === undefined && exchange.error === undefined) {
      return undefined
    }
    const isDemoted = lost === undefined && exchange.error?.code === readOnlyCode && this.isDemoted(exchange)
    if (isDemoted) {
      this.pipeline.onReadOnly()
    }
    const explained = exchange.error === undefined ? undefined : exchange.rejectedStep?.explain?.(exchange.error)
    if (explained !== undefined) {
      return explained
    }
    const error = fromPostgres(lost === undefined || exchange.isRejected ? exchange.error : lost, {
      phase: commit === true && exchange.isSent && lost !== undefined && !this.hasNothingToCommit
        ? "commit"
        : "statement",
      isDemoted,
      description: this.description,
      statement,
      // An INSERT of many rows lists them when this is read, and not before.
      params: exchange.options.params
    })
    if (lost === undefined && exchange.isOutdated) {
      return outdatedError(error)
    }
    if (lost === undefined) {
      return this.pipeline.engine.explain(error, exchange)
    }
    return error._tag !== "CommitOutcomeUnknown" && this.mayBeCommitted(exchange)
      ? makeError("CommitOutcomeUnknown", {
        dialect: "postgres",
        // transaction_resolution_unknown
        code: error.code.startsWith("08") ? "08007" : error.code,
        reason: `${unknownOutcome}: ${error.reason}`,
        statement
      })
      : error
  }

  /** Whether the server refuses to write although no session, borrower or role has asked for read-only access. */
  private isDemoted({ isInTransaction, text }: Exchange): boolean {
    const { beganReadOnly, isDirty, isReadOnlyAsked } = this.pipeline
    return !beganReadOnly && !(isReadOnlyAsked && (isInTransaction || isDirty)) && !asksReadOnly.test(text)
  }

  /** Whether an exchange whose connection was lost may have done something that is committed. */
  private mayBeCommitted(
    { executes, isInTransaction, isRejected, isSent, isSkipped, options, text }: Exchange
  ): boolean {
    if (!options.user || !isSent || isSkipped || !executes) {
      return false
    }
    const commits = isInTransaction ? mayCommit(text) : !isRejected || mayCommitInPart(text)
    return commits && mayWrite(text) && !this.isReadOnly(text)
  }

  /** Whether a transaction is read-only on a standby, so that it does not matter whether its COMMIT was executed. */
  private get hasNothingToCommit(): boolean {
    const { isReadOnlyAsked, parameters } = this.pipeline
    return isReadOnlyAsked && parameters.get("in_hot_standby") === "on"
  }

  /** Whether the server lets no statement write, unless the text may change that. */
  private isReadOnly(text: string): boolean {
    const { parameters } = this.pipeline
    return parameters.get("in_hot_standby") === "on" ||
      (parameters.get("default_transaction_read_only") === "on" && !/write|read_only/i.test(text) &&
        !mayCommitInPart(text))
  }
}

/** In a transaction a statement cannot be repeated by itself, but its session can be. */
const outdatedError = (error: DatabaseError): DatabaseError => {
  const { code, detail, hint, position, reason, routine, severity, statement, where } = error
  return makeError("SerializationFailure", {
    dialect: "postgres",
    code,
    reason:
      `${reason} (the statement was prepared for tables or types that have changed since; it is prepared anew when ` +
      "the session is repeated)",
    detail,
    hint,
    severity,
    position,
    where,
    routine,
    statement
  })
}

const unknownOutcome =
  "the statement was sent and its answer has not arrived, so whether it was executed and committed " +
  "is not known"

/** The error of a statement that could not be made. Whatever was thrown may hold values. */
export const cannotBeSent = (cause: unknown): DatabaseError => {
  try {
    if (isDatabaseError(cause)) {
      return cause
    }
  } catch {
    // Even reading it throws.
  }
  return makeError("InvalidData", {
    dialect: "postgres",
    code: "22023",
    reason: "the statement cannot be sent: one of its values cannot be read"
  })
}

/** Why a statement or its parameters are too long for one message, which a server would answer by closing the connection. */
const oversizeOf = (statement: string, values: ReadonlyArray<Encoded>): string | undefined => {
  let upperBound = headerBytes + statement.length * maxBytesPerCodeUnit
  for (const value of values) {
    if (value !== null) {
      upperBound += bytesPerValue + value.length * maxBytesPerCodeUnit
    }
  }
  return upperBound <= maxMessageLength ? undefined : oversize(statement, values)
}

const oversize = (statement: string, values: ReadonlyArray<Encoded>): string | undefined => {
  const sizes = values.map((value) => bytesPerValue + (value === null ? 0 : Buffer.byteLength(value)))
  const index = sizes.findIndex((size) => headerBytes + size > maxMessageLength)
  const limit = `than the ${maxMessageLength} bytes that a server reads at once`
  return headerBytes + Buffer.byteLength(statement) > maxMessageLength
    ? `the statement cannot be sent: it is longer ${limit}`
    : index >= 0
    ? `parameter $${index + 1} cannot be sent: it is longer ${limit}`
    : sizes.reduce((sum, size) => sum + size, headerBytes) > maxMessageLength
    ? `the parameters cannot be sent: together they are longer ${limit}`
    : undefined
}

/** Appends the encoded parameters. Returns why one of them cannot be encoded. */
const encodeAll = (
  params: ReadonlyArray<unknown>,
  count: number,
  encoded: Array<Encoded>,
  registry: TypeRegistry,
  types: ReadonlyArray<number> | undefined
): string | undefined => {
  for (let i = 0; i < count; i++) {
    try {
      encoded.push(types === undefined ? encode(params[i]) : registry.encode(types[i], params[i]))
    } catch (cause) {
      return `parameter $${i + 1} cannot be sent: ${encodingFailure(cause)}`
    }
  }
  return undefined
}

/**
 * Why a value cannot be encoded. An error that a method of the value or an encoder of the application throws may
 * contain the value, so only known messages are shown. Does not throw, whatever was thrown.
 */
const encodingFailure = (cause: unknown): string => {
  try {
    return cause instanceof CannotBeEncoded ? cause.reason : conversionFailure(cause)
  } catch {
    return "its conversion failed"
  }
}

const conversionFailure = (cause: unknown): string => {
  const error = fromPostgres(cause, { phase: "statement" })
  const isKnown = error._tag === "InvalidData" && !Predicate.hasProperty(cause, "severity")
  return isKnown ? error.reason : "its conversion failed"
}
