/**
 * Copies with prepared statements, in the text and CSV formats of PostgreSQL's COPY.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import { type Data, isData, Unusable, valuesOf } from "../copy/elements.js"
import { elementMismatch, malformedData, unusableRow } from "../copy/errors.js"
import { acceptsRows } from "../copy/format.js"
import { makeReader, MalformedData } from "../copy/reader.js"
import { pullSource } from "../copy/source.js"
import { makeWriter } from "../copy/writer.js"
import type { CopyFrom, CopySource, CopyTo, Pull, StatementGuard } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { withoutEffect } from "../statementGuard.js"
import { bufferOf } from "./bytes.js"
import { bindable } from "./params.js"
import type { Column, Fetch, FirstBatch } from "./protocol.js"

export interface CursorOptions extends Pick<Fetch, "sql" | "params" | "form" | "safeIntegers"> {
  readonly onFirst: (batch: FirstBatch) => void
}

/** What a copy uses of its connection. */
export interface Copying {
  /** Whether statements run on the thread of the caller. */
  readonly isSynchronous: boolean
  readonly openCursor: (
    options: CursorOptions,
    guard: StatementGuard | undefined
  ) => Effect.Effect<Pull, never, Scope.Scope>
  /** Runs a statement once for each row. `lines` has the line of the data that each row is from. */
  readonly runMany: (
    sql: string,
    rows: ReadonlyArray<ReadonlyArray<unknown>>,
    lines: ReadonlyArray<number>,
    guard: StatementGuard | undefined
  ) => Effect.Effect<void, SqlError>
  /** Keeps the open transaction from being committed. */
  readonly failStatement: Effect.Effect<void, DatabaseError>
}

/** The maximum number of rows of one request. Other statements can run between two requests. */
const batchSize = 1_000

export const copyFromText = ({ columns, table }: CopyFrom): string =>
  `INSERT INTO ${table} (${columns.map(({ identifier }) => identifier).join(", ")}) VALUES (${
    columns.map(() => "?").join(", ")
  })`

const noBinary = (statement: string): DatabaseError =>
  makeError("InvalidStatement", {
    dialect: "sqlite",
    code: "SQLITE_ERROR",
    reason: "the binary format of a copy is PostgreSQL's own: use text or csv",
    statement
  })

/** Bytes, as PostgreSQL writes them in text. */
const hexBytes = /^\\x(?:[0-9a-fA-F]{2})*$/

interface Rows {
  readonly values: Array<ReadonlyArray<unknown>>
  readonly lines: Array<number>
}

/** Makes rows of the elements of one copy, which are all rows or all data. */
class ElementReader {
  private kind: "rows" | "data" | undefined = undefined
  private row = 0
  private isHeaderRead = false
  private readonly reader
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

  constructor(
    private readonly request: CopyFrom,
    private readonly text: string,
    /** The declared types of the columns. */
    private readonly types: ReadonlyArray<string | null>,
    private readonly isSynchronous: boolean
  ) {
    this.reader = makeReader(request.format)
  }

  read(elements: ReadonlyArray<unknown>): Rows | DatabaseError {
    if (elements.length === 0) {
      return { values: [], lines: [] }
    }
    this.kind ??= isData(elements[0]) ? "data" : "rows"
    if (this.kind === "data") {
      return elements.every(isData)
        ? this.fromData(() => elements.flatMap((data) => this.reader.push(this.decode(data))))
        : elementMismatch("sqlite", this.text)
    }
    return acceptsRows(this.request.format) && !elements.some(isData)
      ? this.fromRows(elements)
      : elementMismatch("sqlite", this.text)
  }

  end(): Rows | DatabaseError {
    return this.fromData(() => [...this.reader.push(this.decoder.decode()), ...this.reader.end()])
  }

  private decode(data: Data): string {
    return typeof data === "string" ? data : this.decoder.decode(data, { stream: true })
  }

