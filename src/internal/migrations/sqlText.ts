/**
 * Migrations that are SQL text: split into statements, so that each is sent alone and an error names its line.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import { fromSqlError } from "../../DatabaseError.js"
import { driverOfClient } from "../database/opened.js"
import type { Lexicon } from "../driver.js"
import { label, type Migration, MigrationError } from "./model.js"

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

/** The end of the comment that begins at `start`, or undefined if it has none. */
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

// The body of these has statements between BEGIN and END.
const hasBody = /^CREATE (?:OR REPLACE )?(?:TEMP |TEMPORARY )?(?:FUNCTION|PROCEDURE|TRIGGER)\b/

// A migration is one transaction. These would end it early, or begin another inside it.
const transactionControl =
  /^(?:BEGIN|START TRANSACTION|COMMIT|END|ABORT|PREPARE TRANSACTION|ROLLBACK(?!(?: TRANSACTION| WORK)? TO\b))\b/

/** Gives the line of an index. Indexes must ascend, so that each line is counted once. */
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
  // The first words of the current statement, in upper case.
  let words = ""
  let count = 0
  let start: number | undefined
  let parentheses = 0
  let blocks = 0
  const finish = (end: number) => {
    if (start !== undefined) {
      const line = lineAt(start)
      if (transactionControl.test(words)) {
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
      const end = commentEnd(text, i, lexicon.nestedComments)
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

/** The Effect that runs the statements of a migration's SQL text. Fails with `invalid` if the text cannot be split. */
export const migration = (
  migration: Migration,
  text: string
): Effect.Effect<Effect.Effect<void, MigrationError, SqlClient.SqlClient>, MigrationError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => {
    const fields = { id: migration.id, migration: label(migration) }
    const { lexicon } = driverOfClient(sql).migrations
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
