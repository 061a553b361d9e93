/**
 * The binding of node:sqlite, the SQLite that is built into Node, Deno and Bun. What its API does not report is read
 * from the text of a statement, or from its EXPLAIN.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import {
  type BackupMetadata,
  backupPages,
  type Binding,
  checkFile,
  type Database,
  memory,
  type RowFormat,
  type RunResult,
  SqliteError,
  type Statement
} from "./binding.js"
import { bufferOf } from "./bytes.js"
import { nameOfCode } from "./codeNames.js"
import * as Integers from "./integers.js"
import { explainText, isBlank, parametersOf, writesByText } from "./statementText.js"

interface NodeStatement {
  readonly sourceSQL: string
  readonly all: (...params: ReadonlyArray<unknown>) => Array<unknown>
  readonly iterate: (...params: ReadonlyArray<unknown>) => IterableIterator<unknown>
  readonly run: (
    ...params: ReadonlyArray<unknown>
  ) => { readonly changes: number | bigint; readonly lastInsertRowid: number | bigint }
  readonly columns: () => ReadonlyArray<{ readonly name: string; readonly type: string | null }>
  readonly setReadBigInts: (enabled: boolean) => void
  readonly setReturnArrays: (enabled: boolean) => void
}

interface NodeDatabase {
  readonly isTransaction: boolean
  readonly prepare: (sql: string) => NodeStatement
  readonly exec: (sql: string) => void
  readonly close: () => void
  readonly serialize?: () => Uint8Array
  readonly enableLoadExtension?: (enabled: boolean) => void
  readonly loadExtension: (path: string) => void
  readonly function?: (name: string, options: object, f: (...args: ReadonlyArray<unknown>) => unknown) => void
  readonly aggregate?: (name: string, options: object) => void
}

interface NodeOptions {
  readonly readOnly: boolean
  readonly allowExtension: boolean
}

/** The module node:sqlite. */
export interface Module {
  readonly DatabaseSync: new(path: string | URL, options: NodeOptions) => NodeDatabase
  readonly StatementSync: { readonly prototype: Partial<NodeStatement> }
  readonly backup?: (
    database: NodeDatabase,
    destination: string,
    options: { readonly rate: number; readonly progress: (progress: BackupMetadata) => void }
  ) => Promise<number>
}

type Row = Record<string, unknown>

/**
 * Up to this many rows are read as objects, which have the names of the columns. More rows are read faster as arrays.
 */
const fewRows = 2

/** A value as better-sqlite3 returns it: bytes are a Buffer. */
const valueOf = (value: unknown): unknown => value instanceof Uint8Array ? bufferOf(value) : value

/** A row without a prototype as a plain object. */
const rowOfObject = (object: Row): Row => {
  const row: Row = {}
  for (const name in object) {
    row[name] = valueOf(object[name])
  }
  return row
}

const rowOfArray = (names: ReadonlyArray<string>, values: ReadonlyArray<unknown>): Row => {
  const row: Row = {}
  for (let i = 0; i < names.length; i++) {
    row[names[i]] = valueOf(values[i])
  }
  return row
}

/** Whether it is the error for an integer that a number cannot hold. That error does not name the column. */
const isOutOfRange = (error: unknown): boolean =>
  error instanceof RangeError && "code" in error && error.code === "ERR_OUT_OF_RANGE"

/** The iterators of Bun and Deno end at an integer that a number cannot hold, without an error. */
const endsSilently = process.versions.bun !== undefined || process.versions.deno !== undefined

/** What the code of an aggregate has thrown. Node does not always pass it on, and reports a success instead. */
class AggregateFailure {
  private thrown: unknown

  /** Wraps the code so that what it throws is recorded. */
  record<Args extends ReadonlyArray<unknown>>(f: (...args: Args) => unknown): (...args: Args) => unknown {
    const recording = (...args: Args): unknown => {
      try {
        return f(...args)
      } catch (error) {
        this.thrown = error
        throw error
      }
    }
    // Node takes the number of arguments from it.
    return Object.defineProperty(recording, "length", { value: f.length })
  }

