/**
 * Executes a user's statement: in one round trip, or in two for an INSERT of many rows.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type Pg from "pg"
import { toSqlError } from "../../DatabaseError.js"
import type { StatementGuard } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { withoutEffect } from "../statementGuard.js"
import * as Bulk from "./bulk.js"
import type { CommandResult, Exchange, Options } from "./exchange.js"
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
  /** Makes the exchange. Default: it executes the statement and takes all rows. */
  readonly make?: Make | undefined
  /** How it is canceled when its fiber is interrupted. Default: at once. */
  readonly cancel?: ((exchange: Exchange) => Effect.Effect<void>) | undefined
}

/** `types`: those of the parameters, zero for those that the server infers; undefined if it infers all. */
type Make = (
  sql: string,
  values: ReadonlyArray<Encoded>,
  options: Options,
  types: ReadonlyArray<number> | undefined
) => Exchange

const makeStatement: Make = (sql, values, options, types) =>
  types === undefined
    ? Exchanges.statement(sql, values, options)
    : Exchanges.typedStatement(sql, values, types, options)

export const run = <A>(sender: Sender, request: Request<A>): Effect.Effect<A, SqlError> => {
  const insert = Bulk.insertOf(request.params)
  return insert === undefined ? runByValue(sender, request) : runInsert(sender, request, insert)
}

const runByValue = <A>(
  sender: Sender,
  { cancel, finish, guard, make = makeStatement, options, params, sql }: Request<A>
): Effect.Effect<A, SqlError> =>
  withParameterTypes(sender, sql, params, guard, (types) =>
    sender.send(
      () => {
        const encoded = sender.encode(sql, params, types)
        return make(sql, encoded, types === undefined ? options : maskingAll(options, encoded), undefined)
      },
      withKnownTypes(sender, finish),
      toSqlError,
      guard,
      cancel
    ))

/** Masks in errors also the encoded parameters, which an encoder of the application may have changed. */
const maskingAll = (options: Options, encoded: ReadonlyArray<Encoded>): Options => ({
  ...options,
  params: [options.params, encoded]
})

/**
 * Runs `f` with the types of a statement's parameters, which the server is asked for once, or with undefined if no parameter
 * is encoded by its type. They are forgotten when the statement fails, since a type may have been altered.
 */
const withParameterTypes = <A>(
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
  const { cancel, finish, guard, make = makeStatement, options, params, sql } = request
  return parameterTypesOf(sender, insert.singleRow, guard).pipe(
    Effect.tap((elements) => Effect.mapError(lookUpTypes(sender, elements), toSqlError)),
    Effect.flatMap((elements) => {
      let plan: Bulk.ArrayPlan | undefined = undefined
      try {
        plan = Bulk.planOf(insert, [sql, params], elements, sender.types)
      } catch {
        // Sent by value, the statement fails with an error that names the parameter.
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
      // An error masks every single value, so they are listed only if there is an error.
      const typedOptions = {
        ...options,
        get params() {
          return insert.byValue()[1]
        }
      }
      return sender.send(
        () => {
          const encoded = sender.encode(text, arrays, sender.types.encodesByType ? encodedTypes : undefined)
          return make(text, encoded, typedOptions, types)
        },
        withKnownTypes(sender, finish),
        toSqlError,
        guard,
        cancel
      )
    })
  )
}

/** The rows; an array of rows for each statement if the text contained several. */
const receivedRows = ({ result, results }: Completed): ReadonlyArray<object> =>
  results?.map(({ rows }) => rows) ?? result.rows

export const rowsOf = <Row extends object>(completed: Completed): Effect.Effect<ReadonlyArray<Row>> =>
  Effect.succeed(receivedRows(completed)) as Effect.Effect<ReadonlyArray<Row>>

/** The rows of a statement as the application's function transforms them. */
export const transformedRowsOf =
  (transformRows: (rows: ReadonlyArray<object>) => ReadonlyArray<object>, statement: string) =>
  (completed: Completed): Effect.Effect<ReadonlyArray<object>, SqlError> => {
    try {
      return Effect.succeed(transformRows(receivedRows(completed)))
    } catch {
      // What the application's function throws may contain values.
      return Effect.fail(toSqlError(makeError("InvalidData", {
        dialect: "postgres",
        code: "22000",
        reason: "the rows cannot be transformed: transformResultNames has thrown",
        statement
      })))
    }
  }

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
