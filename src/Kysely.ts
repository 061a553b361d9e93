/**
 * Kysely over a database of sqlayer: its queries are compiled by Kysely, and run as Effects.
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
 * What a Kysely can be made with. Its plugins transform queries and results as they do everywhere, and so replace the options
 * `transformQueryNames` and `transformResultNames` of the database, which Kysely's queries do not use.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Default: none. */
  readonly plugins?: Array<K.KyselyPlugin> | undefined
}

/** Kysely compiles with this, and keeps the plugins in it. It runs nothing. */
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

/** Which of them has compiled a query. */
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
  throw new Error("Kysely needs a database of sqlayer")
}

const dialectFor = (sql: SqlClient.SqlClient): K.Dialect =>
  sql.onDialect({ pg: postgres, sqlite, mysql: unsupported, mssql: unsupported, clickhouse: unsupported })

/**
 * Makes a Kysely of the database's dialect. `DB` says what its tables hold, as for every Kysely. It belongs to the database
 * whose `SqlClient` it is made with, for as long as that is open.
 *
 * Its queries run with `execute`, `executeTakeFirst` and `stream`. What Kysely itself would run is refused, since it could not
 * know the session: `query.execute()`, `db.transaction()`, `db.startTransaction()` and `db.introspection` reject with an
 * `InvalidStatement`. A transaction is a `Database.session`, or a nested one.
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
            "a query of this Kysely runs with Kysely.execute of sqlayer/Kysely, and a transaction with Database.session"
        }))
    }
    const executor = new Executor(sql.withoutTransforms(), dialect, provider, options.plugins ?? [])
    return new K.Kysely<DB>({ config: { dialect }, dialect, driver: dialect.createDriver(), executor })
  })

/** A query that Kysely has built, or has compiled. */
type Query<O> = K.Compilable<O> | K.CompiledQuery<O>

const compile = <O>(query: Query<O>): { readonly compiled: K.CompiledQuery<O>; readonly executor: Executor } => {
  const compiled = "compile" in query ? query.compile() : query
  const executor = executors.get(compiled)
  if (executor === undefined) {
    throw new Error("the query is of a Kysely that was not made by Kysely.make of sqlayer/Kysely")
  }
  return { compiled, executor }
}

/** What statements without rows result in, by the database. */
interface RawResult {
  readonly rows?: Array<unknown>
  readonly rowCount?: number | null
  readonly changes?: number | bigint
  readonly lastInsertRowid?: number | bigint
}

/** What Kysely's own drivers make of a result. */
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

/** The rows of a query, or what it has changed if it returns none. */
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
 * Runs a query of a Kysely that `make` has made, in the session of the current fiber or, outside of one, on a connection of
 * its own. Succeeds with what Kysely's own `execute` would: the rows, or an `InsertResult`, `UpdateResult`, `DeleteResult` or
 * `MergeResult` if the query returns none.
 *
 * Values are sent and read as those of other statements of sqlayer. A statement's failure is a `SqlError` whose cause is the
 * DatabaseError, which `Database.session` turns into the typed error. A query of another Kysely is a defect, and so is what a
 * plugin throws.
 *
 * A `sql` text of Kysely is compiled first: `` Kysely.execute(sql<{ n: number }>`SELECT 1 AS n`.compile(db)) ``.
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
 * Streams the rows of a query, in batches from the server, as the streams of other statements: it belongs to the session in
 * which it is run. A query of another Kysely, and a query that cannot be compiled, is thrown.
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
