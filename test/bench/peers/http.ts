/**
 * The HTTP servers of @effect/platform: over `pg`, over sqlayer and over @effect/sql-pg, with the same routes.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { createServer } from "node:http"
import Pg from "pg"
import * as Database from "../../../src/Database.js"
import * as DatabaseHttp from "../../../src/DatabaseHttp.js"
import type { Serve } from "../httpChild.js"

const Transfer = Schema.Struct({ from: Schema.Int, to: Schema.Int, amount: Schema.Int })
type Transfer = typeof Transfer.Type

const Account = Schema.Struct({ id: Schema.Int, owner: Schema.String, balance: Schema.Int })
type Account = typeof Account.Type

const Key = Schema.Struct({ id: Schema.NumberFromString })

/** What a route does with the database. */
interface Bank<E, R> {
  readonly transfer: (transfer: Transfer) => Effect.Effect<unknown, E, R>
  readonly account: (id: number) => Effect.Effect<ReadonlyArray<Account>, E, R>
}

const routes = <E, R>({ account, transfer }: Bank<E, R>) =>
  HttpRouter.empty.pipe(
    HttpRouter.post(
      "/transfers",
      Effect.flatMap(HttpServerRequest.schemaBodyJson(Transfer), (body) =>
        Effect.as(transfer(body), HttpServerResponse.empty({ status: 201 })))
    ),
    HttpRouter.get(
      "/accounts/:id",
      Effect.flatMap(HttpRouter.schemaPathParams(Key), ({ id }) =>
        Effect.map(account(id), ([row]) =>
          HttpServerResponse.unsafeJson(row)))
    )
  )

/** Serves an application until the process ends. It is ready to answer when its layers are built. */
const listen = async <E>(
  app: Layer.Layer<never, E, Layer.Layer.Success<ReturnType<typeof NodeHttpServer.layer>>>
): Promise<number> => {
  const server = createServer()
  const layer = Layer.provide(app, NodeHttpServer.layer(() => server, { port: 0, host: "127.0.0.1" }))
  await Effect.runPromise(Effect.flatMap(Scope.make(), (scope) => Layer.buildWithScope(layer, scope)))
  return (server.address() as { readonly port: number }).port
}

const serveRouter = <E, R, E2>(router: HttpRouter.HttpRouter<E, R>, layer: Layer.Layer<R, E2>): Promise<number> =>
  listen(Layer.provide(HttpServer.serve(router), layer) as Layer.Layer<never, E2, HttpServer.HttpServer>)

/** The statements by the client of @effect/sql. */
const statements: Bank<unknown, SqlClient.SqlClient> = {
  transfer: ({ amount, from, to }) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => {
      const [low, high] = from < to ? [from, to] : [to, from]
      return Effect.all([
        sql`SELECT balance FROM account WHERE id = ${low} FOR UPDATE`,
        sql`SELECT balance FROM account WHERE id = ${high} FOR UPDATE`,
        sql`UPDATE account SET balance = balance - ${amount} WHERE id = ${from}`,
        sql`UPDATE account SET balance = balance + ${amount} WHERE id = ${to}`,
        sql`INSERT INTO journal (account, amount, note) VALUES (${from}, ${amount}, ${"transfer"})`
      ], { discard: true })
    }),
  account: (id) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => sql<Account>`SELECT id, owner, balance FROM account WHERE id = ${id}`)
}

const sqlayer = ({ pool, url }: Parameters<Serve>[0]) => Database.layerFrom({ url, poolSize: pool, poolMaxOverflow: 0 })

export const router: Serve = (options) =>
  serveRouter(
    routes(statements).pipe(HttpRouter.use(DatabaseHttp.middleware()), HttpRouter.use(DatabaseHttp.problems)),
    sqlayer(options)
  )

const Api = HttpApi.make("bank").add(
  HttpApiGroup.make("accounts")
    .add(HttpApiEndpoint.post("transfer", "/transfers").setPayload(Transfer).addSuccess(Schema.Void, { status: 201 }))
    .add(HttpApiEndpoint.get("account", "/accounts/:id").setPath(Key).addSuccess(Account))
    .addError(DatabaseHttp.errors)
)

export const api: Serve = (options) => {
  const accounts = HttpApiBuilder.group(Api, "accounts", (handlers) =>
    handlers
      .handle("transfer", ({ payload }) => Effect.asVoid(Effect.orDie(statements.transfer(payload))))
      .handle("account", ({ path }) => Effect.map(Effect.orDie(statements.account(path.id)), ([row]) => row))
      .pipe(DatabaseHttp.sessions()))
  return listen(
    HttpApiBuilder.serve().pipe(
      Layer.provide(HttpApiBuilder.api(Api)),
      Layer.provide(accounts),
      Layer.provide(sqlayer(options))
    )
  )
}

export const stockRouter: Serve = ({ pool, url }) => {
  const inTransaction = <A>(effect: Effect.Effect<A, unknown, SqlClient.SqlClient>) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(effect))
  return serveRouter(
    routes<unknown, SqlClient.SqlClient>({
      transfer: (transfer) => inTransaction(statements.transfer(transfer)),
      account: (id) => inTransaction(statements.account(id))
    }),
    PgClient.layer({ url: Redacted.make(url), maxConnections: pool })
  )
}

/** A transaction by hand, which is rolled back if what it runs fails. */
const transactional =
  (pool: Pg.Pool) => async <A>(begin: string, run: (client: Pg.PoolClient) => Promise<A>): Promise<A> => {
    const client = await pool.connect()
    let failure: Error | undefined = undefined
    try {
      await client.query(begin)
      const result = await run(client)
      await client.query("COMMIT")
      return result
    } catch (error) {
      await client.query("ROLLBACK").catch((error: Error) => {
        failure = error
      })
      throw error
    } finally {
      client.release(failure)
    }
  }

/** The statements of the routes by hand. */
export const byHand = (pool: Pg.Pool) => {
  const inTransaction = transactional(pool)
  return {
    transfer: ({ amount, from, to }: Transfer): Promise<unknown> =>
      inTransaction("BEGIN", async (client) => {
        const [low, high] = from < to ? [from, to] : [to, from]
        await client.query("SELECT balance FROM account WHERE id = $1 FOR UPDATE", [low])
        await client.query("SELECT balance FROM account WHERE id = $1 FOR UPDATE", [high])
        await client.query("UPDATE account SET balance = balance - $1 WHERE id = $2", [amount, from])
        await client.query("UPDATE account SET balance = balance + $1 WHERE id = $2", [amount, to])
        await client.query("INSERT INTO journal (account, amount, note) VALUES ($1, $2, $3)", [
          from,
          amount,
          "transfer"
        ])
      }),
    account: (id: number): Promise<ReadonlyArray<Account>> =>
      inTransaction(
        "BEGIN READ ONLY",
        async (client) =>
          (await client.query<Account>("SELECT id, owner, balance FROM account WHERE id = $1", [id])).rows
      )
  }
}

export const pgRouter: Serve = ({ pool: max, url }) => {
  const { account, transfer } = byHand(new Pg.Pool({ connectionString: url, max }))
  return serveRouter(
    routes<unknown, never>({
      transfer: (body) => Effect.tryPromise(() => transfer(body)),
      account: (id) => Effect.tryPromise(() => account(id))
    }),
    Layer.empty
  )
}