  /** Runs a step of a statement, and throws what an aggregate has thrown in it. */
  during<A>(f: () => A): A {
    let error: unknown
    try {
      const value = f()
      if (this.thrown === undefined) {
        return value
      }
    } catch (thrown) {
      error = thrown
    }
    const { thrown = error } = this
    this.thrown = undefined
    throw thrown
  }
}

class BuiltInStatement implements Statement {
  readonly returnsRows: boolean
  readonly isReadOnly: boolean
  private readonly parameters: ReturnType<typeof parametersOf>
  /** How many rows the last execution returned. */
  private rowCount = 0

  constructor(
    private readonly statement: NodeStatement,
    sql: string,
    isReadOnly: () => boolean,
    private readonly aggregates: AggregateFailure
  ) {
    this.returnsRows = statement.columns().length > 0
    this.isReadOnly = isReadOnly()
    this.parameters = parametersOf(sql)
  }

  /** Refuses parameters that are missing, which SQLite would take for NULL, and converts undefined to NULL. */
  private bind(params: ReadonlyArray<unknown>): ReadonlyArray<unknown> {
    const { areNamed, count } = this.parameters
    if (params.length !== count) {
      throw new RangeError(`Too ${params.length < count ? "few" : "many"} parameter values were provided`)
    }
    if (areNamed) {
      throw new RangeError("Missing named parameters")
    }
    return params.includes(undefined) ? params.map((param) => param ?? null) : params
  }

  readonly columns = () => this.statement.columns().map(({ name, type }) => ({ name, type }))

  private configure(asArray: boolean, safeIntegers: boolean): NodeStatement {
    this.statement.setReadBigInts(safeIntegers)
    this.statement.setReturnArrays(asArray)
    return this.statement
  }

  /** The names are read after the rows: the first step prepares the statement again if the schema has changed. */
  private get names(): ReadonlyArray<string> {
    return this.statement.columns().map(({ name }) => name)
  }

  run(params: ReadonlyArray<unknown>): RunResult {
    const bound = this.bind(params)
    const { changes, lastInsertRowid } = this.aggregates.during(() => this.configure(false, true).run(...bound))
    return { changes: Number(changes), lastInsertRowid: BigInt(lastInsertRowid) }
  }

  all(params: ReadonlyArray<unknown>, { asArray, safeIntegers }: RowFormat, check?: () => void): Array<unknown> {
    const bound = this.bind(params)
    // The rows of a statement that writes cannot be read a second time.
    if (!safeIntegers && this.isReadOnly && !(endsSilently && check !== undefined)) {
      try {
        return this.read(bound, asArray, false, check)
      } catch (error) {
        if (!isOutOfRange(error)) {
          throw error
        }
      }
    }
    const rows = this.read(bound, asArray, true, check)
    return safeIntegers ? rows : rows.map((row) => Integers.toNumbers(row, this.columns))
  }

  private read(
    bound: ReadonlyArray<unknown>,
    asArray: boolean,
    safeIntegers: boolean,
    check: (() => void) | undefined
  ): Array<unknown> {
    if (check !== undefined) {
      return Integers.readEach(this.step(bound, asArray, safeIntegers), check)
    }
    const readsArrays = asArray || this.rowCount > fewRows
    const rows = this.aggregates.during(() => this.configure(readsArrays, safeIntegers).all(...bound))
    this.rowCount = rows.length
    if (asArray) {
      return (rows as Array<Array<unknown>>).map((values) => values.map(valueOf))
    }
    if (!readsArrays) {
      return (rows as Array<Row>).map(rowOfObject)
    }
    const { names } = this
    return (rows as Array<Array<unknown>>).map((values) => rowOfArray(names, values))
  }

