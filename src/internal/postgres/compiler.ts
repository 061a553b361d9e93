/**
 * Compiles statements as @effect/sql-pg does, except that every value of `pg.json` is sent as JSON. @effect/sql-pg
 * sends an array as a PostgreSQL array, and a string or null unchanged.
 */
import type { PgCustom } from "@effect/sql-pg/PgClient"
import * as Statement from "@effect/sql/Statement"
import { makeTransformValue } from "../transformNames.js"
import { Json } from "./types/encode.js"

const escape = Statement.defaultEscape("\"")

/** `transformNames` transforms identifiers, and the keys of JSON values if `transformJson` is true. */
export const makeCompiler = (
  transformNames: ((name: string) => string) | undefined,
  transformJson: boolean
): Statement.Compiler => {
  const transformValue = transformJson && transformNames !== undefined
    ? makeTransformValue(transformNames)
    : undefined
  return Statement.makeCompiler<PgCustom>({
    dialect: "pg",
    placeholder: (index) => `$${index}`,
    onIdentifier: transformNames === undefined
      ? escape
      : (name, withoutTransform) => escape(withoutTransform ? name : transformNames(name)),
    onRecordUpdate: (placeholders, alias, columns, values, returning) => [
      `(values ${placeholders}) AS ${alias}${columns}${returning ? ` RETURNING ${returning[0]}` : ""}`,
      returning ? values.flat().concat(returning[1]) : values.flat()
    ],
    onCustom: ({ i0 }, placeholder, withoutTransform) => [
      placeholder(undefined),
      [new Json(withoutTransform || transformValue === undefined ? i0 : transformValue(i0))]
    ]
  })
}
