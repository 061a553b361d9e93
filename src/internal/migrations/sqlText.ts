/**
 * Migrations that are SQL text: cut into statements, so that each is sent alone and an error can name its line.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import { fromSqlError } from "../../DatabaseError.js"
import { label, type Migration, MigrationError } from "./model.js"

/** How a dialect's texts are read. Strings in single quotes and names in double quotes are the same everywhere. */
interface Lexicon {
  /** Texts in which a semicolon means nothing. */
  readonly quoted: ReadonlyArray<RegExp>
  /** What opens one of them. */
  readonly opening: RegExp
  /** Whether comments between slashes may be nested. */
  readonly nests: boolean
}

// One step for each part that holds no quote: what repeats once a character overflows the stack for a long text.
const doubled = [/'[^']*'(?:'[^']*')*/y, /"[^"]*"(?:"[^"]*")*/y]

const postgres: Lexicon = {
  // The first is the text with backslashes, and the last one the text between dollars.
  quoted: [
    /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'/y,
    ...doubled,
    /\$((?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$[^]*?\$\1\$/y
  ],
  opening: /['"]|\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y,
  nests: true
}

const sqlite: Lexicon = {
  quoted: [...doubled, /`[^`]*`(?:`[^`]*`)*/y, /\[[^\]]*\]/y],
  opening: /['"`[]/y,
  nests: false
}

const blank = /(?:\s|--[^\n]*)+/y
const word = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y

/** One statement, and the line on which it begins. */
interface Statement {
  readonly text: string
  readonly line: number
}

const matchAt = (pattern: RegExp, text: string, index: number): string | undefined => {
  pattern.lastIndex = index
  return pattern.exec(text)?.[0]
}

/** Where the comment that begins here ends; the end of the text where it has none. */
const commentEnd = (text: string, start: number, nests: boolean): number | undefined => {
  const mark = /\/\*|\*\//g
  mark.lastIndex = start + 2
  for (let depth = 1, found = mark.exec(text); found !== null; found = mark.exec(text)) {
    depth += found[0] === "*/" ? -1 : nests ? 1 : 0
    if (depth === 0) {
      return mark.lastIndex
    }
  }
  return undefined
}

// Their bodies hold statements between BEGIN and END.
const hasBody = /^CREATE (?:OR REPLACE )?(?:TEMP |TEMPORARY )?(?:FUNCTION|PROCEDURE|TRIGGER)\b/

// A migration is one transaction: these would end it early, or begin one where there is one.
const controls =
  /^(?:BEGIN|START TRANSACTION|COMMIT|END|ABORT|PREPARE TRANSACTION|ROLLBACK(?!(?: TRANSACTION| WORK)? TO\b))\b/

/** Counts lines up to places that are asked for in their order, each line once. */
const lineCounter = (text: string) => {
  let line = 1
  let end = text.indexOf("\n")
  return (index: number): number => {
    while (end !== -1 && end < index) {
      line++
      end = text.indexOf("\n", end + 1)
    }
    return line
  }
}

const split = (text: string, lexicon: Lexicon, refuse: (reason: string) => MigrationError): Array<Statement> => {
  const statements: Array<Statement> = []
  const lineAt = lineCounter(text)
  // The first words of the statement under way.
  let words = ""
  let count = 0
  let start: number | undefined
  let parentheses = 0
  let blocks = 0
  const finish = (end: number) => {
    if (start !== undefined) {
      const line = lineAt(start)
      if (controls.test(words)) {
        throw refuse(
          `line ${line}: ${words.split(" ")[0]} is not accepted, since each migration is a transaction of its own`
        )
      }
      statements.push({ text: text.slice(start, end), line })
    }
    words = ""
    count = 0
    start = undefined
    parentheses = 0
    blocks = 0
  }
  for (let i = 0; i < text.length;) {
    const skipped = matchAt(blank, text, i)
    if (skipped !== undefined) {
      i += skipped.length
      continue
    }
    if (text.startsWith("/*", i)) {
      const end = commentEnd(text, i, lexicon.nests)
      if (end === undefined) {
        throw refuse(`the comment that begins on line ${lineAt(i)} has no end`)
      }
      i = end
      continue
    }
    const character = text[i]
    if (character === ";" && parentheses === 0 && blocks === 0) {
      finish(i)
      i++
      continue
    }
    start ??= i
    const quoted = lexicon.quoted.map((pattern) => matchAt(pattern, text, i)).find((found) => found !== undefined)
    if (quoted !== undefined) {
      i += quoted.length
      continue
    }
    if (matchAt(lexicon.opening, text, i) !== undefined) {
      throw refuse(`the quoted text that begins on line ${lineAt(i)} has no end`)
    }
    const found = matchAt(word, text, i)
    if (found === undefined) {
      parentheses += character === "(" ? 1 : character === ")" ? -1 : 0
      i++
      continue
    }
    i += found.length
    const upper = found.toUpperCase()
    if (count++ < 5) {
      words = words === "" ? upper : `${words} ${upper}`
    }
    if (hasBody.test(words)) {
      blocks += upper === "BEGIN" || (upper === "CASE" && blocks > 0) ? 1 : upper === "END" && blocks > 0 ? -1 : 0
    }
  }
  if (start !== undefined && blocks > 0) {
    throw refuse(`the statement that begins on line ${lineAt(start)} has a BEGIN without an END`)
  }
  finish(text.length)
  return statements
}

/** The Effect that a migration's SQL text stands for. Fails at once where the text cannot be one. */
export const migration = (
  migration: Migration,
  text: string
): Effect.Effect<Effect.Effect<void, MigrationError, SqlClient.SqlClient>, MigrationError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => {
    const fields = { id: migration.id, migration: label(migration) }
    const lexicon = sql.onDialectOrElse({ pg: () => postgres, orElse: () => sqlite })
    const refuse = (reason: string) =>
      new MigrationError({ ...fields, kind: "invalid", message: `migration ${label(migration)}: ${reason}` })
    return Effect.map(
      Effect.try({
        try: () => split(text, lexicon, refuse),
        catch: (error) => error as MigrationError
      }),
      Effect.forEach(({ line, text }) =>
        Effect.mapError(sql.unsafe(text).unprepared, (error) => {
          const cause = fromSqlError(error)
          return new MigrationError({
            ...fields,
            kind: "failed",
            message: `migration ${label(migration)} failed on line ${line}: ${cause._tag}: ${cause.message}`,
            cause
          })
        }), { discard: true })
    )
  })
