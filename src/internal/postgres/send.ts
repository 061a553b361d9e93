/**
 * Exchanges as effects: how a flight is sent, waited for, stopped, and what its failure is called.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Refusal } from "../driver.js"
import { stoppable } from "../asyncInterrupt.js"
import type { Pipeline } from "./pipeline.js"
import type { Exchange } from "./exchange.js"
import { prepareValue, serverError } from "./pg.js"
import { type Asked, type Batch, batchOf } from "./portal.js"
import { fromPostgres } from "./sqlState.js"
import type { Encoded } from "./protocol/writer.js"

/** More than this the protocol cannot count. */
const maxParams = 65_535

/** How long a stream that ends early waits for rows that it has asked for, in milliseconds. */
const settleTimeout = 500

export class Sender {
  constructor(private readonly channel: Pipeline, private readonly description: string) {}

  /** Throws the DatabaseError. */
  encode(statement: string, params: ReadonlyArray<unknown>): ReadonlyArray<Encoded> {
    const refuse = (code: string, reason: string): never => {
      throw fromPostgres(serverError(code, reason), { phase: "statement", statement, params })
    }
    // What the protocol cannot say would put the server out of step with us.
    if (statement.includes("\0")) {
      refuse("42601", "a statement may not hold a NUL character")
    }
    if (params.length > maxParams) {
      refuse("54023", `a statement may have ${maxParams} parameters, and was given ${params.length}`)
    }
    return params.map((param, i) => {
      if (isNothing(param)) {
        refuse(
          "22023",
          `parameter $${i + 1} cannot be sent: it is or holds a function, a symbol, or a date that is none`
        )
      }
      try {
        return encoded(prepareValue(param))
      } catch (cause) {
        const known = fromPostgres(cause, { phase: "statement" })
        // What a value's own code says may be the value.
        return refuse(
          "22023",
          `parameter $${i + 1} cannot be sent: ${known._tag === "InvalidData" ? known.reason : "its conversion failed"}`
        )
      }
    })
  }

  /** One exchange. `refusal` is asked when it is sent. */
  fly<A, E>(
    make: () => Exchange,
    finish: (flight: Exchange) => Effect.Effect<A, E>,
    fail: (error: DatabaseError) => E,
    refusal?: Refusal
  ): Effect.Effect<A, E> {
    const channel = this.channel
    return stoppable<A, E>((resume) => {
      const refused = refusal?.()
      if (refused !== undefined) {
        return resume(Effect.fail(fail(refused)))
      }
      let flight: Exchange
      try {
        flight = make()
      } catch (error) {
        return resume(Effect.fail(fail(error as DatabaseError)))
      }
      flight.land = (lost) => {
        const error = this.failure(flight, lost)
        resume(error === undefined ? finish(flight) : Effect.fail(fail(error)))
        flight.release()
      }
      channel.submit(flight)
      return Effect.suspend(() => channel.stop(flight))
    })
  }

  /** Sends what is waited for later. */
  ask(flight: Exchange, refusal: Refusal | undefined): Asked {
    const channel = this.channel
    const refused = refusal?.()
    let answer: Effect.Effect<Batch, SqlError> | undefined = undefined
    let told = (): void => undefined
    let took = Infinity
    const since = performance.now()
    flight.land = (lost) => {
      took = performance.now() - since
      const error = this.failure(flight, lost)
      answer = error === undefined ? Effect.succeed(batchOf(flight)) : Effect.fail(toSqlError(error))
      flight.release()
      told()
    }
    if (refused === undefined) {
      channel.submit(flight)
    } else {
      answer = Effect.fail(toSqlError(refused))
    }
    // What is called when the flight lands is kept for as long as the flight is: see `release`.
    const handOver = (resume: (answer: Effect.Effect<Batch, SqlError>) => void): void => {
      const given = answer!
      answer = undefined
      resume(given)
    }
    return {
      answer: stoppable((resume) => {
        if (answer !== undefined) {
          return handOver(resume)
        }
        told = () => handOver(resume)
        return Effect.suspend(() => channel.stop(flight))
      }),
      took: () => took,
      settle: Effect.async<void>((resume) => {
        if (answer !== undefined) {
          return resume(Effect.void)
        }
        const timer = setTimeout(() => resume(channel.stop(flight)), settleTimeout)
        told = () => {
          clearTimeout(timer)
          resume(Effect.void)
        }
      })
    }
  }

  /** For finalizers, which cannot be interrupted. */
  briefly(make: () => Exchange): Effect.Effect<void, DatabaseError> {
    return Effect.async<void, DatabaseError>((resume) => {
      const flight = make()
      flight.land = (lost) => {
        const error = this.failure(flight, lost)
        resume(error === undefined ? Effect.void : Effect.fail(error))
      }
      this.channel.submitBriefly(flight)
    })
  }

  /** Why nothing can be said. */
  refusal(cause: Error): DatabaseError {
    return fromPostgres(cause, { phase: "statement", description: this.description })
  }

  /** What a flight that has landed has failed with, if it has. */
  private failure(flight: Exchange, lost: Error | undefined): DatabaseError | undefined {
    if (lost === undefined && flight.error === undefined) {
      return undefined
    }
    const { commit, params, user } = flight.options
    return fromPostgres(flight.error ?? lost, {
      phase: commit === true && flight.sent && lost !== undefined ? "commit" : "statement",
      description: this.description,
      statement: user ? flight.text : undefined,
      params,
      canceled: false
    })
  }
}

/** What `pg` would send as whatever its text is. */
const isNothing = (value: unknown): boolean => {
  switch (typeof value) {
    case "function":
    case "symbol":
      return true
    case "object":
      return value instanceof Date ? Number.isNaN(value.getTime()) : Array.isArray(value) && value.some(isNothing)
    default:
      return false
  }
}

/** A value's own conversion may give anything. */
const encoded = (value: unknown): Encoded => {
  if (value === null || typeof value === "string" || Buffer.isBuffer(value)) {
    return value
  }
  throw new TypeError("its conversion gave nothing that can be sent")
}
