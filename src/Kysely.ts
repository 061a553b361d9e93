/**
 * Kysely on a database of sqlayer: Kysely compiles the queries, and sqlayer runs them as Effects.
 *
 * This module is imported as `sqlayer/Kysely`, and is not a part of `sqlayer`: it needs the package `kysely`, which an
 * application without Kysely does not install.
 *
 * @since 0.1.0
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Arr from "effect/Array"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as K from "kysely"
import { dialectOf } from "./internal/config/dialectOf.js"
import { driverOfClient } from "./internal/database/opened.js"
import { make as makeError } from "./internal/makeError.js"
import { asStatementStream, streamDatabase } from "./internal/session/statementStream.js"

/**
 * The options of a Kysely instance.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * Plugins, which transform queries and results as in every Kysely. They replace the database's options
   * `transformQueryNames` and `transformResultNames`, which Kysely's queries do not use. Default: none.
   */
  readonly plugins?: Array<K.KyselyPlugin> | undefined
}

/** Compiles the queries and keeps the plugins of one Kysely instance. It runs nothing. */
class Executor extends K.DefaultQueryExecutor {
  constructor(
    readonly client: SqlClient.SqlClient,
    private readonly dialect: K.Dialect,
    private readonly provider: K.ConnectionProvider,
    plugins: ReadonlyArray<K.KyselyPlugin>
  ) {
    super(dialect.createQueryCompiler(), dialect.createAdapter(), provider, [...plugins])
  }

  override compileQuery(node: K.RootOperationNode, queryId: K.QueryId): K.CompiledQuery {
    const compiled = super.compileQuery(node, queryId)
    executors.set(compiled, this)
    return compiled
  }

  override withPlugins(plugins: ReadonlyArray<K.KyselyPlugin>): Executor {
    return this.with([...this.plugins, ...plugins])
  }

  override withPlugin(plugin: K.KyselyPlugin): Executor {
    return this.with([...this.plugins, plugin])
  }

  override withPluginAtFront(plugin: K.KyselyPlugin): Executor {
    return this.with([plugin, ...this.plugins])
  }

  override withoutPlugins(): Executor {
    return this.with([])
  }

  async transformResult<O>(result: K.QueryResult<unknown>, queryId: K.QueryId): Promise<K.QueryResult<O>> {
    for (const plugin of this.plugins) {
      result = await plugin.transformResult({ result: result as K.QueryResult<K.UnknownRow>, queryId })
    }
    return result as K.QueryResult<O>
  }

  private with(plugins: ReadonlyArray<K.KyselyPlugin>): Executor {
    return new Executor(this.client, this.dialect, this.provider, plugins)
  }
}

/** The executor that has compiled a query. */
const executors = new WeakMap<K.CompiledQuery, Executor>()

const makeDialect = (
  dialect: Omit<K.Dialect, "createDriver" | "createIntrospector">,
  createIntrospector: K.Dialect["createIntrospector"]
): K.Dialect => ({ ...dialect, createDriver: () => new K.DummyDriver(), createIntrospector })

const postgres = (): K.Dialect =>
  makeDialect({
    createAdapter: () => new K.PostgresAdapter(),
    createQueryCompiler: () => new K.PostgresQueryCompiler()
  }, (db) => new K.PostgresIntrospector(db))

const sqlite = (): K.Dialect =>
  makeDialect({
    createAdapter: () => new K.SqliteAdapter(),
    createQueryCompiler: () => new K.SqliteQueryCompiler()
  }, (db) => new K.SqliteIntrospector(db))

/** Kysely has more dialects than sqlayer. */
const unsupported = (): never => {
  throw new Error("Kysely needs a database that was opened by sqlayer")
}

const dialectFor = (sql: SqlClient.SqlClient): K.Dialect =>
  sql.onDialect({ pg: postgres, sqlite, mysql: unsupported, mssql: unsupported, clickhouse: unsupported })

/**
 * Makes a Kysely instance of the database's dialect. `DB` is the type of its tables, as for every Kysely. It uses the
 * database whose `SqlClient` is in the context, and can be used until that is closed.
 *
 * Run its queries with `execute`, `executeTakeFirst` and `stream`, and transactions as a `Database.session`. Kysely
 * itself cannot run anything, since it does not know the current session: `query.execute()`, `db.transaction()`,
 * `db.startTransaction()` and `db.introspection` reject with an `InvalidStatement`.
 *
 * @example
 * ```ts
 * import { Context, Effect, Layer } from "effect"
 * import type * as K from "kysely"
 * import { Database } from "sqlayer"
 * import * as Kysely from "sqlayer/Kysely"
 *
 * interface Tables {
 *   readonly account: { readonly id: number; readonly balance: number }
 * }
 *
 * class Db extends Context.Tag("Db")<Db, K.Kysely<Tables>>() {}
 *
 * const DbLive = Layer.effect(Db, Kysely.make<Tables>()).pipe(Layer.provideMerge(Database.layer))
 *
 * const rich = Effect.flatMap(Db, (db) =>
 *   Kysely.execute(db.selectFrom("account").selectAll().where("balance", ">", 1_000)))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <DB>(options: Options = {}): Effect.Effect<K.Kysely<DB>, never, SqlClient.SqlClient> =>
  Effect.map(SqlClient.SqlClient, (sql) => {
    const { dialect: name } = driverOfClient(sql)
    const dialect = dialectFor(sql)
    const provider: K.ConnectionProvider = {
      provideConnection: () =>
        Promise.reject(makeError("InvalidStatement", {
          dialect: name,
          code: dialectOf(name).errorCodes.InvalidStatement,
          reason:
            "run a query of this Kysely with Kysely.execute of sqlayer/Kysely, and a transaction with Database.session"
        }))
    }
    const executor = new Executor(sql.withoutTransforms(), dialect, provider, options.plugins ?? [])
    return new K.Kysely<DB>({ config: { dialect }, dialect, driver: dialect.createDriver(), executor })
  })

/** A query of Kysely, compiled or not. */
type Query<O> = K.Compilable<O> | K.CompiledQuery<O>

