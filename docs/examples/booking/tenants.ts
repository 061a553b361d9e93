/**
 * Tenants: who a request is from, and what its sessions may see.
 *
 * Each query filters by the tenant, on both databases. On PostgreSQL there is a second guard: the sessions of a request
 * run as a role to which row level security shows only the rows of the request's tenant.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Layer, Redacted } from "effect"
import { createHash, randomBytes, randomUUID } from "node:crypto"
import { Database, Session } from "sqlayer"
import { Authorization, CurrentTenant, NameTaken, Unauthorized } from "./api.js"

const hash = (token: string) => createHash("sha256").update(token).digest("hex")

/** Creates a tenant. Its token is returned only here: the database stores a hash. */
export const signUp = (name: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const id = randomUUID()
    const token = randomBytes(24).toString("base64url")
    yield* sql`INSERT INTO tenant ${sql.insert({ id, name, token_hash: hash(token) })}`
    yield* sql`INSERT INTO account ${sql.insert({ tenant: id, balance: 0 })}`
    return { id, token }
  }).pipe(
    Database.session({ name: "sign up" }),
    Effect.catchTag("UniqueViolation", () => new NameTaken({ name }))
  )

export const AuthorizationLive = Layer.effect(
  Authorization,
  Effect.map(SqlClient.SqlClient, (sql) =>
    Authorization.of({
      token: (token) =>
        Effect.gen(function*() {
          const rows = yield* sql<{ readonly id: string }>`
            SELECT id FROM tenant WHERE token_hash = ${hash(Redacted.value(token))}`
          return rows.length === 0 ? yield* new Unauthorized() : rows[0].id
        })
    }))
)

/** The options of the current tenant's sessions. SQLite has neither settings nor roles. */
export const guard = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const tenant = yield* CurrentTenant
  return sql.onDialectOrElse({
    pg: () => ({ settings: { "booking.tenant": tenant }, role: "booking_tenant" }),
    orElse: () => ({})
  })
})

/** Runs an effect whose sessions have these options. */
export const guarded = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(guard, (options) => Session.withDefaults(options)(effect))
