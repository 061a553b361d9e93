/**
 * The binding of better-sqlite3, versions 12 and 13.
 */
import type Sqlite from "better-sqlite3"
import * as Fs from "node:fs"
import { createRequire as requireFrom } from "node:module"
import {
  backupPages,
  type Binding,
  checkFile,
  type Database,
  type RowFormat,
  type RunResult,
  type Statement
} from "./binding.js"
import * as Integers from "./integers.js"

export type Module = typeof Sqlite

class BetterStatement implements Statement {
  readonly returnsRows: boolean
  readonly isReadOnly: boolean
  /** Whether integers are read as bigints first: rows of a statement that writes cannot be read a second time. */
  private readsBigInts: boolean

  constructor(private readonly statement: Sqlite.Statement) {
    this.returnsRows = statement.reader
    this.isReadOnly = statement.readonly
    this.readsBigInts = !statement.readonly
  }

  /** The statement may be cached, and then it keeps the settings of its last use. */
  private configure(asArray: boolean, safeIntegers: boolean): Sqlite.Statement {
    const { statement } = this
    statement.safeIntegers(safeIntegers)
    if (this.returnsRows) {
      statement.raw(asArray)
    }
    return statement
  }

  readonly columns = () => this.statement.columns().map(({ name, type }) => ({ name, type }))

  run(params: ReadonlyArray<unknown>): RunResult {
    const { changes, lastInsertRowid } = this.configure(false, true).run(...params)
    return { changes, lastInsertRowid: BigInt(lastInsertRowid) }
  }

  private read(
    params: ReadonlyArray<unknown>,
    asArray: boolean,
    safeIntegers: boolean,
    check: (() => void) | undefined
  ): Array<unknown> {
    const statement = this.configure(asArray, safeIntegers)
    return check === undefined ? statement.all(...params) : Integers.readEach(statement.iterate(...params), check)
  }

  all(params: ReadonlyArray<unknown>, { asArray, safeIntegers }: RowFormat, check?: () => void): Array<unknown> {
    if (safeIntegers) {
      return this.read(params, asArray, true, check)
    }
    if (!this.readsBigInts) {
      const rows = this.read(params, asArray, false, check)
      if (!Integers.mayBeRounded(rows)) {
        return rows
      }
      // The rows have such integers, or REALs of that size, and probably will have them the next time.
      this.readsBigInts = true
    }
    return this.read(params, asArray, true, check).map((row) => Integers.toNumbers(row, this.columns))
  }

  iterate(params: ReadonlyArray<unknown>, { asArray, safeIntegers }: RowFormat): IterableIterator<unknown> {
    const rows = this.configure(asArray, true).iterate(...params)
    return safeIntegers ? rows : Integers.iterateNumbers(rows, this.columns)
  }
}

const makeDatabase = (database: Sqlite.Database): Database => ({
  inTransaction: () => database.inTransaction,
  prepare: (sql) => new BetterStatement(database.prepare(sql)),
  exec: (sql) => void database.exec(sql),
  pragma: (sql) => database.pragma(sql) as ReadonlyArray<Record<string, unknown>>,
  serialize: () => database.serialize(),
  backup: (destination, onProgress) =>
    database.backup(destination, {
      progress: (progress) => {
        onProgress(progress)
        return backupPages
      }
    }),
  loadExtension: (path) => void database.loadExtension(path),
  defineFunction: (name, options, f) => void database.function(name, { ...options, safeIntegers: true }, f),
  defineAggregate: (name, { inverse, ...options }) =>
    void database.aggregate(name, {
      ...options,
      ...(inverse === undefined ? {} : { inverse }),
      safeIntegers: true
    }),
  close: () => void database.close()
})

/**
 * The bytes of a file, changed to those of one that is not in WAL mode, which a database in memory cannot be. The mode
 * is in bytes 18 and 19 of the header (https://sqlite.org/fileformat.html).
 */
const readFile = (filename: string): Buffer => {
  const bytes = Fs.readFileSync(filename)
  for (const offset of [18, 19]) {
    if (bytes[offset] === 2) {
      bytes[offset] = 1
    }
  }
  return bytes
}

/** Where version 12 has its native code (`build/Release/better_sqlite3.node`), and version 13 (`prebuilds/linux-x64.node`). */
const nativeCode = /[\\/]better_sqlite3\.node$|[\\/]better-sqlite3[^\\/]*[\\/]prebuilds[\\/][^\\/]+\.node$/

/**
 * The path of the native code, which is loaded with the first database. Undefined if none is loaded, or several are.
 */
const library = (): string | undefined => {
  const loaded = Object.keys(requireFrom("/").cache ?? {}).filter((path) => nativeCode.test(path))
  return loaded.length === 1 ? loaded[0] : undefined
}

export const makeBinding = (module: Module): Binding => ({
  name: "better-sqlite3",
  library,
  // SQLite itself never waits for a lock, which would block the thread. The client retries instead.
  open: (filename, { immutable, mustExist, readOnly }) => {
    checkFile(filename, mustExist || readOnly)
    // Its SQLite reads no URI, which is the only way to open a file as immutable. This reads a copy in memory.
    const source = immutable ? readFile(filename) : filename
    // `fileMustExist` would also refuse new files to ATTACH.
    return makeDatabase(new module(source, { readonly: readOnly, timeout: 0 }))
  },
  codeOf: (error) => error instanceof module.SqliteError ? error.code : undefined
})

/** Whether it is version 13, which defines its errors by a class. Opening a database may crash, so this opens none. */
export const isVersion13 = (module: Module): boolean =>
  Function.prototype.toString.call(module.SqliteError).startsWith("class")
