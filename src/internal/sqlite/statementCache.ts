/**
 * A least-recently-used cache of a connection's prepared statements.
 */
import type { Database, Statement } from "./binding.js"
import { checkSetting, type Setting, settingOf } from "./settings.js"
import { canRunInTransaction, createsTemporary, isCommit, isRelease, textOf } from "./statementText.js"

/** A prepared statement and its properties. */
export interface PreparedStatement {
  readonly statement: Statement
  /** Whether it returns rows and writes nothing. */
  readonly isQuery: boolean
  /** Whether it writes, and is wrapped in a transaction where none is open. */
  readonly needsTransaction: boolean
  readonly isCommit: boolean
  readonly isRelease: boolean
  /** Whether it creates something temporary, which only a reset removes. */
  readonly createsTemporary: boolean
  /** The setting of the connection that it changes, if it is not sqlayer's own. */
  readonly setting: Setting | undefined
}

const maxStatements = 200

export class StatementCache {
  private readonly statements = new Map<string, PreparedStatement>()

  /**
   * Prepares a statement. If it is `cached` it comes from the cache, and stays there. A statement that changes a
   * setting is not kept: SQLite changes some settings when it prepares the statement. So a change that is not allowed
   * is refused before that, unless the statement is sqlayer's `own`.
   */
  prepare(database: Database, sql: string, cached: boolean, own = false): PreparedStatement {
    const existing = cached ? this.statements.get(sql) : undefined
    if (existing !== undefined) {
      // A Map iterates in the order of insertion, so its first entry is the least recently used one.
      this.statements.delete(sql)
      this.statements.set(sql, existing)
      return existing
    }
    const changed = own ? undefined : settingOf(textOf(sql))
    const setting = changed === undefined ? undefined : checkSetting(database, changed)
    const statement = database.prepare(sql)
    const prepared: PreparedStatement = {
      statement,
      isQuery: statement.returnsRows && statement.isReadOnly,
      needsTransaction: !statement.isReadOnly && canRunInTransaction(sql),
      isCommit: isCommit(sql),
      isRelease: isRelease(sql),
      createsTemporary: createsTemporary(sql),
      setting
    }
    if (cached && changed === undefined) {
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
