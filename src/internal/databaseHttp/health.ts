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
import { Dialect, isConnectionError, PoolFigures } from "../../DatabaseError.js"
import type * as Health from "../../Health.js"
import * as Migrations from "../../Migrations.js"
import { openDatabases } from "../database/opened.js"
import { shareConcurrent } from "../health/probe.js"

const Migration = Schema.Struct({ id: Schema.Int, name: Schema.String })

/** See DatabaseHttp.Readiness. */
export const Readiness = Schema.Struct({
  status: Schema.Literal("ready", "unavailable"),
  stopping: Schema.optional(Schema.Boolean),
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

type StatusError = Effect.Effect.Error<Migrations.Service["status"]>

/** What is known of the migrations of an application. */
interface Known {
  /** The last status that was read. It is used while none can be read. */
  last: MigrationsPart | undefined
  /** Reads the status. */
  readonly read: Effect.Effect<MigrationsPart>
}

const unknownStatus = ({ _tag, message }: StatusError): MigrationsPart => ({
  applied: 0,
  pending: [],
  problems: [],
  error: `the status of the migrations is not known: ${_tag}: ${message}`
})

const isComplete = ({ error, pending, problems }: MigrationsPart): boolean =>
  error === undefined && pending.length === 0 && problems.length === 0

/** Whether an error says nothing about the tables of the migrations. */
const isUnavailable = (error: StatusError): boolean =>
  error._tag !== "MigrationError" && (error._tag === "PoolTimeout" || isConnectionError(error))

/** Reads the status within the timeout of health checks, whatever the load of the pool. */
const makeKnown = (database: Database.Service, { status }: Migrations.Service): Known => {
  const read = (openDatabases.get(database.sql)?.probe(status) ?? status).pipe(
    Effect.map(({ applied, pending, problems }): MigrationsPart => ({
      applied: applied.length,
      pending: pending.map(({ id, name }) => ({ id, name })),
      problems: problems.map(({ id, name, problem }) => ({ id, name, problem }))
    })),
    Effect.tap((status) =>
      Effect.sync(() => {
        known.last = status
      })
    ),
    Effect.catchAll((error) =>
      Effect.sync(() => (isUnavailable(error) ? known.last : undefined) ?? unknownStatus(error))
    )
  )
  const known: Known = { last: undefined, read: shareConcurrent(read) }
  return known
}

const knownMigrations = new WeakMap<Migrations.Service, Known>()

/**
 * Once all migrations are applied, the status is not read again. A migration that is taken back later is not noticed.
 */
const migrationsPart = (database: Database.Service, migrations: Migrations.Service): Effect.Effect<MigrationsPart> =>
  Effect.suspend(() => {
    const known = knownMigrations.get(migrations) ?? makeKnown(database, migrations)
    knownMigrations.set(migrations, known)
    return known.last !== undefined && isComplete(known.last) ? Effect.succeed(known.last) : known.read
  })

/** See DatabaseHttp.ReadinessOptions. */
export interface ReadinessOptions {
  readonly readers?: boolean | undefined
}

/** How many servers of each database are shutting down. */
const leaving = new WeakMap<Database.Service, number>()

/** Runs the shutdown of a server, during which its database is not ready. */
export const leaveService = <A, E, R>(
  database: Database.Service,
  shutdown: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const add = (servers: number) => Effect.sync(() => leaving.set(database, (leaving.get(database) ?? 0) + servers))
  return Effect.acquireUseRelease(add(1), () => shutdown, () => add(-1))
}

const hasReader = ({ servers }: Health.Report): boolean =>
  servers.some(({ role, state }) => role === "standby" && state === "up")

/** See DatabaseHttp.readinessWith. */
export const readinessWith = (
  { readers = false }: ReadinessOptions
): Effect.Effect<Readiness, never, Database.Database> =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    const migrations = Option.getOrUndefined(yield* Effect.serviceOption(Migrations.Migrations))
    const reportFiber = yield* Effect.fork(database.report)
    const status = migrations === undefined ? undefined : yield* migrationsPart(database, migrations)
    const report = yield* Fiber.join(reportFiber)
    const isMigrated = status === undefined || isComplete(status)
    const stopping = (leaving.get(database) ?? 0) > 0
    const isReady = (report.healthy || (readers && hasReader(report))) && isMigrated && !stopping
    return {
      status: isReady ? "ready" : "unavailable",
      ...(stopping ? { stopping } : {}),
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

type Response = Effect.Effect<HttpServerResponse.HttpServerResponse, never, Database.Database>

export const ready = (options: ReadinessOptions): Response => Effect.map(readinessWith(options), respond)

/** The databases that were ready once. */
const started = new WeakSet<Database.Service>()

export const startup = (options: ReadinessOptions): Response =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    const current = yield* readinessWith(options)
    if (current.status === "ready") {
      started.add(database)
    }
    return respond({ ...current, status: started.has(database) ? "ready" : current.status })
  })