  private fromRows(elements: ReadonlyArray<unknown>): Rows | DatabaseError {
    const rows: Rows = { values: [], lines: [] }
    for (const element of elements) {
      const line = ++this.row
      const values = valuesOf(element, this.request.columns)
      if (values instanceof Unusable) {
        return unusableRow("sqlite", this.text, { line, column: values.column, cause: values.reason })
      }
      const bound = bindable(this.text, values, { synchronous: this.isSynchronous })
      if (bound._tag === "Left") {
        return unusableRow("sqlite", this.text, { line, column: undefined, cause: bound.left })
      }
      rows.values.push(bound.right)
      rows.lines.push(line)
    }
    return rows
  }

  private fromData(read: () => ReturnType<typeof this.reader.push>): Rows | DatabaseError {
    const rows: Rows = { values: [], lines: [] }
    try {
      for (const { line, values } of read()) {
        if (this.request.format.header && !this.isHeaderRead) {
          this.isHeaderRead = true
          continue
        }
        if (values.length !== this.types.length) {
          const problem = values.length < this.types.length ? "missing data" : "extra data"
          throw new MalformedData(line, `${problem}: it has ${values.length} values for ${this.types.length} columns`)
        }
        rows.values.push(values.map((value, i) => this.valueOf(value, i)))
        rows.lines.push(line)
        this.row = line
      }
      return rows
    } catch (error) {
      const { line, reason } = error instanceof MalformedData
        ? error
        : new MalformedData(this.row + 1, "invalid byte sequence for encoding \"UTF8\"")
      return malformedData("sqlite", this.text, line, reason)
    }
  }

  /** SQLite converts text by the type of its column, but not to bytes, which is done here. */
  private valueOf(value: string | null, column: number): unknown {
    return value !== null && /blob/i.test(this.types[column] ?? "") && hexBytes.test(value)
      ? Buffer.from(value.slice(2), "hex")
      : value
  }
}

/** The declared types of the columns, in the transaction of the copy. */
const typesOf = (
  { openCursor }: Copying,
  { columns, table }: CopyFrom,
  guard: StatementGuard | undefined
): Effect.Effect<ReadonlyArray<string | null>, SqlError> =>
  Effect.scoped(Effect.suspend(() => {
    let found: ReadonlyArray<Column> = []
    const options: CursorOptions = {
      sql: `SELECT ${columns.map(({ identifier }) => identifier).join(", ")} FROM ${table} LIMIT 0`,
      params: [],
      form: "values",
      safeIntegers: false,
      onFirst: ({ columns }) => {
        found = columns ?? []
      }
    }
    // Reading the types has no effect, so it does not count as sent.
    return Effect.flatMap(openCursor(options, withoutEffect(guard)), (pull) =>
      Effect.matchEffect(pull, {
        onSuccess: () => Effect.succeed(found.map(({ type }) => type)),
        onFailure: (error) => Option.isSome(error) ? Effect.fail(error.value) : Effect.succeed([])
      }))
  }))

/**
 * The guard of the parts of one copy: it counts as sent once one of them was. `isRefused` tells whether the last part was
 * refused.
 */
class PartGuard implements StatementGuard {
  mayWrite = true
  isRefused = false
  private hasSent = false

  constructor(private readonly guard: StatementGuard | undefined) {}

  refusal(): DatabaseError | undefined {
    const refused = this.guard?.refusal()
    this.isRefused = refused !== undefined
    return refused
  }

  wait(): Effect.Effect<void, SqlError> | undefined {
    return this.guard?.wait?.()
  }

  get isSent(): boolean {
    return this.hasSent
  }

  set isSent(isSent: boolean) {
    this.hasSent ||= this.isPartSent
    this.isPartSent = isSent
    if (this.guard !== undefined) {
      this.guard.isSent = this.hasSent || isSent
    }
  }

  /** Whether the current part is sent. */
  private isPartSent = false

  /** The next part begins. */
  next(): void {
    this.hasSent ||= this.isPartSent
    this.isPartSent = false
  }
}

