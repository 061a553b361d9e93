/**
 * Drizzle on a database of sqlayer: Drizzle builds the queries, and sqlayer runs them as Effects.
 *
 * This module is imported as `sqlayer/Drizzle`, and is not a part of `sqlayer`: it needs the package `drizzle-orm`,
 * which an application without Drizzle does not install. It loads only the part of that package for the database's
 * dialect.
 *
 * @since 0.1.0
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type { DrizzleConfig } from "drizzle-orm"
import type { PgDatabase, PgQueryResultHKT } from "drizzle-orm/pg-core"
import type { BaseSQLiteDatabase } from "drizzle-orm/sqlite-core"
import * as Effect from "effect/Effect"
import { type DatabaseError, isDatabaseError, toSqlError } from "./DatabaseError.js"
import { dialectOf } from "./internal/config/dialectOf.js"
import { driverOfClient } from "./internal/database/opened.js"
import { make as makeError } from "./internal/makeError.js"
import { textValues } from "./internal/sqlClient/statement.js"

/**
 * The options of a Drizzle database, as Drizzle defines them: `schema` for its relational queries, `casing` for the
 * names of columns, and a `logger`, which receives the parameters of each query.
 *
 * @since 0.1.0
 * @category models
 */
export type Options<Schema extends Record<string, unknown>> = Pick<
  DrizzleConfig<Schema>,
  "schema" | "casing" | "logger"
>

/**
 * The result of a query without `returning`, and of `db.execute`, on PostgreSQL.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresResult<Row> {
  /** The rows that the query returns. */
  readonly rows: Array<Row>
  /** The number of rows that were changed or are returned. Null for a command that reports none. */
  readonly rowCount: number | null
}

/**
 * The type by which Drizzle's own types refer to `PostgresResult`.
 *
 * @since 0.1.0
 * @category models
 */
export interface PostgresResultKind extends PgQueryResultHKT {
  /** The result of a query whose rows have the type `row`. */
  readonly type: PostgresResult<this["row"]>
}

/**
 * The result of a query without `returning`, and of `db.run`, on SQLite.
 *
 * @since 0.1.0
 * @category models
 */
export interface SqliteResult {
  /** The number of rows that were changed. */
  readonly changes: number
  /** The rowid of the last row that was inserted. */
  readonly lastInsertRowid: number | bigint
}

/** The form of a result that Drizzle asks for. */
type Method = "all" | "execute" | "get" | "values" | "run"

/** A request of Drizzle to its driver. */
interface Request {
  /** The client that the Drizzle was made with. */
  readonly sql: SqlClient.SqlClient
  /** The same client without the options that rename columns. */
  readonly client: SqlClient.SqlClient
  readonly text: string
  readonly params: ReadonlyArray<unknown>
  readonly method: Method
  /** Whether Drizzle does not know the columns. It then returns the rows unchanged. */
  readonly isRaw: boolean
  /** The columns that Drizzle reads as JSON. */
  readonly json: ReadonlyArray<JsonColumn>
}

/** Receives the request of the query that `execute` is starting. Set only during that call. */
let receive: ((request: Request) => Promise<never>) | undefined = undefined

const refusal = (sql: SqlClient.SqlClient): DatabaseError => {
  const { dialect } = driverOfClient(sql)
  return makeError("InvalidStatement", {
    dialect,
    code: dialectOf(dialect).errorCodes.InvalidStatement,
    reason:
      "run a query of this Drizzle with Drizzle.execute of sqlayer/Drizzle, and a transaction with Database.session"
  })
}

const otherDialect = (sql: SqlClient.SqlClient, wanted: string): Effect.Effect<never, DatabaseError> =>
  Effect.suspend(() => {
    const { dialect } = driverOfClient(sql)
    return Effect.fail(makeError("ConnectionFailed", {
      dialect,
      code: dialectOf(dialect).errorCodes.ConnectionFailed,
      reason: `this Drizzle is for ${wanted}, but the database is not ${wanted}`,
      transient: false
    }))
  })

/** The members of a Drizzle database that its type does not show. */
interface Internals {
  readonly session: {
    prepareQuery: (query: unknown, fields: unknown, ...rest: ReadonlyArray<unknown>) => { client: Driver }
    transaction: () => Promise<never>
    count: (query: unknown) => Promise<number>
    readonly execute: (query: unknown) => Promise<PostgresResult<{ readonly count: unknown }>>
  }
}

type Driver = (sql: string, params: Array<unknown>, method: Method) => Promise<never>

const driver = (sql: SqlClient.SqlClient, isRaw: boolean, json: ReadonlyArray<JsonColumn> = []): Driver => {
  const client = sql.withoutTransforms()
  return (text, params, method) =>
    receive === undefined ? Promise.reject(refusal(sql)) : receive({ sql, client, text, params, method, isRaw, json })
}