  iterate(params: ReadonlyArray<unknown>, { asArray, safeIntegers }: RowFormat): IterableIterator<unknown> {
    const rows = this.step(this.bind(params), asArray, true)
    return safeIntegers ? rows : Integers.iterateNumbers(rows, this.columns)
  }

  private step(bound: ReadonlyArray<unknown>, asArray: boolean, safeIntegers: boolean): IterableIterator<unknown> {
    const { aggregates, statement } = this
    const rows = this.configure(asArray, safeIntegers).iterate(...bound)
    const step = () => rows.next()
    let names: ReadonlyArray<string> | undefined
    const convert = (row: unknown): unknown => {
      if (asArray) {
        return (row as Array<unknown>).map(valueOf)
      }
      if (Array.isArray(row)) {
        // Columns of the same name are one property of an object.
        names = names?.length === row.length ? names : this.names
        return rowOfArray(names, row)
      }
      if (names === undefined) {
        names = Object.keys(row as Row)
        // The further rows are read as arrays, which is faster.
        statement.setReturnArrays(true)
      }
      return rowOfObject(row as Row)
    }
    const iterator: IterableIterator<unknown> = {
      next: () => {
        const { done, value } = aggregates.during(step)
        return done === true ? { done, value: undefined } : { done: false, value: convert(value) }
      },
      return: () => {
        rows.return?.()
        return { done: true, value: undefined }
      },
      [Symbol.iterator]: () => iterator
    }
    return iterator
  }
}

const operationsThatWrite: ReadonlySet<unknown> = new Set(["Checkpoint", "Vacuum", "JournalMode"])

/** The value of sqlite3_stmt_readonly, which SQLite computes from the same opcodes of the statement's program. */
const isReadOnly = (database: NodeDatabase, sql: string): boolean => {
  const writes = writesByText(sql)
  if (writes !== undefined) {
    return !writes
  }
  const program = database.prepare(explainText(sql)).all() as ReadonlyArray<Row>
  return !program.some(({ opcode, p2 }) => operationsThatWrite.has(opcode) || (opcode === "Transaction" && p2 !== 0))
}

const prepare = (database: NodeDatabase, sql: string, aggregates: AggregateFailure): Statement => {
  if (isBlank(sql)) {
    throw new RangeError("The supplied SQL string contains no statements")
  }
  const statement = database.prepare(sql)
  if (!isBlank(sql.slice(statement.sourceSQL.length))) {
    throw new RangeError("The supplied SQL string contains more than one statement")
  }
  return new BuiltInStatement(statement, sql, () => isReadOnly(database, sql), aggregates)
}

const isFromSqlite = (error: unknown): error is Error & { readonly code: string; readonly errcode?: number } =>
  error instanceof Error && "code" in error && error.code === "ERR_SQLITE_ERROR"

/** Opens without the right to load extensions where the runtime's permissions refuse that. */
const openWith = (module: Module, path: string | URL, readOnly: boolean): NodeDatabase => {
  try {
    return new module.DatabaseSync(path, { readOnly, allowExtension: true })
  } catch (error) {
    if (isFromSqlite(error)) {
      throw error
    }
    return new module.DatabaseSync(path, { readOnly, allowExtension: false })
  }
}

/** Throws if the directory does not exist. SQLite's own error does not tell this from a missing permission. */
const checkDirectory = (filename: string): void => {
  if (!Fs.existsSync(Path.dirname(filename))) {
    throw new SqliteError("Cannot save backup because the directory does not exist", "SQLITE_CANTOPEN")
  }
}

