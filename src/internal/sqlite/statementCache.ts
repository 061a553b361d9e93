/**
 * The statements of one connection, prepared once.
 */
import type Sqlite from "better-sqlite3"
import { isContained, leavesTraces } from "./statementText.js"

/** A statement, and what its engine must know of it. */
export interface Prepared {
  readonly statement: Sqlite.Statement
  /** It returns rows and changes nothing. */
  readonly reads: boolean
  /** It writes, and outside of a transaction it gets one of its own. */
  readonly contained: boolean
  readonly leavesTraces: boolean
}

/** How many are kept: those used last. */
const most = 200

export class Statements {
  readonly #known = new Map<string, Prepared>()

  prepare(database: Sqlite.Database, sql: string, cached: boolean): Prepared {
    const known = cached ? this.#known.get(sql) : undefined
    if (known !== undefined) {
      // A Map keeps the order of insertion, so the first is the one used least recently.
      this.#known.delete(sql)
      this.#known.set(sql, known)
      return known
    }
    const statement = database.prepare(sql)
    const prepared: Prepared = {
      statement,
      reads: statement.reader && statement.readonly,
      contained: !statement.readonly && isContained(sql),
      leavesTraces: leavesTraces(sql)
    }
    if (cached) {
      this.#known.set(sql, prepared)
      if (this.#known.size > most) {
        this.#known.delete(this.#known.keys().next().value!)
      }
    }
    return prepared
  }

  clear(): void {
    this.#known.clear()
  }
}
