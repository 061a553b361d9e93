/**
 * Statements that change a setting of their connection: a PRAGMA, or the databases that are attached. This does not use
 * Effect, so that a worker thread need not load it.
 */
import { type Database, SqliteError } from "./binding.js"
import { booleans, owned } from "./pragmas.js"
import { withoutComments } from "./statementText.js"

/** PRAGMAs that SQLite ignores in a transaction, without an error. */
const ignoredInTransaction: ReadonlySet<string> = new Set([
  "auto_vacuum",
  "encoding",
  "foreign_keys",
  "journal_mode",
  "page_size"
])

/** PRAGMAs that take an argument and change no state of the connection: they read, do work, or write to the file. */
const settingNothing: ReadonlySet<string> = new Set([
  "application_id",
  "foreign_key_check",
  "foreign_key_list",
  "incremental_vacuum",
  "index_info",
  "index_list",
  "index_xinfo",
  "integrity_check",
  "optimize",
  "quick_check",
  "schema_version",
  "table_info",
  "table_list",
  "table_xinfo",
  "user_version",
  "wal_checkpoint"
])

/** The PRAGMA that ends with its transaction. */
const deferForeignKeys = "defer_foreign_keys"

/** Why a PRAGMA is not set outside of transactions. */
const refusals: { readonly [name: string]: string } = {
  ...owned,
  [deferForeignKeys]: "it holds until a transaction ends: run it inside a session"
}

/** What a statement changes on its connection: a PRAGMA, or the databases that are attached. */
export type Setting =
  | {
    readonly _tag: "Pragma"
    /** Identifies the setting: a later statement with the same key replaces it. */
    readonly key: string
    readonly name: string
    readonly schema: string
    readonly value: string
  }
  | {
    readonly _tag: "Attach"
    readonly key: string
    /** The name of the attached database, if the text has it. */
    readonly alias: string | undefined
    readonly attaches: boolean
  }

const identifier = /(\w+|"\w+"|'\w+'|\[\w+\]|`\w+`)/.source
/** SQLite sets some PRAGMAs when it prepares them, also within EXPLAIN. */
const explained = /(?:explain\s+(?:query\s+plan\s+)?)?/.source
const pragma = new RegExp(
  `^${explained}pragma\\s*(?:${identifier}\\s*\\.\\s*)?${identifier}\\s*[=(]\\s*('[^']*'|"[^"]*"|[+-]?[\\w.]+)?`,
  "i"
)
const attach = /^(attach|detach)\b(?:\s+database\b)?/i
const alias =
  /(?:^detach\s+(?:database\s+)?|\sas\s+)("(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\]|\w+)[\s;]*$/i

const unquote = (name: string): string => {
  const quote = name[0]
  return quote === "["
    ? name.slice(1, -1)
    : quote === "\"" || quote === "'" || quote === "`"
    ? name.slice(1, -1).replaceAll(quote + quote, quote)
    : name
}

/** What a statement changes, without leading white space and comments. Undefined if it changes no setting. */
export const settingOf = (text: string): Setting | undefined => {
  const command = attach.exec(text)?.[1]
  if (command !== undefined) {
    const name = alias.exec(text)?.[1]
    return {
      _tag: "Attach",
      key: `attach ${name === undefined ? text : unquote(name).toLowerCase()}`,
      alias: name === undefined ? undefined : unquote(name),
      attaches: command.toLowerCase() === "attach"
    }
  }
  const [, schema = "", name, value = ""] = pragma.exec(withoutComments(text)) ?? []
  const lower = name === undefined ? undefined : unquote(name).toLowerCase()
  return lower === undefined || settingNothing.has(lower) ? undefined : {
    _tag: "Pragma",
    key: `pragma ${unquote(schema).toLowerCase()}.${lower}`,
    name: lower,
    schema,
    value: unquote(value)
  }
}

/** Whether a setting that a transaction has changed remains when the transaction has ended. */
export const outlivesTransaction = (setting: Setting): boolean =>
  setting._tag === "Attach" || setting.name !== deferForeignKeys

const isSame = (current: unknown, value: string): boolean => {
  const word = value.toLowerCase()
  return String(current).toLowerCase() === (booleans[word] ?? word)
}

/**
 * The setting that a statement is about to change. If it must not be changed, because sqlayer sets it itself or SQLite
 * would ignore the statement, this throws, or gives undefined if the setting has that value already.
 */
export const checkSetting = (database: Database, setting: Setting): Setting | undefined => {
  if (setting._tag === "Attach") {
    return setting
  }
  const isInTransaction = database.inTransaction()
  const { name, schema, value } = setting
  const isIgnored = isInTransaction && ignoredInTransaction.has(name)
  if (!isIgnored && (isInTransaction || !Object.hasOwn(refusals, name))) {
    return setting
  }
  const [row = {}] = database.pragma(schema === "" ? name : `${schema}.${name}`)
  if (isSame(Object.values(row)[0], value)) {
    return undefined
  }
  const reason = isIgnored
    ? `PRAGMA ${name} is ignored inside a transaction`
    : `PRAGMA ${name} is not set by a statement`
  const advice = refusals[name] ?? "run it outside of sessions, or give it to a new file by the option pragmas"
  throw new SqliteError(`${reason}: ${advice}`, "SQLITE_ERROR")
}
