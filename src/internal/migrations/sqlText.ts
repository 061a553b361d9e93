/**
 * Migrations that are SQL text: split into statements, so that each is sent alone and an error names its line.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { Dialect, fromSqlError } from "../../DatabaseError.js"
import { driverOfClient } from "../database/opened.js"
import type { CopySource, MigrationDialect } from "../driver.js"
import { currentContext, innermost } from "../session/context.js"
import { HeaderError, optionsOf } from "./headers.js"
import { label, type Migration, MigrationError, type Options } from "./model.js"
import { split, SplitError, type Statement } from "./splitter.js"

/** The error of a text of a migration. `file` is the name of its file. */
export const invalidText = (migration: Migration, reason: string, file?: string): MigrationError =>
  new MigrationError({
    kind: "invalid",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)}: ${file === undefined ? "" : `${file}: `}${reason}`
  })

/** The options together with those of the headers of a text. Fails with `invalid` if an option is given twice. */
export const withHeaders = (
  migration: Migration,
  text: string,
  options: Options,
  file?: string
): Effect.Effect<Options, MigrationError> =>
  Effect.suspend(() => {
    try {
      const headers = optionsOf(text, Dialect.literals)
      const twice = Object.keys(headers).find((name) => options[name as keyof Options] !== undefined)
      return twice === undefined
        ? Effect.succeed({ ...options, ...headers })
        : Effect.fail(invalidText(migration, `${twice} is given twice: in a header and elsewhere`, file))
    } catch (error) {
      return error instanceof HeaderError ? Effect.fail(invalidText(migration, error.message, file)) : Effect.die(error)
    }
  })

/** The statements of a text. Fails with `invalid` if it cannot be split. */
export const statementsOf = (
  migration: Migration,
  text: string,
  dialect: MigrationDialect,
  options: Options
): Effect.Effect<ReadonlyArray<Statement>, MigrationError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(split(text, dialect.lexicon, options.transaction === undefined))
    } catch (error) {
      return error instanceof SplitError ? Effect.fail(invalidText(migration, error.message)) : Effect.die(error)
    }
  })

/** The data of a COPY. */
const source = (data: string): CopySource<SqlError> => {
  let isRead = data === ""
  return Effect.suspend(() => {
    if (isRead) {
      return Effect.fail(Option.none())
    }
    isRead = true
    return Effect.succeed([data])
  })
}

/** Copies data on the connection of the session, or the reserved one, that the code runs in. */
const copy = (text: string, data: string): Effect.Effect<unknown, SqlError> =>
  Effect.suspend(() =>
    innermost(currentContext())!.runStatement((connection, guard) =>
      connection.copyFrom({ text, table: "", columns: [], format: copyFormat }, source(data), guard)
    )
  )

/** The format of the data is in the text of the statement. */
const copyFormat = { format: "text", header: false, delimiter: "\t", null: undefined } as const

/** The Effect that runs the statements of a migration's SQL text. Fails with `invalid` if the text cannot be split. */
export const migration = (
  migration: Migration,
  text: string,
  options: Options
): Effect.Effect<Effect.Effect<void, MigrationError, SqlClient.SqlClient>, MigrationError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.map(
      statementsOf(migration, text, driverOfClient(sql).migrations, options),
      Effect.forEach(({ copy: data, line, text }) =>
        Effect.mapError(
          data === undefined ? sql.unsafe(text).unprepared : copy(text, data.data),
          (error) => {
            const cause = fromSqlError(error)
            const at = data === undefined || cause.line === undefined ? line : data.line + cause.line - 1
            return new MigrationError({
              kind: "failed",
              id: migration.id,
              migration: label(migration),
              message: `migration ${label(migration)} failed on line ${at}: ${cause._tag}: ${cause.message}`,
              cause
            })
          }
        ), { discard: true })
    ))
