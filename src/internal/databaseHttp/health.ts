/**
 * The responses to health checks.
 */
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Database from "../../Database.js"
import { Dialect, PoolFigures } from "../../DatabaseError.js"
import type * as Health from "../../Health.js"
import * as Migrations from "../../Migrations.js"

const Migration = Schema.Struct({ id: Schema.Int, name: Schema.String })

/** See DatabaseHttp.Readiness. */
export const Readiness = Schema.Struct({
  status: Schema.Literal("ready", "unavailable"),
  database: Schema.Struct({
    healthy: Schema.Boolean,
    dialect: Dialect,
    latencyMillis: Schema.Number,
    version: Schema.optional(Schema.String),
    role: Schema.optional(Schema.Literal("primary", "standby", "embedded")),
    pool: PoolFigures,
    lastError: Schema.optional(Schema.Struct({ tag: Schema.String, message: Schema.String }))
  }),
  migrations: Schema.optional(Schema.Struct({
    applied: Schema.Int,
    pending: Schema.Array(Migration),
    problems: Schema.Array(Schema.Struct({ ...Migration.fields, problem: Schema.String })),
    error: Schema.optional(Schema.String)
  }))
}).annotations({ identifier: "Readiness", description: "Whether requests can be served, and why not" })

export type Readiness = typeof Readiness.Type

const Liveness = Schema.Struct({ status: Schema.Literal("live") }).annotations({
  identifier: "Liveness",
  description: "The process answers"
})

/** See DatabaseHttp.HealthApi. */
export const HealthApi = HttpApiGroup.make("health")
  .add(HttpApiEndpoint.get("live", "/health/live").addSuccess(Liveness))
  .add(HttpApiEndpoint.get("ready", "/health/ready").addSuccess(Readiness).addError(Readiness, { status: 503 }))
  .add(HttpApiEndpoint.get("startup", "/health/startup").addSuccess(Readiness).addError(Readiness, { status: 503 }))

/** Maximum wait for the status of the migrations. Probes run every few seconds, and have a timeout of a few. */
const migrationsTimeout = "2 seconds"

const databasePart = (report: Health.Report): Readiness["database"] => {
  const { name, maximum, size, overflow, idle, used, waiting } = report.pool
  return {
    healthy: report.healthy,
    dialect: report.dialect,
    latencyMillis: Math.round(Duration.toMillis(report.latency)),
    version: report.version,
    role: report.role,
    pool: { name, maximum, size, overflow, idle, used, waiting },
    lastError: report.lastError === undefined
      ? undefined
      : { tag: report.lastError._tag, message: report.lastError.message }
  }
}

type MigrationsPart = NonNullable<Readiness["migrations"]>

/** The last status that was read. It is used while sessions hold all connections of the pool. */
const lastStatus = new WeakMap<Migrations.Service, MigrationsPart>()

const unknownStatus = (reason: string): MigrationsPart => ({
  applied: 0,
  pending: [],
  problems: [],
  error: `the status of the migrations is not known${reason}`
})

const migrationsPart = (migrations: Migrations.Service): Effect.Effect<MigrationsPart> =>
  migrations.status.pipe(
    Effect.map(({ applied, pending, problems }): MigrationsPart => ({
      applied: applied.length,
      pending: pending.map(({ id, name }) => ({ id, name })),
      problems: problems.map(({ id, name, problem }) => ({ id, name, problem }))
    })),
    Effect.tap((status) => Effect.sync(() => lastStatus.set(migrations, status))),
    Effect.disconnect,
    Effect.timeoutTo({
      duration: migrationsTimeout,
      onSuccess: (status) => status,
      onTimeout: () => lastStatus.get(migrations) ?? unknownStatus(` after ${migrationsTimeout}`)
    }),
    Effect.catchAll((error) =>
      Effect.sync(() =>
        (error._tag === "PoolTimeout" ? lastStatus.get(migrations) : undefined) ??
          unknownStatus(`: ${error._tag}: ${error.message}`)
      )
    )
  )

/** See DatabaseHttp.readiness. */
export const readiness: Effect.Effect<Readiness, never, Database.Database> = Effect.gen(function*() {
  const migrations = Option.getOrUndefined(yield* Effect.serviceOption(Migrations.Migrations))
  const reportFiber = yield* Effect.fork(Database.report)
  const status = migrations === undefined ? undefined : yield* migrationsPart(migrations)
  const report = yield* Fiber.join(reportFiber)
  const isMigrated = status === undefined ||
    (status.error === undefined && status.pending.length === 0 && status.problems.length === 0)
  return {
    status: report.healthy && isMigrated ? "ready" : "unavailable",
    database: databasePart(report),
    migrations: status
  }
})

const noStore = { headers: { "cache-control": "no-store" } }

export const live: Effect.Effect<HttpServerResponse.HttpServerResponse> = Effect.sync(() =>
  HttpServerResponse.unsafeJson({ status: "live" } satisfies typeof Liveness.Type, noStore)
)

const encode = Schema.encodeSync(Readiness)

const respond = (readiness: Readiness): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.unsafeJson(encode(readiness), { ...noStore, status: readiness.status === "ready" ? 200 : 503 })

export const ready: Effect.Effect<HttpServerResponse.HttpServerResponse, never, Database.Database> = Effect.map(
  readiness,
  respond
)

/** The databases that were ready once. */
const started = new WeakSet<Database.Service>()

export const startup: Effect.Effect<HttpServerResponse.HttpServerResponse, never, Database.Database> = Effect.gen(
  function*() {
    const database = yield* Database.Database
    const current = yield* readiness
    if (current.status === "ready") {
      started.add(database)
    }
    return respond({ ...current, status: started.has(database) ? "ready" : current.status })
  }
)
