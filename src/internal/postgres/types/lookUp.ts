/**
 * Asks a server's catalog for types that are not known: once for each type, on the connection whose statement needs it, since
 * its transaction may have created the type.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import { type DatabaseError, toSqlError } from "../../../DatabaseError.js"
import { make as makeError } from "../../makeError.js"
import type { Exchange } from "../exchange.js"
import * as Exchanges from "../exchanges.js"
import type { Sender } from "../send.js"
import { fromPostgres } from "../sqlState.js"
import { mayWrite } from "../statementText.js"
import { type CatalogRow, catalogSql } from "./registry.js"
import { unreadableValue } from "./unreadableValue.js"

/** Looks up the types that are not known. Sends nothing if all are. */
export const lookUpTypes = (sender: Sender, oids: ReadonlyArray<number>): Effect.Effect<void, DatabaseError> =>
  Effect.suspend(() => {
    const { types } = sender
    const unknown = types.unknownOf(oids)
    if (unknown.length === 0) {
      return Effect.void
    }
    const sql = catalogSql(unknown)
    const register = (rows: ReadonlyArray<object>) => types.register(unknown, rows as ReadonlyArray<CatalogRow>)
    return sender.send(
      () => Exchanges.query(sql, { user: false }),
      ({ result: { rows } }) => Effect.sync(() => register(rows)),
      identity
    ).pipe(
      // In a failed transaction the server executes no query, so another connection is asked.
      Effect.catchAll(() =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(
            sender.connectAgain(restore),
            (connection) =>
              restore(connection.query(sql)).pipe(
                // A type that only the failed transaction knows is not found, and is asked for again.
                Effect.map((rows) => types.register([], rows as ReadonlyArray<CatalogRow>)),
                Effect.ensuring(connection.close)
              )
          )
        )
      )
    )
  })

/** The parts of an exchange that a result is made of. */
export type Completed = Pick<Exchange, "isSuspended" | "result" | "results" | "rowBytes">

/**
 * The result of a statement. Values of types that were not known, which are text until then, are parsed first.
 */
export const withKnownTypes = <A>(
  sender: Sender,
  finish: (completed: Completed) => Effect.Effect<A, SqlError>
) =>
(exchange: Exchange): Effect.Effect<A, SqlError> => {
  const { options, isInTransaction, result, results, text } = exchange
  if (results === undefined && result.rowDescription?.unknownTypes === undefined) {
    return finish(exchange)
  }
  const incomplete = (results ?? [result]).flatMap((result) => {
    const types = result.rowDescription?.unknownTypes
    return types === undefined ? [] : [{ result, types }]
  })
  if (incomplete.length === 0) {
    return finish(exchange)
  }
  const parse = (): void => {
    for (const { result, types } of incomplete) {
      result.rowDescription = sender.types.rowDescriptions.make(result.rowDescription!.fields)
      result.rowDescription.parseTexts(options.rowMode, types, result.rows)
    }
  }
  const completed: Completed = { isSuspended: exchange.isSuspended, result, results, rowBytes: exchange.rowBytes }
  return lookUpTypes(sender, incomplete.flatMap(({ types }) => types)).pipe(
    Effect.mapError((error) =>
      // The statement has been executed: one that may have written is not to be repeated.
      mayWrite(text) && !isInTransaction
        ? makeError("CommitOutcomeUnknown", {
          dialect: "postgres",
          code: error.code,
          reason: `the statement was executed, but the types of its result could not be looked up: ${error.reason}`,
          statement: text
        })
        : error
    ),
    Effect.flatMap(() =>
      Effect.try({
        try: parse,
        catch: (error) =>
          fromPostgres(unreadableValue(error), { phase: "statement", statement: text, params: options.params })
      })
    ),
    Effect.mapError(toSqlError),
    Effect.zipRight(Effect.suspend(() => finish(completed)))
  )
}
