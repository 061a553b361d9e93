/**
 * The binding of better-sqlite3, versions 12 and 13.
 */
import type Sqlite from "better-sqlite3"
import { backupPages, type Binding, type Database, type RowFormat, type RunResult, type Statement } from "./binding.js"

export type Module = typeof Sqlite

class BetterStatement implements Statement {
  readonly returnsRows: boolean
  readonly isReadOnly: boolean

  constructor(private readonly statement: Sqlite.Statement) {
    this.returnsRows = statement.reader
    this.isReadOnly = statement.readonly
  }

  /** The statement may be cached, and then it keeps the settings of its last use. */
  private configure({ asArray, safeIntegers }: RowFormat): Sqlite.Statement {
    const { statement } = this
    statement.safeIntegers(safeIntegers)
    if (this.returnsRows) {
      statement.raw(asArray)
    }
    return statement
  }

  columns() {
    return this.statement.columns().map(({ name, type }) => ({ name, type }))
  }

  run(params: ReadonlyArray<unknown>, format: RowFormat): RunResult {
    return this.configure(format).run(...params)
  }

  all(params: ReadonlyArray<unknown>, format: RowFormat): Array<unknown> {
    return this.configure(format).all(...params)
  }

  iterate(params: ReadonlyArray<unknown>, format: RowFormat): IterableIterator<unknown> {
    return this.configure(format).iterate(...params)
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
      progress: () => {
        onProgress()
        return backupPages
      }
    }),
  loadExtension: (path) => void database.loadExtension(path),
  close: () => void database.close()
})

export const makeBinding = (module: Module): Binding => ({
  name: "better-sqlite3",
  // SQLite itself never waits for a lock, which would block the thread. The client retries instead.
  open: (filename, { mustExist, readOnly }) =>
    makeDatabase(new module(filename, { readonly: readOnly, fileMustExist: mustExist, timeout: 0 })),
  codeOf: (error) => error instanceof module.SqliteError ? error.code : undefined
})

/** Whether it is version 13, which defines its errors by a class. It may crash when it is used, so this does not use it. */
export const isVersion13 = (module: Module): boolean =>
  Function.prototype.toString.call(module.SqliteError).startsWith("class")
