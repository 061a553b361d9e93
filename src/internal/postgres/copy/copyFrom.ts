/**
 * Copies a stream into a table, by COPY FROM STDIN.
 */
import type { SqlError } from "@effect/sql/SqlError"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { type DatabaseError, toSqlError } from "../../../DatabaseError.js"
import { isData, Unusable, Utf8Encoder } from "../../copy/elements.js"
import { elementMismatch, unusableRow } from "../../copy/errors.js"
import { acceptsRows } from "../../copy/format.js"
import { pullSource } from "../../copy/source.js"
import type { CopyFrom, CopySource, StatementGuard } from "../../driver.js"
import { raceFirst } from "../../raceFirst.js"
import { unhurriedTimeout } from "../cancellation.js"
import { parameterTypesOf } from "../execute.js"
import type { Pipeline } from "../pipeline.js"
import type { Sender } from "../send.js"
import { CannotBeEncoded, checkText } from "../types/encode.js"
import { lookUpTypes } from "../types/lookUp.js"
import type { TypeRegistry } from "../types/registry.js"
import { CopyIn } from "./exchanges.js"
import { dataMessages, type EncodeValue, RowEncoder } from "./rows.js"
import { asCopySource } from "./source.js"
import { copyFromText, insertText } from "./text.js"

/** How long the server may take to end a copy whose source has failed, before it is canceled; in milliseconds. */
const failTimeout = 500

/** In real time, whatever the Clock of the application. */
const sleepUntilFailed: Effect.Effect<void> = Effect.async<void>((resume) => {
  const timer = setTimeout(() => resume(Effect.void), failTimeout)
  return Effect.sync(() => clearTimeout(timer))
})

/** Encodes the elements of one copy, which are all rows or all data. */
class ElementEncoder {
  private kind: "rows" | "data" | undefined = undefined
  private readonly utf8 = new Utf8Encoder()
  private readonly rows: RowEncoder

  constructor(private readonly request: CopyFrom, private readonly text: string, encodeValue: EncodeValue) {
    this.rows = new RowEncoder(request.columns, encodeValue)
  }

  encode(elements: ReadonlyArray<unknown>): ReadonlyArray<Buffer> | DatabaseError {
    if (elements.length === 0) {
      return []
    }
    this.kind ??= isData(elements[0]) ? "data" : "rows"
    if (this.kind === "data") {
      return elements.every(isData)
        ? elements.flatMap((data) => dataMessages(this.utf8.encode(data)))
        : elementMismatch("postgres", this.text)
    }
    if (!acceptsRows(this.request.format) || elements.some(isData)) {
      return elementMismatch("postgres", this.text)
    }
    const messages = this.rows.encode(elements)
    return "cause" in messages ? unusableRow("postgres", this.text, messages) : messages
  }

  end(): ReadonlyArray<Buffer> {
    return dataMessages(this.utf8.end())
  }
}

export const copyFrom = <E>(
  pipeline: Pipeline,
  sender: Sender,
  request: CopyFrom,
  source: CopySource<E>,
  guard: StatementGuard | undefined
): Effect.Effect<number, SqlError | E> => {
  const text = copyFromText(request)
  if (!acceptsRows(request.format)) {
    return copyElements(pipeline, sender, text, new ElementEncoder(request, text, noEncoder), source, guard)
  }
  return Effect.flatMap(parameterTypesOf(sender, insertText(request), guard), (oids) =>
    Effect.zipRight(
      Effect.mapError(lookUpTypes(sender, oids), toSqlError),
      Effect.suspend(() => {
        const { types } = pipeline
        const encoder = new ElementEncoder(request, text, (value, column) => encodeText(types, oids[column], value))
        return copyElements(pipeline, sender, text, encoder, source, guard)
      })
    ))
}

/** Throws Unusable with the reason of CannotBeEncoded, which holds no value. Other errors may hold one. */
const encodeText = (types: TypeRegistry, oid: number, value: unknown): string | null => {
  try {
    // These are sent alike for every type, unless the application encodes by type.
    if (!types.encodesByType) {
      if (typeof value === "string") {
        return checkText(value)
      }
      if (typeof value === "number") {
        return String(value)
      }
    }
    return types.encodeText(oid, value)
  } catch (cause) {
    throw cause instanceof CannotBeEncoded ? new Unusable(cause.reason) : cause
  }
}

/** For formats that do not accept rows. */
const noEncoder: EncodeValue = () => null

const copyElements = <E>(
  pipeline: Pipeline,
  sender: Sender,
  text: string,
  encoder: ElementEncoder,
  source: CopySource<E>,
  guard: StatementGuard | undefined
): Effect.Effect<number, SqlError | E> =>
  Effect.suspend(() => {
    let exchange: CopyIn | undefined = undefined
    let onReady = (): void => undefined
    /** Why the source ended the copy. */
    let failure: Cause.Cause<SqlError | E> | undefined = undefined

    const copied = sender.send<number, SqlError>(
      () => {
        exchange = new CopyIn(text, { user: true }, pipeline)
        exchange.onReady = () => onReady()
        return exchange
      },
      ({ result }) => Effect.succeed(Number(/\d+$/.exec(result.commandTag ?? "")?.[0] ?? 0)),
      toSqlError,
      guard
    )

    const ready = Effect.async<CopyIn>((resume) => {
      onReady = () => resume(Effect.succeed(exchange!))
      if (exchange?.isReady === true) {
        onReady()
      }
    })

    const drained = Effect.async<void>((resume) => {
      const { stream } = pipeline
      const onDrain = (): void => resume(Effect.void)
      stream.once("drain", onDrain)
      return Effect.sync(() => stream.off("drain", onDrain))
    })

    const send = (copy: CopyIn, messages: ReadonlyArray<Buffer>): Effect.Effect<void> => {
      let isFree = true
      for (const message of messages) {
        isFree = copy.send(message)
      }
      return isFree ? Effect.void : drained
    }

    const feed = (copy: CopyIn): Effect.Effect<void, SqlError | E> => {
      const pull = asCopySource(source, copy.identity)
      const next: Effect.Effect<void, SqlError | E> = Effect.suspend(() =>
        pullSource<void, E, SqlError>(pull, {
          onElements: (elements) => {
            const messages = encoder.encode(elements)
            return "length" in messages
              ? Effect.zipRight(send(copy, messages), next)
              : Effect.fail(toSqlError(messages))
          },
          onEnd: () => Effect.zipRight(send(copy, encoder.end()), Effect.sync(() => copy.finish()))
        })
      )
      return next
    }

    const fed = Effect.flatMap(ready, (copy) =>
      Effect.matchCauseEffect(feed(copy), {
        onSuccess: () => Effect.never,
        onFailure: (cause) => {
          failure = cause
          copy.fail("the source of the data has failed")
          // The server answers with an error, which ends the race. If that takes too long, the copy is canceled. A session
          // that is not interrupted waits longer for that, so that a slow network does not cost it its connection.
          const canceled = guard === undefined ? Effect.void : pipeline.cancel(copy, unhurriedTimeout)
          return Effect.zipRight(sleepUntilFailed, Effect.zipRight(canceled, Effect.failCause(cause)))
        }
      }))

    // The one that ends first interrupts the other, even if the caller is uninterruptible.
    const race = raceFirst(copied, fed)
    return Effect.matchCauseEffect(race, {
      onSuccess: (rows) => Effect.succeed(rows),
      onFailure: (cause) => failure === undefined ? Effect.failCause(cause) : Effect.failCause(failure)
    })
  })
