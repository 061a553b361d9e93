/**
 * A least-recently-used cache of a connection's prepared statements.
 */
import type { Database, Statement } from "./binding.js"
import { canRunInTransaction, changesConnection, isCommit, isRelease } from "./statementText.js"

/** A prepared statement and its properties. */
export interface PreparedStatement {
  readonly statement: Statement
  /** Whether it returns rows and writes nothing. */
  readonly isQuery: boolean
  /** Whether it writes, and is wrapped in a transaction where none is open. */
  readonly needsTransaction: boolean
  readonly isCommit: boolean
  readonly isRelease: boolean
  /** Whether it leaves state on the connection that only a reset clears. */
  readonly changesConnection: boolean
}

const maxStatements = 200

export class StatementCache {
  private readonly statements = new Map<string, PreparedStatement>()

  /** Prepares a statement. If it is `cached` it comes from the cache, and stays there. */
  prepare(database: Database, sql: string, cached: boolean): PreparedStatement {
    const existing = cached ? this.statements.get(sql) : undefined
    if (existing !== undefined) {
      // A Map iterates in the order of insertion, so its first entry is the least recently used one.
      this.statements.delete(sql)
      this.statements.set(sql, existing)
      return existing
    }
    const statement = database.prepare(sql)
    const prepared: PreparedStatement = {
      statement,
      isQuery: statement.returnsRows && statement.isReadOnly,
      needsTransaction: !statement.isReadOnly && canRunInTransaction(sql),
      isCommit: isCommit(sql),
      isRelease: isRelease(sql),
      changesConnection: changesConnection(sql)
    }
    if (cached) {
      this.statements.set(sql, prepared)
      if (this.statements.size > maxStatements) {
        this.statements.delete(this.statements.keys().next().value!)
      }
    }
    return prepared
  }

  clear(): void {
    this.statements.clear()
  }
}
