/**
 * Runs exchanges as effects: sends them, awaits their completion, cancels them on interruption, and classifies failures.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import { asyncInterrupt } from "../asyncInterrupt.js"
import type { Refusal } from "../driver.js"
import type { Exchange } from "./exchange.js"
import { prepareValue, serverError } from "./pg.js"
import type { Pipeline } from "./pipeline.js"
import { type Batch, batchOf, type BatchRequest } from "./portal.js"
import type { Encoded } from "./protocol/writer.js"
import { fromPostgres } from "./sqlState.js"

/** The protocol counts parameters with 16 bits. */
const maxParams = 65_535

/** How long a stream that ends early waits for a batch it has requested before it cancels that; in milliseconds. */
const releaseTimeout = 500

export class Sender {
  /** `description` says in errors where the connection leads. */
  constructor(private readonly pipeline: Pipeline, private readonly description: string) {}

  /** Encodes parameters for Bind. Throws a DatabaseError if the statement or a parameter cannot be sent. */
  encode(statement: string, params: ReadonlyArray<unknown>): ReadonlyArray<Encoded> {
    // Without the parameters, since no reason contains a value that would have to be masked.
    const fail = (code: string, reason: string): never => {
      throw fromPostgres(serverError(code, reason), { phase: "statement", statement })
    }
    // Texts are terminated by NUL: the server would read a message with other fields.
    if (statement.includes("\0")) {
      fail("42601", "a statement may not hold a NUL character")
    }
    if (params.length > maxParams) {
      fail("54023", `a statement may have ${maxParams} parameters, and was given ${params.length}`)
    }
    return params.map((param, i) => {
      if (isUnsendable(param)) {
        fail(
          "22023",
          `parameter $${i + 1} cannot be sent: it is or holds a function, a symbol, or a date that is none`
        )
      }
      try {
        return checkEncoded(prepareValue(param))
      } catch (cause) {
        return fail("22023", `parameter $${i + 1} cannot be sent: ${conversionFailure(cause)}`)
      }
    })
  }

  /** Runs one exchange. `refusal` is called immediately before it is submitted. */
  send<A, E>(
    make: () => Exchange,
    finish: (exchange: Exchange) => Effect.Effect<A, E>,
    fail: (error: DatabaseError) => E,
    refusal?: Refusal
  ): Effect.Effect<A, E> {
    const pipeline = this.pipeline
    return asyncInterrupt<A, E>((resume) => {
      const refused = refusal?.()
      if (refused !== undefined) {
        return resume(Effect.fail(fail(refused)))
      }
      let exchange: Exchange
      try {
        exchange = make()
      } catch (error) {
        return resume(Effect.fail(fail(error as DatabaseError)))
      }
      exchange.onComplete = (lost) => {
        const error = this.failure(exchange, lost)
        resume(error === undefined ? finish(exchange) : Effect.fail(fail(error)))
        exchange.releaseResult()
      }
      pipeline.submit(exchange)
      return Effect.suspend(() => pipeline.cancel(exchange))
    })
  }

  /** Submits an exchange at once, so that the server reads a batch before the consumer asks for it. */
  requestBatch(exchange: Exchange, refusal: Refusal | undefined): BatchRequest {
    const pipeline = this.pipeline
    const refused = refusal?.()
    let batch: Effect.Effect<Batch, SqlError> | undefined = undefined
    let onBatch = (): void => undefined
    let duration = Infinity
    const submittedAt = performance.now()
    exchange.onComplete = (lost) => {
      duration = performance.now() - submittedAt
      const error = this.failure(exchange, lost)
      batch = error === undefined ? Effect.succeed(batchOf(exchange)) : Effect.fail(toSqlError(error))
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
        return Effect.suspend(() => pipeline.cancel(exchange))
      }),
      duration: () => duration,
      release: Effect.async<void>((resume) => {
        if (batch !== undefined) {
          return resume(Effect.void)
        }
        const timer = setTimeout(() => resume(pipeline.cancel(exchange)), releaseTimeout)
        onBatch = () => {
          clearTimeout(timer)
          resume(Effect.void)
        }
      })
    }
  }

  /** Runs one exchange in a finalizer, which is uninterruptible: a timeout destroys the connection instead. */
  sendWithTimeout(make: () => Exchange): Effect.Effect<void, DatabaseError> {
    return Effect.async<void, DatabaseError>((resume) => {
      const exchange = make()
      exchange.onComplete = (lost) => {
        const error = this.failure(exchange, lost)
        resume(error === undefined ? Effect.void : Effect.fail(error))
      }
      this.pipeline.submitWithTimeout(exchange)
    })
  }

  /** Classifies why nothing can be sent. */
  connectionError(cause: Error): DatabaseError {
    return fromPostgres(cause, { phase: "statement", description: this.description })
  }

  /** The failure of a completed exchange, if any. */
  private failure(exchange: Exchange, lost: Error | undefined): DatabaseError | undefined {
    if (lost === undefined && exchange.error === undefined) {
      return undefined
    }
    const { commit, params, user } = exchange.options
    return fromPostgres(exchange.error ?? lost, {
      phase: commit === true && exchange.isSent && lost !== undefined ? "commit" : "statement",
      description: this.description,
      statement: user ? exchange.text : undefined,
      params
    })
  }
}

/** Whether `pg` would send a value as a text that does not represent it. */
const isUnsendable = (value: unknown): boolean => {
  switch (typeof value) {
    case "function":
    case "symbol":
      return true
    case "object":
      return value instanceof Date ? Number.isNaN(value.getTime()) : Array.isArray(value) && value.some(isUnsendable)
    default:
      return false
  }
}

/** The message of what `toPostgres` or `toJSON` throws may contain the value, so it is not shown unless it is known. */
const conversionFailure = (cause: unknown): string => {
  const error = fromPostgres(cause, { phase: "statement" })
  const isKnown = error._tag === "InvalidData" && !Predicate.hasProperty(cause, "severity")
  return isKnown ? error.reason : "its conversion failed"
}

/** A `toPostgres` method may return anything. */
const checkEncoded = (value: unknown): Encoded => {
  if (value === null || typeof value === "string" || Buffer.isBuffer(value)) {
    return value
  }
  throw new TypeError("its conversion gave nothing that can be sent")
}
