/**
 * Invoices of many tenants in one table, which row level security keeps apart. PostgreSQL only.
 */
import { HttpRouter, type HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { SqlClient } from "@effect/sql"
import { Array, Effect, Schema } from "effect"
import { Database, DatabaseError, DatabaseHttp, Migrations } from "sqlayer"

/** Run by the user that owns the tables, which is not the user `invoicing` that the application logs in as. */
export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_api_key": `
      CREATE TABLE api_key (hash bytea PRIMARY KEY, tenant text NOT NULL CHECK (tenant <> ''));
      GRANT SELECT ON api_key TO invoicing`,
    "0002_create_invoice": `
      CREATE TABLE invoice (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant text NOT NULL DEFAULT current_setting('app.tenant') CHECK (tenant <> ''),
        cents integer NOT NULL
      );
      CREATE INDEX invoice_tenant ON invoice (tenant, id);
      ALTER TABLE invoice ENABLE ROW LEVEL SECURITY;
      CREATE POLICY tenants ON invoice USING (tenant = current_setting('app.tenant'));
      GRANT SELECT, INSERT, UPDATE, DELETE ON invoice TO invoicing_tenant`
  })
}

export class Unauthorized extends Schema.TaggedError<Unauthorized>()("Unauthorized", {}) {}

/** Asked outside of any session, as the user `invoicing`, which may read `api_key` and nothing else. */
const tenantOf = (request: HttpServerRequest.HttpServerRequest) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const key = request.headers["x-api-key"] ?? ""
    const rows = yield* sql<{ readonly tenant: string }>`
      SELECT tenant FROM api_key WHERE hash = sha256(convert_to(${key}, 'UTF8'))`
    return yield* Effect.mapError(Array.head(rows), () => new Unauthorized())
  }).pipe(DatabaseError.typed)

/** The options of a tenant's sessions: the only place that names the setting and the role. */
export const sessionOf = (tenant: string) => ({ settings: { "app.tenant": tenant }, role: "invoicing_tenant" })

/** The statements name no tenant. */
export const invoices = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => sql<{ readonly id: number; readonly cents: number }>`SELECT id, cents FROM invoice ORDER BY id`
)

export const bill = (cents: number) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO invoice ${sql.insert({ cents })}`)

/** The same outside of HTTP, for a job of one tenant. */
export const billing = (tenant: string, cents: number) => bill(cents).pipe(Database.session(sessionOf(tenant)))

export const app = HttpRouter.empty.pipe(
  HttpRouter.get("/invoices", Effect.flatMap(invoices, HttpServerResponse.json)),
  HttpRouter.post(
    "/invoices/:cents",
    Effect.gen(function*() {
      const { cents } = yield* HttpRouter.schemaPathParams(Schema.Struct({ cents: Schema.NumberFromString }))
      yield* bill(cents)
      return HttpServerResponse.empty({ status: 201 })
    })
  ),
  HttpRouter.use(
    DatabaseHttp.middleware((request) => Effect.map(tenantOf(request), ({ tenant }) => sessionOf(tenant)))
  ),
  HttpRouter.catchTag("Unauthorized", () => HttpServerResponse.empty({ status: 401 })),
  HttpRouter.use(DatabaseHttp.problems)
)
