/**
 * Executes a user's statement: in one round trip, or in two for an INSERT of many rows.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type Pg from "pg"
import { toSqlError } from "../../DatabaseError.js"
import type { StatementGuard } from "../driver.js"
import { withoutEffect } from "../statementGuard.js"
import * as Bulk from "./bulk.js"
import type { CommandResult, Options } from "./exchange.js"
import * as Exchanges from "./exchanges.js"
import { makeResult } from "./pg.js"
import type { Encoded } from "./protocol/writer.js"
import { cannotBeSent, type Sender } from "./send.js"
import { type Completed, lookUpTypes, withKnownTypes } from "./types/lookUp.js"

export interface Request<A> {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly options: Options
  readonly guard: StatementGuard | undefined
  /** Maps the completed exchange to the result. */
  readonly finish: (completed: Completed) => Effect.Effect<A, SqlError>
}

export const run = <A>(sender: Sender, request: Request<A>): Effect.Effect<A, SqlError> => {
  const insert = Bulk.insertOf(request.params)
  return insert === undefined ? runByValue(sender, request) : runInsert(sender, request, insert)
}

const runByValue = <A>(
  sender: Sender,
  { finish, options, params, guard, sql }: Request<A>
): Effect.Effect<A, SqlError> =>
  withParameterTypes(sender, sql, params, guard, (types) =>
    sender.send(
      () => {
        const encoded = sender.encode(sql, params, types)
        return Exchanges.statement(sql, encoded, types === undefined ? options : maskingAll(options, encoded))
      },
      withKnownTypes(sender, finish),
      toSqlError,
      guard
    ))

/** An encoder of the application has made other values of the parameters, which an error must not show either. */
export const maskingAll = (options: Options, encoded: ReadonlyArray<Encoded>): Options => ({
  ...options,
  params: [options.params, encoded]
})

/**
 * Runs `f` with the types of a statement's parameters, which the server is asked for once, or with undefined if no parameter
 * is encoded by its type. They are forgotten when the statement fails, since a type may have been altered.
 */
export const withParameterTypes = <A>(
  sender: Sender,
  sql: string,
  params: ReadonlyArray<unknown>,
  guard: StatementGuard | undefined,
  f: (types: ReadonlyArray<number> | undefined) => Effect.Effect<A, SqlError>
): Effect.Effect<A, SqlError> => {
  const { types } = sender
  return !types.encodesByType || params.length === 0 ? f(undefined) : Effect.suspend(() => {
    const remembered = types.parameterTypesOf(sql)
    const described = remembered !== undefined ? Effect.succeed(remembered) : parameterTypesOf(sender, sql, guard).pipe(
      Effect.tap((oids) => Effect.mapError(lookUpTypes(sender, oids), toSqlError)),
      Effect.tap((oids) => Effect.sync(() => types.cacheParameterTypes(sql, oids)))
    )
    return Effect.tapError(Effect.flatMap(described, f), () => Effect.sync(() => types.invalidateParameterTypes(sql)))
  })
}

/** Asks for the types of a statement's parameters. */
export const parameterTypesOf = (
  sender: Sender,
  sql: string,
  guard: StatementGuard | undefined
): Effect.Effect<ReadonlyArray<number>, SqlError> =>
  sender.send(
    () => {
      sender.encode(sql, [])
      return Exchanges.describeParameters(sql, { user: true })
    },
    ({ parameterTypes }) => Effect.succeed(parameterTypes),
    toSqlError,
    // Describing has no effect, so it does not count as sent.
    withoutEffect(guard)
  )

/** The first round trip describes the INSERT with a single row, for the types of the arrays. */
const runInsert = <A>(
  sender: Sender,
  request: Request<A>,
  insert: Bulk.Insert
): Effect.Effect<A, SqlError> => {
  const { finish, guard, options, params, sql } = request
  return parameterTypesOf(sender, insert.singleRow, guard).pipe(
    Effect.tap((elements) => Effect.mapError(lookUpTypes(sender, elements), toSqlError)),
    Effect.flatMap((elements) => {
      let plan: Bulk.ArrayPlan | undefined = undefined
      try {
        plan = Bulk.planOf(insert, [sql, params], elements, sender.types)
      } catch {
        // By value, the error names the parameter.
      }
      if (plan === undefined) {
        let byValue: ReturnType<Bulk.Insert["byValue"]>
        try {
          byValue = insert.byValue()
        } catch (cause) {
          return Effect.fail(toSqlError(cannotBeSent(cause)))
        }
        return runByValue(sender, { ...request, sql: byValue[0], params: byValue[1] })
      }
      const { encodedTypes, params: arrays, sql: text, types } = plan
      // An error masks every single value. They are needed only if there is one.
      const typedOptions = {
        ...options,
        get params() {
          return insert.byValue()[1]
        }
      }
      return sender.send(
        () => {
          const encoded = sender.encode(text, arrays, sender.types.encodesByType ? encodedTypes : undefined)
          return Exchanges.typedStatement(text, encoded, types, typedOptions)
        },
        withKnownTypes(sender, finish),
        toSqlError,
        guard
      )
    })
  )
}

/** The rows; an array of rows for each statement if the text contained several. */
export const rowsOf = <Row extends object>({ result, results }: Completed): Effect.Effect<ReadonlyArray<Row>> =>
  Effect.succeed<ReadonlyArray<object>>(results?.map(({ rows }) => rows) ?? result.rows) as Effect.Effect<
    ReadonlyArray<Row>
  >

/** The result in the form of `pg`; an array of them if the text contained several statements. */
export const pgResultOf = ({ result, results }: Completed): Effect.Effect<Pg.QueryResult | Array<Pg.QueryResult>> =>
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
