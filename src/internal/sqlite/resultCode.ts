/**
 * Classifies the errors that the SQLite libraries throw.
 *
 * The codes: https://sqlite.org/rescode.html
 */
import * as Predicate from "effect/Predicate"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import { connectionErrorTag, type Context, make, withLocation } from "../makeError.js"
import { isPartOfParams, MASK, maskCause, maskText, mentions, type Sources, textOf } from "../mask.js"
import { fileMoved, nameOfPrimary } from "./codeNames.js"

type Tag = DatabaseError["_tag"]

/** The tags of the primary result codes. Those of the others are `UnknownDatabaseError`. */
const primary: { readonly [name: string]: Tag } = {
  SQLITE_ERROR: "InvalidStatement",
  SQLITE_PERM: "InsufficientPrivilege",
  SQLITE_BUSY: "LockTimeout",
  SQLITE_LOCKED: "LockTimeout",
  SQLITE_NOMEM: "ResourceExhausted",
  SQLITE_READONLY: "ReadOnlyViolation",
  SQLITE_INTERRUPT: "StatementCanceled",
  SQLITE_IOERR: "ConnectionLost",
  SQLITE_CORRUPT: "DatabaseCorrupt",
  SQLITE_FULL: "ResourceExhausted",
  SQLITE_CANTOPEN: "ConnectionFailed",
  SQLITE_TOOBIG: "InvalidData",
  SQLITE_MISMATCH: "InvalidData",
  SQLITE_AUTH: "AuthenticationFailed",
  SQLITE_RANGE: "InvalidData",
  SQLITE_NOTADB: "DatabaseCorrupt"
}

/** The extended result codes that do not share the tag of their primary code. */
const extended: { readonly [name: string]: Tag } = {
  SQLITE_BUSY_SNAPSHOT: "SerializationFailure",
  SQLITE_CONSTRAINT_CHECK: "CheckViolation",
  SQLITE_CONSTRAINT_DATATYPE: "CheckViolation",
  SQLITE_CONSTRAINT_FOREIGNKEY: "ForeignKeyViolation",
  SQLITE_CONSTRAINT_NOTNULL: "NotNullViolation",
  SQLITE_CONSTRAINT_PRIMARYKEY: "UniqueViolation",
  SQLITE_CONSTRAINT_ROWID: "UniqueViolation",
  SQLITE_CONSTRAINT_TRIGGER: "CheckViolation",
  SQLITE_CONSTRAINT_UNIQUE: "UniqueViolation",
  [fileMoved]: "ConnectionLost"
}

const unknownName = /^UNKNOWN_SQLITE_ERROR_(\d+)$/

/** The code as SQLite names it. better-sqlite3 has no name for the newer extended codes and gives their numbers. */
const nameOf = (code: string): string => {
  const number = unknownName.exec(code)?.[1]
  return number === undefined ? code : nameOfPrimary(Number(number)) ?? code
}

const tagOf = (code: string): Tag =>
  extended[code] ?? primary[code] ?? primary[code.split("_", 2).join("_")] ?? "UnknownDatabaseError"

/** The errors of better-sqlite3 itself have no codes. By message: the tag, and the code to report. */
const byText: ReadonlyArray<readonly [RegExp, Tag | "connection", string]> = [
  [/^SQLite3 can only bind /, "InvalidData", "SQLITE_MISMATCH"],
  [/^The bound string, buffer, or bigint is too big$/, "InvalidData", "SQLITE_TOOBIG"],
  [/^Too (?:few|many) parameter values were provided$/, "InvalidData", "SQLITE_RANGE"],
  [/^Missing named parameter/, "InvalidData", "SQLITE_RANGE"],
  [/^Named parameters can only be passed within plain objects$/, "InvalidData", "SQLITE_MISMATCH"],
  [/^You cannot specify named parameters in two different objects$/, "InvalidData", "SQLITE_RANGE"],
  [/^User-defined function .* returned /, "InvalidData", "SQLITE_MISMATCH"],
  [/^The supplied SQL string contains /, "InvalidStatement", "SQLITE_ERROR"],
  [/^This statement does not return data/, "InvalidStatement", "SQLITE_MISUSE"],
  [/ is only for statements that return data$/, "InvalidStatement", "SQLITE_MISUSE"],
  [/^Array overflow|^Out of memory$/, "ResourceExhausted", "SQLITE_NOMEM"],
  [/^The database connection is not open$/, "connection", "SQLITE_MISUSE"],
  [/^Cannot (?:open database|save backup) because the directory does not exist$/, "ConnectionFailed", "SQLITE_CANTOPEN"]
]

interface Names {
  readonly schema?: string | undefined
  readonly table?: string | undefined
  readonly column?: string | undefined
  readonly constraint?: string | undefined
}

const afterLastDot = (name: string): readonly [before: string | undefined, after: string] => {
  const dot = name.lastIndexOf(".")
  return dot === -1 ? [undefined, name] : [name.slice(0, dot), name.slice(dot + 1)]
}

const columnOf = (name: string): Names => {
  const [table, column] = afterLastDot(name)
  return { table, column }
}

const tableOf = (name: string): Names => {
  const [schema, table] = afterLastDot(name)
  return { schema, table }
}

const unquoted = (name: string): string => name.replace(/^"(.*)"(?: - should this be a string literal.*)?$/s, "$1")