const makeDatabase = (
  module: Module,
  database: NodeDatabase,
  aggregates = new AggregateFailure()
): Database => ({
  inTransaction: () => database.isTransaction,
  prepare: (sql) => prepare(database, sql, aggregates),
  exec: (sql) => database.exec(sql),
  pragma: (sql) => database.prepare(`PRAGMA ${sql}`).all() as ReadonlyArray<Row>,
  serialize: () => {
    if (database.serialize === undefined) {
      throw new SqliteError(
        "an export needs better-sqlite3, or a runtime whose node:sqlite can serialize",
        "SQLITE_ERROR"
      )
    }
    return bufferOf(database.serialize())
  },
  backup: async (destination, onProgress): Promise<BackupMetadata> => {
    if (module.backup === undefined) {
      throw new SqliteError("a backup needs better-sqlite3, or a runtime whose node:sqlite has backups", "SQLITE_ERROR")
    }
    checkDirectory(destination)
    const totalPages = await module.backup(database, destination, { rate: backupPages, progress: onProgress })
    return { totalPages, remainingPages: 0 }
  },
  loadExtension: (path) => {
    try {
      database.enableLoadExtension?.(true)
    } catch (error) {
      throw new SqliteError(error instanceof Error ? error.message : String(error), "SQLITE_PERM")
    }
    try {
      database.loadExtension(path)
    } finally {
      database.enableLoadExtension?.(false)
    }
  },
  defineFunction: (name, options, f) => {
    if (database.function === undefined) {
      throw new SqliteError("functions need better-sqlite3, or a node:sqlite that has them: Node", "SQLITE_ERROR")
    }
    database.function(name, { ...options, useBigIntArguments: true }, f)
  },
  defineAggregate: (name, { inverse, result, start, step, ...options }) => {
    if (database.aggregate === undefined) {
      throw new SqliteError("aggregates need better-sqlite3, or a node:sqlite that has them: Node", "SQLITE_ERROR")
    }
    database.aggregate(name, {
      ...options,
      start: aggregates.record(start),
      step: aggregates.record(step),
      result: aggregates.record(result),
      ...(inverse === undefined ? {} : { inverse: aggregates.record(inverse) }),
      useBigIntArguments: true
    })
  },
  close: () => database.close()
})

/**
 * Whether values are read as they are. Node 22 and Deno 2.9 read a text only up to a NUL character, and after a change of
 * the schema not the columns that were added since the statement was prepared. Node 22 binds some empty bytes as NULL.
 */
const readsExactly = (module: Module): boolean => {
  const database = new module.DatabaseSync(memory, { readOnly: false, allowExtension: false })
  try {
    database.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('a' || char(0))")
    const statement = database.prepare("SELECT typeof(?) AS bytes, * FROM t")
    statement.all(new Uint8Array(0))
    database.exec("ALTER TABLE t ADD COLUMN b DEFAULT 1")
    const [{ a, b, bytes }] = statement.all(new Uint8Array(0)) as ReadonlyArray<Row>
    return a === "a\0" && b === 1 && bytes === "blob"
  } finally {
    database.close()
  }
}

/** Whether the runtime's node:sqlite has what the engine needs, which those of Node 22 and Deno 2.9 do not. */
export const isUsable = (module: Module): boolean =>
  typeof module.StatementSync.prototype.columns === "function" &&
  typeof module.StatementSync.prototype.setReturnArrays === "function" && readsExactly(module)

export const makeBinding = (module: Module): Binding => ({
  name: "node:sqlite",
  library: () => "node:sqlite",
  open: (filename, { immutable, mustExist, readOnly }) => {
    checkFile(filename, mustExist || readOnly)
    // Only a URI can say that a missing file is not created, or that a file is immutable.
    const query = immutable ? "immutable=1" : mustExist && !readOnly ? "mode=rw" : undefined
    const path = query === undefined || filename === memory
      ? filename
      : new URL(`${pathToFileURL(filename).href}?${query}`)
    const database = openWith(module, path, readOnly)
    database.enableLoadExtension?.(false)
    return makeDatabase(module, database)
  },
  codeOf: (error) => {
    if (!isFromSqlite(error)) {
      return undefined
    }
    // Deno reports no code for a file that it cannot open.
    return error.errcode === undefined ? "SQLITE_CANTOPEN" : nameOfCode(error.errcode)
  }
})
