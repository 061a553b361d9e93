/**
 * Executes a user's statement: in one round trip, or in two for an INSERT of many rows.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type Pg from "pg"
import { toSqlError } from "../../DatabaseError.js"
import type { StatementGuard } from "../driver.js"
import * as Bulk from "./bulk.js"
import type { CommandResult, Exchange, Options } from "./exchange.js"
import * as Exchanges from "./exchanges.js"
import { makeResult } from "./pg.js"
import { cannotBeSent, type Sender } from "./send.js"

export interface Request<A> {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly options: Options
  readonly guard: StatementGuard | undefined
  /** Maps the completed exchange to the result. */
  readonly finish: (exchange: Exchange) => Effect.Effect<A, SqlError>
}

export const run = <A>(sender: Sender, request: Request<A>): Effect.Effect<A, SqlError> => {
  const { finish, options, params, guard, sql } = request
  const insert = Bulk.insertOf(params)
  return insert === undefined
    ? sender.send(() => Exchanges.statement(sql, sender.encode(sql, params), options), finish, toSqlError, guard)
    : runInsert(sender, request, insert)
}

/** The first round trip describes the INSERT with a single row, for the types of the arrays. */
const runInsert = <A>(
  sender: Sender,
  { finish, options, params, guard, sql }: Request<A>,
  insert: Bulk.Insert
): Effect.Effect<A, SqlError> => {
  const described = sender.send(
    () => {
      sender.encode(insert.singleRow, [])
      return Exchanges.describeParameters(insert.singleRow, { user: true })
    },
    ({ parameterTypes }) => Effect.succeed(Bulk.arrayTypesOf(insert, parameterTypes)),
    toSqlError,
    // Describing has no effect, so it does not count as sent.
    guard === undefined ? undefined : { refusal: () => guard.refusal(), isSent: false, mayWrite: false }
  )
  return Effect.flatMap(described, (types) => {
    let compiled: readonly [string, ReadonlyArray<unknown>]
    try {
      compiled = types === undefined ? insert.byValue() : [sql, params]
    } catch (cause) {
      return Effect.fail(toSqlError(cannotBeSent(cause)))
    }
    const [text, values] = compiled
    // An error masks every single value. They are needed only if there is one.
    const typedOptions = {
      ...options,
      get params() {
        return insert.byValue()[1]
      }
    }
    return sender.send(
      () => {
        const encoded = sender.encode(text, values)
        return types === undefined
          ? Exchanges.statement(text, encoded, options)
          : Exchanges.typedStatement(text, encoded, types, typedOptions)
      },
      finish,
      toSqlError,
      guard
    )
  })
}

/** The rows; an array of rows for each statement if the text contained several. */
export const rowsOf = <Row extends object>({ result, results }: Exchange): Effect.Effect<ReadonlyArray<Row>> =>
  Effect.succeed<ReadonlyArray<object>>(results?.map(({ rows }) => rows) ?? result.rows) as Effect.Effect<
    ReadonlyArray<Row>
  >

/** The result in the form of `pg`; an array of them if the text contained several statements. */
export const pgResultOf = ({ result, results }: Exchange): Effect.Effect<Pg.QueryResult | Array<Pg.QueryResult>> =>
  Effect.succeed(results?.map(toPgResult) ?? toPgResult(result))

const toPgResult = ({ commandTag, rowDescription, rows }: CommandResult): Pg.QueryResult => {
  const result = makeResult()
  if (rowDescription !== undefined) {
    // Row descriptions are shared, and the caller may change what it gets.
    result.addFields(rowDescription.fields.map((field) => ({ ...field })))
  }
  if (commandTag !== undefined) {
    result.addCommandComplete({ text: commandTag })
  }
  result.rows = rows
  return result
}
