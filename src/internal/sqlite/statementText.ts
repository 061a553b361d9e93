/**
 * What a statement's text says of what it leaves behind. SQLite itself says the rest.
 */

const leading = /^(?:\s|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/)*/

const textOf = (sql: string): string => sql.slice(leading.exec(sql)![0].length)

const uncontained = /^(?:begin|vacuum|pragma)\b/i

/**
 * Whether a statement that writes can be wrapped in a transaction: those that begin one, or that are not allowed or
 * mean nothing within one, cannot.
 */
export const isContained = (sql: string): boolean => !uncontained.test(textOf(sql))

const plain = /^(?:select|insert|update|delete|replace|with|values)\b/i

/** Whether a statement reads or writes rows and does nothing else: it neither begins nor ends a transaction. */
export const isPlain = (sql: string): boolean => plain.test(textOf(sql))

const rollback = /^rollback\b/i

/** Whether a statement rolls back, all or to a savepoint. */
export const isRollback = (sql: string): boolean => rollback.test(textOf(sql))

const attaching = /^(?:attach|detach)\b/i
const temporary = /^create\s+temp(?:orary)?\b|^create\b[^(]*\btemp["'`\]]?\s*\./i
const setting = /^pragma\s+(?:\w+\s*\.\s*)?(\w+)\s*([=(])/i

// These take an argument and change nothing that outlives them.
const asking: ReadonlySet<string> = new Set([
  "foreign_key_check",
  "foreign_key_list",
  "incremental_vacuum",
  "index_info",
  "index_list",
  "index_xinfo",
  "integrity_check",
  "optimize",
  "quick_check",
  "table_info",
  "table_list",
  "table_xinfo",
  "wal_checkpoint"
])

/** Whether a statement changes the connection itself: attached databases, temporary tables, and settings. */
export const leavesTraces = (sql: string): boolean => {
  const text = textOf(sql)
  if (attaching.test(text) || temporary.test(text)) {
    return true
  }
  const [, name, sign] = setting.exec(text) ?? []
  return name !== undefined && (sign === "=" || !asking.has(name.toLowerCase()))
}
