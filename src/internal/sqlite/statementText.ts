/**
 * Recognizes statements by their first words, where SQLite's API does not report what they do.
 */

/** A quoted identifier. */
export const quote = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

const comments = /--[^\n]*|\/\*[^]*?\*\//g

/** The text with a space for each comment, also for text in quotes that looks like a comment. */
export const withoutComments = (sql: string): string => sql.replaceAll(comments, " ")

const leading = /^(?:\s|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/)*/

/** The text without leading white space and comments. */
export const textOf = (sql: string): string => sql.slice(leading.exec(sql)![0].length)

const notInTransaction = /^(?:begin|vacuum|pragma)\b/i

/**
 * Whether a statement that writes can be wrapped in a transaction. BEGIN and VACUUM fail inside of one, and some PRAGMAs
 * have no effect there.
 */
export const canRunInTransaction = (sql: string): boolean => !notInTransaction.test(textOf(sql))

const dataStatement = /^(?:select|insert|update|delete|replace|with|values)\b/i

/** Whether a statement only reads or writes rows, and so neither begins nor ends a transaction. */
export const isDataStatement = (sql: string): boolean => dataStatement.test(textOf(sql))

const rollback = /^rollback\b/i

/** Whether a statement is ROLLBACK or ROLLBACK TO a savepoint. */
export const isRollback = (sql: string): boolean => rollback.test(textOf(sql))

const commit = /^(?:commit|end)\b/i

/** Whether a statement commits the transaction. */
export const isCommit = (sql: string): boolean => commit.test(textOf(sql))

const release = /^release\b/i

/** Whether a statement releases a savepoint. It commits if the savepoint has begun the transaction. */
export const isRelease = (sql: string): boolean => release.test(textOf(sql))

const temporary = /^create\s+temp(?:orary)?\b|^create\b[^(]*\btemp["'`\]]?\s*\./i

/** Whether a statement creates something temporary, which the connection keeps. */
export const createsTemporary = (sql: string): boolean => temporary.test(withoutComments(textOf(sql)))

const select = /^(?:select|values)\b/i
const write = /^(?:insert|update|delete|replace)\b/i

/** Whether a statement writes. Undefined if its first word does not decide that. */
export const writesByText = (sql: string): boolean | undefined => {
  const text = textOf(sql)
  return select.test(text) ? false : write.test(text) ? true : undefined
}

const insert = /^(?:insert|replace)\b|^with\b[^]*\b(?:insert\s+(?:or\s+\w+\s+)?into|replace\s+into)\b/i

/** Whether a statement inserts rows. */
export const isInsert = (sql: string): boolean => insert.test(textOf(sql))

const explain = /^explain\b(?:\s+query\s+plan\b)?/i

/** The text of an EXPLAIN of the statement, or of the statement that it explains if it is an EXPLAIN itself. */
export const explainText = (sql: string): string => `EXPLAIN ${textOf(textOf(sql).replace(explain, ""))}`

const blank = /^(?:[\s;]|--[^\n]*(?:\n|$)|\/\*[^]*?(?:\*\/|$))*/

/** Whether a text holds no statement: only white space, comments and semicolons. */
export const isBlank = (sql: string): boolean => blank.exec(sql)![0].length === sql.length

// A quoted text, a comment, a name, which may hold a `$`, or a parameter.
const token =
  /'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|\/\*[^]*?(?:\*\/|$)|[\p{L}_][\p{L}\d_$]*|([?:@$#])([\p{L}\d_]*)/gu

/** The parameters in a statement: how many have no name and no number, and whether there are others. */
export const parametersOf = (sql: string): { readonly count: number; readonly areNamed: boolean } => {
  let count = 0
  let areNamed = false
  if (/[?:@$]/.test(sql)) {
    for (const [, sign, name] of sql.matchAll(token)) {
      count += sign === "?" && name === "" ? 1 : 0
      areNamed ||= sign !== undefined && name !== ""
    }
  }
  return { count, areNamed }
}

/** A string, a quoted name, a comment, or a placeholder. */
const quotedOrPlaceholder =
  /'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|\/\*[^]*?(?:\*\/|$)|\?(\d*)/g

/** SQLite refuses a placeholder with a greater number. */
const maxParameters = 32_766

/** The number of parameters of a statement with placeholders such as `?` and `?1`. */
export const parameterCount = (sql: string): number => {
  let count = 0
  for (const [text, number] of sql.matchAll(quotedOrPlaceholder)) {
    if (text.startsWith("?")) {
      count = number === "" ? count + 1 : Math.max(count, Number(number))
    }
  }
  return Math.min(count, maxParameters)
}