/** A column of Drizzle, or an expression with the column that decodes its values. */
interface Field {
  readonly columnType?: string
  readonly baseColumn?: Field
  readonly decoder?: Field
  readonly sql?: Field
}

/** A column of a result that Drizzle reads as JSON, or as an array of JSON with this many dimensions. */
interface JsonColumn {
  readonly index: number
  readonly dimensions: number
}

/**
 * The number of dimensions of the array around JSON, which is 0 for JSON itself. Undefined if the column is not JSON.
 */
const jsonDimensions = ({ baseColumn, columnType }: Field): number | undefined => {
  const base = baseColumn === undefined ? undefined : jsonDimensions(baseColumn)
  return columnType === "PgJson" || columnType === "PgJsonb" ? 0 : base === undefined ? undefined : base + 1
}

const jsonColumns = (fields: unknown): ReadonlyArray<JsonColumn> =>
  ((fields ?? []) as ReadonlyArray<{ readonly field: Field }>).flatMap(({ field }, index) => {
    const dimensions = jsonDimensions(
      field.columnType === undefined ? field.decoder ?? field.sql?.decoder ?? {} : field
    )
    return dimensions === undefined ? [] : [{ index, dimensions }]
  })

/**
 * Drizzle's columns parse a string as JSON again, which would turn the string "5" into the number 5. So strings are
 * quoted.
 */
const quoteJson = (value: unknown, dimensions: number): unknown =>
  dimensions > 0
    ? Array.isArray(value) ? value.map((element) => quoteJson(element, dimensions - 1)) : value
    : typeof value === "string"
    ? JSON.stringify(value)
    : value

const quoteRow = (row: ReadonlyArray<unknown>, json: ReadonlyArray<JsonColumn>): ReadonlyArray<unknown> => {
  const quoted = Array.from(row)
  for (const { dimensions, index } of json) {
    quoted[index] = quoteJson(quoted[index], dimensions)
  }
  return quoted
}

/** Refuses Drizzle's own transactions, and tells the driver which columns of each query Drizzle knows. */
const adapt = <Db>(db: Db, sql: SqlClient.SqlClient): Db => {
  const { session } = db as unknown as Internals
  const prepareQuery = session.prepareQuery.bind(session)
  session.prepareQuery = (query, fields, ...rest) => {
    const prepared = prepareQuery(query, fields, ...rest)
    const hasMapper = rest.some((each) => typeof each === "function")
    prepared.client = driver(sql, fields === undefined && !hasMapper, jsonColumns(fields))
    return prepared
  }
  session.transaction = () => Promise.reject(refusal(sql))
  return db
}

/**
 * Makes a Drizzle database for tables of PostgreSQL (`pgTable`). It uses the database whose `SqlClient` is in the
 * context, and can be used until that is closed. Fails with ConnectionFailed if that is not PostgreSQL.
 *
 * Run its queries with `execute`, and transactions as a `Database.session`. Drizzle itself cannot run anything, since
 * it does not know the current session: a query that is awaited, and `db.transaction()`, reject with an
 * `InvalidStatement`.
 *
 * @example
 * ```ts
 * import { Context, Effect, Layer } from "effect"
 * import * as Pg from "drizzle-orm/pg-core"
 * import { eq } from "drizzle-orm"
 * import { Database } from "sqlayer"
 * import * as Drizzle from "sqlayer/Drizzle"
 *
 * const account = Pg.pgTable("account", { id: Pg.integer().primaryKey(), balance: Pg.integer().notNull() })
 *
 * class Db extends Context.Tag("Db")<Db, Drizzle.Postgres>() {}
 *
 * const DbLive = Layer.effect(Db, Drizzle.postgres()).pipe(Layer.provideMerge(Database.layer))
 *
 * const balance = (id: number) =>
 *   Effect.flatMap(Db, (db) => Drizzle.execute(db.select().from(account).where(eq(account.id, id))))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const postgres = <Schema extends Record<string, unknown> = Record<string, never>>(
  options: Options<Schema> = {}
): Effect.Effect<Postgres<Schema>, DatabaseError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    sql.onDialectOrElse({
      pg: () =>
        Effect.map(
          Effect.promise(() => import("drizzle-orm/pg-proxy")),
          ({ drizzle }) => {
            const db = adapt(drizzle(driver(sql, false), options), sql)
            const { session } = db as unknown as Internals
            session.count = async (query) => Number((await session.execute(query)).rows[0].count)
            return db as unknown as Postgres<Schema>
          }
        ),
      orElse: () => otherDialect(sql, "PostgreSQL")
    }))

/**
 * Makes a Drizzle database for tables of SQLite (`sqliteTable`), as `postgres` does for PostgreSQL. Fails with
 * ConnectionFailed if the database is not SQLite.
 *
 * @since 0.1.0
 * @category constructors
 */
