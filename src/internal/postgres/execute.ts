/**
 * How a user's statement is run: in one round trip, or in two where it inserts many rows.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import { toSqlError } from "../../DatabaseError.js"
import type { Refusal } from "../driver.js"
import * as Bulk from "./bulk.js"
import type { Sender } from "./send.js"
import type { Exchange, Options } from "./exchange.js"
import * as Flights from "./exchanges.js"

/** What is run, and what is made of its answer. */
export interface Asked<A> {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  readonly options: Options
  readonly refusal: Refusal | undefined
  readonly finish: (flight: Exchange) => Effect.Effect<A, SqlError>
}

export const run = <A>(calls: Sender, asked: Asked<A>): Effect.Effect<A, SqlError> => {
  const { finish, options, params, refusal, sql } = asked
  const plan = Bulk.planOf(params)
  return plan === undefined
    ? calls.fly(() => Flights.statement(sql, calls.encode(sql, params), options), finish, toSqlError, refusal)
    : manyRows(calls, asked, plan)
}

/** The types of the columns are asked for first. */
const manyRows = <A>(
  calls: Sender,
  { finish, options, params, refusal, sql }: Asked<A>,
  plan: Bulk.Plan
): Effect.Effect<A, SqlError> => {
  const described = calls.fly(
    () => {
      calls.encode(plan.single, [])
      return Flights.describeParameters(plan.single, { user: true })
    },
    ({ types }) => Effect.succeed(Bulk.typesOf(plan, types)),
    toSqlError,
    refusal
  )
  return Effect.flatMap(described, (types) => {
    const [text, values] = types === undefined ? plan.byValue() : [sql, params]
    // For an error, which must not show any value.
    const shown = {
      ...options,
      get params() {
        return plan.byValue()[1]
      }
    }
    return calls.fly(
      () => {
        const encoded = calls.encode(text, values)
        return types === undefined
          ? Flights.statement(text, encoded, options)
          : Flights.typedStatement(text, encoded, types, shown)
      },
      finish,
      toSqlError,
      refusal
    )
  })
}

/** The rows; of several statements at once, those of each. */
export const rowsOf = <Row extends object>({ answer, answers }: Exchange): Effect.Effect<ReadonlyArray<Row>> =>
  Effect.succeed<ReadonlyArray<object>>(answers?.map(({ rows }) => rows) ?? answer.rows) as Effect.Effect<
    ReadonlyArray<Row>
  >
