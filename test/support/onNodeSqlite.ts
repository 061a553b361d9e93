/**
 * What the tests use of better-sqlite3, on node:sqlite. It replaces better-sqlite3 in the tests where sqlayer runs on
 * node:sqlite: two SQLite libraries in one process do not see each other's locks, which belong to the process.
 */
import type { Binding } from "../../src/internal/sqlite/binding.js"

interface Statement {
  readonly all: (...params: ReadonlyArray<unknown>) => Array<Record<string, unknown>>
  readonly get: (...params: ReadonlyArray<unknown>) => Record<string, unknown> | undefined
  readonly run: (...params: ReadonlyArray<unknown>) => { readonly changes: number | bigint }
  readonly iterate: (...params: ReadonlyArray<unknown>) => IterableIterator<unknown>
  readonly setReadBigInts: (enabled: boolean) => void
}

interface Connection {
  readonly isOpen: boolean
  readonly isTransaction: boolean
  readonly exec: (sql: string) => void
  readonly prepare: (sql: string) => Statement
  readonly close: () => void
}

const { DatabaseSync } = process.getBuiltinModule("node:sqlite" satisfies Binding["name"]) as unknown as {
  readonly DatabaseSync: new(
    filename: string,
    options: { readonly readOnly: boolean; readonly timeout: number }
  ) => Connection
}

interface Options {
  readonly readonly?: boolean
  readonly timeout?: number
}

const plain = (row: Record<string, unknown> | undefined) => row === undefined ? undefined : { ...row }

export default class Sqlite {
  private readonly connection: Connection

  constructor(filename: string, { readonly: readOnly = false, timeout = 5_000 }: Options = {}) {
    this.connection = new DatabaseSync(filename, { readOnly, timeout })
  }

  get inTransaction(): boolean {
    return this.connection.isTransaction
  }

  exec(sql: string): this {
    this.connection.exec(sql)
    return this
  }

  pragma(sql: string, { simple = false }: { readonly simple?: boolean } = {}): unknown {
    const rows = this.connection.prepare(`PRAGMA ${sql}`).all().map(plain)
    return simple ? Object.values(rows[0] ?? {})[0] : rows
  }

  prepare(sql: string) {
    const statement = this.connection.prepare(sql)
    const first = (...params: ReadonlyArray<unknown>) => plain(statement.get(...params))
    const all = (...params: ReadonlyArray<unknown>) => statement.all(...params).map(plain)
    return {
      all,
      get: first,
      run: (...params: ReadonlyArray<unknown>) => {
        // The rowid of the last insert may be larger than a number holds.
        statement.setReadBigInts(true)
        try {
          return { changes: Number(statement.run(...params).changes) }
        } finally {
          statement.setReadBigInts(false)
        }
      },
      iterate: (...params: ReadonlyArray<unknown>) => statement.iterate(...params),
      pluck: () => ({
        all: (...params: ReadonlyArray<unknown>) => all(...params).map((row) => Object.values(row ?? {})[0]),
        get: (...params: ReadonlyArray<unknown>) => Object.values(first(...params) ?? {})[0]
      })
    }
  }

  close(): this {
    if (this.connection.isOpen) {
      this.connection.close()
    }
    return this
  }
}