export const sqlite = <Schema extends Record<string, unknown> = Record<string, never>>(
  options: Options<Schema> = {}
): Effect.Effect<Sqlite<Schema>, DatabaseError, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    sql.onDialectOrElse({
      sqlite: () =>
        Effect.map(
          Effect.promise(() => import("drizzle-orm/sqlite-proxy")),
          ({ drizzle }) => adapt(drizzle(driver(sql, false), options), sql) as unknown as Sqlite<Schema>
        ),
      orElse: () => otherDialect(sql, "SQLite")
    }))

/**
 * The Drizzle database that `postgres` makes.
 *
 * @since 0.1.0
 * @category models
 */
export type Postgres<Schema extends Record<string, unknown> = Record<string, never>> = PgDatabase<
  PostgresResultKind,
  Schema
>

/**
 * The Drizzle database that `sqlite` makes.
 *
 * @since 0.1.0
 * @category models
 */
export type Sqlite<Schema extends Record<string, unknown> = Record<string, never>> = BaseSQLiteDatabase<
  "async",
  SqliteResult,
  Schema
>

/** Runs a request. Drizzle maps columns by their position, and reads dates and times from text. */
const run = ({ client, isRaw, json, method, params, text }: Request): Effect.Effect<unknown, SqlError> => {
  const statement = client.unsafe(text, params)
  switch (method) {
    case "execute":
      return Effect.map(statement.raw, (rows) => ({ rows }))
    case "run":
      return statement.raw
    case "get":
      return Effect.map(rowsOf(statement, isRaw), ([row]) => ({ rows: row }))
    case "all":
      return Effect.map(rowsOf(statement, isRaw), (rows) => ({
        rows: json.length === 0
          ? rows
          : (rows as ReadonlyArray<ReadonlyArray<unknown>>).map((row) => quoteRow(row, json))
      }))
    case "values":
      return Effect.map(textValues(statement), (rows) => ({ rows }))
  }
}

const rowsOf = (
  statement: ReturnType<SqlClient.SqlClient["unsafe"]>,
  isRaw: boolean
): Effect.Effect<ReadonlyArray<unknown>, SqlError> => isRaw ? statement.withoutTransform : textValues(statement)

/** The DatabaseError that Drizzle has thrown. For a query it is the cause of Drizzle's own error. */
const refusedBy = (error: unknown): DatabaseError | undefined => {
  const cause = error instanceof Error ? error.cause : undefined
  return isDatabaseError(error) ? error : isDatabaseError(cause) ? cause : undefined
}

const failed = (error: unknown): Effect.Effect<never, SqlError> => {
  const refused = refusedBy(error)
  return refused === undefined ? Effect.die(error) : Effect.fail(toSqlError(refused))
}

/**
 * Runs a query of a Drizzle database that `postgres` or `sqlite` has made, in the session of the current fiber or,
 * outside of a session, on a connection of the pool. Succeeds with the value that the query itself would resolve with.
 *
 * Pass a function for a query that starts when it is called, `Drizzle.execute(() => db.select().from(account).get())`,
 * and for a prepared one, `Drizzle.execute(() => byId.execute({ id: 1 }))`.
 *
 * Parameters are encoded as in other statements of sqlayer, and results are decoded by Drizzle's columns. If a
 * statement fails, the error is a `SqlError` whose cause is the DatabaseError; `Database.session` turns it into the
 * typed error. An error that a column or a schema of the application throws is a defect.
 *
 * @since 0.1.0
 * @category running
 */
export const execute = <A>(query: PromiseLike<A> | (() => PromiseLike<A>)): Effect.Effect<A, SqlError> =>
  Effect.suspend(() => {
    let request: Request | undefined = undefined
    let second: Request | undefined = undefined
    let answer: (result: never) => void = () => undefined
    // A logger of the application may run a query while another one is being started.
    const outerReceive = receive
    receive = (received) => {
      if (request !== undefined) {
        second = received
      }
      request ??= received
      return new Promise<never>((resolve) => {
        answer = resolve
      })
    }
    let result: Promise<A>
    try {
      // Drizzle calls its driver before this returns.
      result = Promise.resolve((typeof query === "function" ? query() : query).then((value) => value))
    } finally {
      receive = outerReceive
    }
    // An interruption may come before the promise is awaited.
    result.catch(() => undefined)
    const mapped = Effect.catchAll(Effect.tryPromise({ try: () => result, catch: (error) => error }), failed)
    if (second !== undefined) {
      return Effect.fail(toSqlError(refusal((second as Request).sql)))
    }
    return request === undefined
      ? Effect.zipRight(
        mapped,
        Effect.dieMessage("the query was built by a Drizzle that was not made by sqlayer/Drizzle")
      )
      : Effect.flatMap(run(request), (rows) => {
        answer(rows as never)
        return mapped
      })
  })