const compile = <O>(query: Query<O>): { readonly compiled: K.CompiledQuery<O>; readonly executor: Executor } => {
  const compiled = "compile" in query ? query.compile() : query
  const executor = executors.get(compiled)
  if (executor === undefined) {
    throw new Error("the query was built by a Kysely that was not made by Kysely.make of sqlayer/Kysely")
  }
  return { compiled, executor }
}

/** The result of a statement that returns no rows: PostgreSQL's has `rows` and `rowCount`, and SQLite's the others. */
interface RawResult {
  readonly rows?: Array<unknown>
  readonly rowCount?: number | null
  readonly changes?: number | bigint
  readonly lastInsertRowid?: number | bigint
}

/** Converts a result as Kysely's own drivers do. */
const toQueryResult = (raw: Array<unknown> | RawResult): K.QueryResult<unknown> => {
  if (Array.isArray(raw)) {
    return { rows: raw }
  }
  const affected = raw.rowCount ?? raw.changes
  return {
    rows: raw.rows ?? [],
    ...(affected === undefined ? {} : { numAffectedRows: BigInt(affected) }),
    ...(raw.lastInsertRowid === undefined ? {} : { insertId: BigInt(raw.lastInsertRowid) })
  }
}

/** The rows of a query, or the number of changed rows if it returns none. */
const toRows = (node: K.RootOperationNode, result: K.QueryResult<unknown>): Array<unknown> => {
  const affected = result.numAffectedRows ?? 0n
  if ("returning" in node && node.returning !== undefined) {
    return result.rows
  }
  switch (node.kind) {
    case "InsertQueryNode":
      return [new K.InsertResult(result.insertId, affected)]
    case "UpdateQueryNode":
      return [new K.UpdateResult(affected, undefined)]
    case "DeleteQueryNode":
      return [new K.DeleteResult(affected)]
    case "MergeQueryNode":
      return [new K.MergeResult(affected)]
    default:
      return result.rows
  }
}

/**
 * Runs a query of a Kysely instance that `make` has made, in the session of the current fiber or, outside of a session,
 * on a connection of the pool. Succeeds with the result of Kysely's own `execute`: the rows, or an `InsertResult`,
 * `UpdateResult`, `DeleteResult` or `MergeResult` if the query returns none.
 *
 * Values are encoded and decoded as in other statements of sqlayer. If a statement fails, the error is a `SqlError`
 * whose cause is the DatabaseError; `Database.session` turns it into the typed error. A query of another Kysely
 * instance is a defect, and so is an error that a plugin throws.
 *
 * Compile a query of Kysely's `sql` template first:
 * `` Kysely.execute(sql<{ n: number }>`SELECT 1 AS n`.compile(db)) ``.
 *
 * @since 0.1.0
 * @category running
 */
export const execute = <O>(query: K.Compilable<O> | K.CompiledQuery<O>): Effect.Effect<Array<O>, SqlError> =>
  Effect.suspend(() => {
    const { compiled, executor } = compile(query)
    const statement = executor.client.unsafe(compiled.sql, compiled.parameters)
    return Effect.flatMap(statement.raw, (raw) => {
      const result = toQueryResult(raw as Array<unknown> | RawResult)
      return executor.plugins.length === 0
        ? Effect.succeed(toRows(compiled.query, result) as Array<O>)
        : Effect.map(
          Effect.promise(() => executor.transformResult(result, compiled.queryId)),
          (transformed) => toRows(compiled.query, transformed) as Array<O>
        )
    })
  })

/**
 * Runs a query as `execute` does, and succeeds with its first row, if there is one.
 *
 * @since 0.1.0
 * @category running
 */
export const executeTakeFirst = <O>(
  query: K.Compilable<O> | K.CompiledQuery<O>
): Effect.Effect<Option.Option<O>, SqlError> => Effect.map(execute(query), (rows) => Arr.head(rows))

/**
 * Streams the rows of a query, which are fetched from the server in batches. Like the streams of other statements, it
 * belongs to the session in which it is opened. Throws an error for a query of another Kysely instance, and for one
 * that cannot be compiled.
 *
 * @since 0.1.0
 * @category running
 */
export const stream = <O>(query: K.Compilable<O> | K.CompiledQuery<O>): Stream.Stream<O, SqlError> => {
  const { compiled, executor } = compile(query)
  const rows = executor.client.unsafe(compiled.sql, compiled.parameters).stream as Stream.Stream<unknown, SqlError>
  return executor.plugins.length === 0
    ? rows as Stream.Stream<O, SqlError>
    : asStatementStream(
      Stream.mapChunksEffect(rows, (chunk) =>
        Effect.map(
          Effect.promise(() => executor.transformResult<O>({ rows: Array.from(chunk) }, compiled.queryId)),
          (result) => Chunk.unsafeFromArray(result.rows)
        )),
      streamDatabase(rows)
    )
}