/** Copies in several requests, and so needs a transaction. */
export const copyFrom = <E>(
  copying: Copying,
  request: CopyFrom,
  source: CopySource<E>,
  guard: StatementGuard | undefined
): Effect.Effect<number, SqlError | E> => {
  const text = copyFromText(request)
  return request.format.format === "binary"
    ? Effect.fail(toSqlError(noBinary(text)))
    : Effect.flatMap(
      typesOf(copying, request, guard),
      (types) => insertAll(copying, new ElementReader(request, text, types, copying.isSynchronous), text, source, guard)
    )
}

const insertAll = <E>(
  copying: Copying,
  reader: ElementReader,
  text: string,
  source: CopySource<E>,
  guard: StatementGuard | undefined
): Effect.Effect<number, SqlError | E> =>
  Effect.suspend(() => {
    const partGuard = new PartGuard(guard)
    let count = 0

    /** Waits for a nested session that has begun since the last part. */
    const insertPart = (values: Rows["values"], lines: Rows["lines"]): Effect.Effect<void, SqlError> =>
      Effect.suspend(() => {
        const wait = partGuard.wait()
        if (wait !== undefined) {
          return Effect.zipRight(wait, insertPart(values, lines))
        }
        partGuard.next()
        return Effect.catchAll(copying.runMany(text, values, lines, partGuard), (error) =>
          partGuard.isRefused && partGuard.wait() !== undefined ? insertPart(values, lines) : Effect.fail(error))
      })
    const insert = ({ lines, values }: Rows, from = 0): Effect.Effect<void, SqlError> => {
      const to = Math.min(values.length, from + batchSize)
      const part = insertPart(values.slice(from, to), lines.slice(from, to))
      return to < values.length
        ? Effect.zipRight(
          part,
          Effect.suspend(() =>
            insert({ lines, values }, to)
          )
        )
        : part
    }
    const insertRows = (rows: Rows | DatabaseError): Effect.Effect<void, SqlError> => {
      if (!("lines" in rows)) {
        return Effect.fail(toSqlError(rows))
      }
      count += rows.lines.length
      return rows.lines.length === 0 ? Effect.void : insert(rows)
    }
    const next: Effect.Effect<number, SqlError | E> = Effect.suspend(() =>
      pullSource<number, E, SqlError>(source, {
        onElements: (elements) => Effect.zipRight(insertRows(reader.read(elements)), next),
        onEnd: () => Effect.map(insertRows(reader.end()), () => count)
      })
    )
    // What was inserted before must not be committed.
    return Effect.tapErrorCause(next, () => partGuard.isRefused ? Effect.void : Effect.ignore(copying.failStatement))
  })

/** A value of SQLite as text. Integers are read as bigints. */
const textOf = (value: bigint | number | string | Uint8Array | null): string | null => {
  if (value === null) {
    return null
  }
  return value instanceof Uint8Array
    ? `\\x${bufferOf(value).toString("hex")}`
    : String(value)
}

/** Each batch of rows becomes one piece of data. */
export const copyTo = (
  copying: Copying,
  { format, params, query }: CopyTo,
  guard: StatementGuard | undefined
): Effect.Effect<Pull, never, Scope.Scope> => {
  if (format.format === "binary") {
    return Effect.succeed<Pull>(Effect.fail(Option.some(toSqlError(noBinary(query)))))
  }
  return Effect.suspend(() => {
    const write = makeWriter(format)
    let header = ""
    const onFirst = ({ columns }: FirstBatch): void => {
      header = format.header && columns !== undefined ? write(columns.map(({ name }) => name)) : ""
    }
    const options: CursorOptions = { sql: query, params, form: "values", safeIntegers: true, onFirst }
    return Effect.map(copying.openCursor(options, guard), (pull) =>
      Effect.map(pull, (rows) => {
        let text = header
        header = ""
        for (const row of rows as ReadonlyArray<ReadonlyArray<Parameters<typeof textOf>[0]>>) {
          text += write(row.map(textOf))
        }
        return text === "" ? [] : [Buffer.from(text)]
      }))
  })
}