/** SQLite reports names only within messages. */
const byMessage: ReadonlyArray<readonly [RegExp, (...groups: Array<string>) => Names]> = [
  [/^UNIQUE constraint failed: index '(.+)'$/s, (constraint) => ({ constraint })],
  // Several columns are `t.a, t.b`, and then no single column is reported. A name may contain a comma itself.
  [/^UNIQUE constraint failed: (.+)$/s, (names) => {
    const { column, table } = columnOf(names.split(", ")[0])
    return { table, column: names.includes(`, ${table}.`) ? undefined : column }
  }],
  [/^NOT NULL constraint failed: (.+)$/s, columnOf],
  [/^CHECK constraint failed: (.+)$/s, (constraint) => ({ constraint })],
  [/^cannot store \w+ value in \w+ column (.+)$/s, columnOf],
  [/^no such (?:table|view): (.+)$/s, (name) => tableOf(unquoted(name))],
  [/^no such column: (.+)$/s, (name) => columnOf(unquoted(name))],
  [/^table (\S+) has no column named (.+)$/s, (table, column) => ({ table, column })],
  [/^(?:table|view) (.+) already exists$/s, (name) => tableOf(unquoted(name))],
  [/^a value of the column "(.+)" is an integer /s, (column) => ({ column })]
]

const namesIn = (message: string): Names => {
  for (const [pattern, names] of byMessage) {
    const groups = pattern.exec(message)
    if (groups !== null) {
      return names(...groups.slice(1))
    }
  }
  return {}
}

/** The message of an error that a function of the application has thrown. It may contain anything. */
const ofFunction = /^the function \S+ has (?:thrown|returned)/

/** Whether it is the error of `integers.ts`, which names a column of the statement. */
const isTooLarge = (message: string, code: string): boolean =>
  code === "SQLITE_RANGE" && message.endsWith(": read it with SafeIntegers")

/** Messages that contain names of the schema, and no values. */
const namesOnly = /^(?:UNIQUE|NOT NULL|CHECK|FOREIGN KEY) constraint failed|^cannot store \w+ value in /

/** A message that ends in a name or a piece of text after a colon. */
const withDetail = /^([a-z0-9 ]+: )(.+)$/is

/** Masks the values in a message. The message of a trigger's RAISE may contain anything. */
const maskMessage = (message: string, code: string, sources: Sources): string => {
  if (isTooLarge(message, code)) {
    return message
  }
  if (code.startsWith("SQLITE_CONSTRAINT") && code !== "SQLITE_CONSTRAINT_TRIGGER" && namesOnly.test(message)) {
    return message
  }
  if (ofFunction.test(message)) {
    return maskText(message, { params: sources.params })
  }
  const [, head, tail] = withDetail.exec(message) ?? []
  if (tail === undefined || code === "SQLITE_CONSTRAINT_TRIGGER") {
    return maskText(message, sources)
  }
  if (mentions(sources.statement, tail)) {
    return message
  }
  // The text after the colon is not quoted, and may be a parameter or a part of one, such as a column that a full-text
  // query names.
  const isOfParam = (tail.match(/[\p{L}\p{N}]+/gu) ?? []).some((word) =>
    !mentions(sources.statement, word) && isPartOfParams(word, sources.params)
  )
  return isOfParam ? `${head}${MASK}` : maskText(message, sources)
}

const sourcesOf = (context: Context): Sources => ({
  statement: context.statement,
  params: context.params,
  quotesStatement: true
})

const fromResult = (message: string, code: string, context: Context): DatabaseError => {
  const reason = maskMessage(message, code, sourcesOf(context))
  let tag = tagOf(code)
  if (tag === "ConnectionLost") {
    tag = connectionErrorTag(code === fileMoved && context.phase === "commit" ? "statement" : context.phase)
  } else if (context.phase === "connect" && tag === "ReadOnlyViolation") {
    // Opening must write to the file, or to its directory.
    tag = "ConnectionFailed"
  } else if (context.phase === "commit" && message.endsWith("no transaction is active")) {
    // An earlier error made SQLite roll back.
    tag = "TransactionAborted"
  }
  const names = reason.includes(MASK) ? {} : namesIn(reason)
  return make(tag, {
    dialect: "sqlite",
    code,
    reason: `${withLocation(tag, reason, context, "open")}${
      context.line === undefined ? "" : ` at line ${context.line}`
    }`,
    line: context.line,
    schema: names.schema,
    table: names.table,
    column: names.column,
    constraint: names.constraint,
    statement: context.statement
  })
}

const fromText = (error: unknown, context: Context): DatabaseError => {
  const text = textOf(error)
  const reason = maskText(text, sourcesOf(context))
  const known = byText.find(([pattern]) => pattern.test(text))
  if (known !== undefined) {
    const tag = known[1] === "connection" ? connectionErrorTag(context.phase) : known[1]
    return make(tag, {
      dialect: "sqlite",
      code: known[2],
      reason: withLocation(tag, reason, context, "open"),
      statement: context.statement
    })
  }
  const tag = context.phase === "connect" ? "ConnectionFailed" : "UnknownDatabaseError"
  return make(tag, {
    dialect: "sqlite",
    code: context.phase === "connect" ? "SQLITE_CANTOPEN" : "SQLITE_ERROR",
    reason: withLocation(tag, reason, context, "open"),
    statement: context.statement,
    cause: maskCause(error, sourcesOf(context))
  })
}

/**
 * Classifies an error of a SQLite library: an error with SQLite's code (or its `message` and `code`, from a worker
 * thread), or one of the library's own about how it is used. The result contains no parameters and no values of rows.
 */
export const fromSqlite = (error: unknown, context: Context): DatabaseError => {
  if (isDatabaseError(error)) {
    return error
  }
  return Predicate.hasProperty(error, "code") && Predicate.isString(error.code) && /^\w*SQLITE_/.test(error.code)
    ? fromResult(textOf(error), nameOf(error.code), context)
    : fromText(error, context)
}
