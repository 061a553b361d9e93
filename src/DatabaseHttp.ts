/**
 * The database behind an HTTP server of @effect/platform: one session a request, what probes and Prometheus ask for, and
 * errors of the database as answers.
 *
 * @since 0.1.0
 */
import type * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import type * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import type * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type { Database } from "./Database.js"
import type * as DatabaseError from "./DatabaseError.js"
import * as Handlers from "./internal/databaseHttp/handlers.js"
import * as Health from "./internal/databaseHttp/health.js"
import * as Metrics from "./internal/databaseHttp/metrics.js"
import * as Problems from "./internal/databaseHttp/problem.js"
import * as RequestSession from "./internal/databaseHttp/session.js"
import type * as Session from "./Session.js"

/**
 * What the session of a request may be asked for: what any session may, but `retry`, since a request's body can be read
 * only once. A client that is answered 503 with Retry-After may try again.
 *
 * - `readOnly` is true for GET and HEAD, and false otherwise, unless told.
 * - `name` is the method and the route's path, unless told.
 * - `bodyLimit` is how many bytes a streamed response body may have: 4 MiB unless told.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RequestSession.Options {}

export {
  /**
   * A response that cannot be finished inside of its request's session: a web socket, an event stream, or a streamed
   * body that is larger than `bodyLimit`. The request is rolled back and answered with status 500; `reason` says which of
   * them it was.
   *
   * @since 0.1.0
   * @category errors
   */
  EndlessResponse,
  /**
   * What the client of an HttpApi gets for an error of the database: the problem document that the server answered with.
   *
   * @since 0.1.0
   * @category errors
   */
  Problem
} from "./internal/databaseHttp/problem.js"

export {
  /**
   * A page that shows live what the database is doing, behind a guard that the application gives.
   *
   * @since 0.1.0
   * @category dashboard
   */
  dashboard,
  /**
   * Who may see the dashboard.
   *
   * @since 0.1.0
   * @category dashboard
   */
  type DashboardOptions
} from "./internal/databaseHttp/dashboard.js"

export {
  /**
   * A package that `metricsRoute` needs is not installed. The message names them all.
   *
   * @since 0.1.0
   * @category errors
   */
  ExporterMissing
} from "./internal/databaseHttp/metrics.js"

/**
 * One session a request, for a route, a router or a whole application. It is committed when the handler succeeds with a
 * status below 400, and rolled back when it fails, dies, answers with a status of 400 and above, or when the client goes
 * away before. The response is handed on only when the commit is known to have happened: a commit that fails is a failure
 * like any other. A streamed body is read to its end inside of the session.
 *
 * ```ts
 * import { HttpRouter, HttpServerResponse } from "@effect/platform"
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { DatabaseHttp } from "sqlayer"
 *
 * const accounts = HttpRouter.empty.pipe(
 *   HttpRouter.post(
 *     "/accounts",
 *     Effect.gen(function*() {
 *       const sql = yield* SqlClient.SqlClient
 *       yield* sql`INSERT INTO account (owner) VALUES ('alice')`
 *       return HttpServerResponse.empty({ status: 201 })
 *     })
 *   ),
 *   HttpRouter.use(DatabaseHttp.middleware()),
 *   HttpRouter.use(DatabaseHttp.problems)
 * )
 * ```
 *
 * @since 0.1.0
 * @category sessions
 */
export const middleware = (options: Options = {}) =>
<A extends HttpServerRespondable.Respondable, E, R>(
  app: HttpApp.HttpApp<A, E, R>
): HttpApp.Default<
  Exclude<E, SqlError> | DatabaseError.DatabaseError | Problems.EndlessResponse,
  Exclude<R, Session.Session> | Database
> =>
  RequestSession.inSession(
    Effect.flatMap(app, HttpServerRespondable.toResponse),
    (response) => Effect.succeed(response),
    options
  )

/**
 * One session a request, for the handlers of an HttpApi's group that stand before it and have none yet. The session begins
 * when the request has been read and decoded, and its answer is encoded before the commit.
 *
 * ```ts
 * import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "@effect/platform"
 * import { SqlClient } from "@effect/sql"
 * import { Effect } from "effect"
 * import { DatabaseHttp } from "sqlayer"
 *
 * const accounts = HttpApiGroup.make("accounts")
 *   .add(HttpApiEndpoint.post("open", "/accounts"))
 *   .addError(DatabaseHttp.errors)
 *
 * const Api = HttpApi.make("bank").add(accounts)
 *
 * const AccountsLive = HttpApiBuilder.group(Api, "accounts", (handlers) =>
 *   handlers
 *     .handle("open", () =>
 *       Effect.gen(function*() {
 *         const sql = yield* SqlClient.SqlClient
 *         yield* sql`INSERT INTO account (owner) VALUES ('alice')`
 *       }))
 *     .pipe(DatabaseHttp.sessions()))
 * ```
 *
 * @since 0.1.0
 * @category sessions
 */
export const sessions: (options?: Options) => <
  E,
  Provides,
  R,
  Endpoints extends HttpApiEndpoint.HttpApiEndpoint.Any
>(
  handlers: HttpApiBuilder.Handlers<E, Provides, R, Endpoints>
) => HttpApiBuilder.Handlers<E, Provides, Exclude<R, Session.Session> | Database, Endpoints> = (options = {}) =>
  Handlers.withSessions(options)

/**
 * The answer to an error of the database: its status and an RFC 9457 problem document. The document is made of fixed texts
 * alone: no statement, no value, no code and no name of a table or a constraint is in it.
 *
 * | error | status |
 * |---|---|
 * | UniqueViolation, ForeignKeyViolation, ExclusionViolation | 409 |
 * | NotNullViolation, CheckViolation, InvalidData | 422 |
 * | SerializationFailure, DeadlockDetected, LockTimeout, PoolTimeout, ConnectionFailed, ConnectionLost | 503 with Retry-After |
 * | StatementTimeout, SessionTimeout | 504 |
 * | all others | 500 |
 *
 * @since 0.1.0
 * @category errors
 */
export const toResponse: (error: DatabaseError.DatabaseError) => HttpServerResponse.HttpServerResponse =
  Problems.toResponse

/**
 * Answers what an application fails with because of the database, as `toResponse` does, and leaves all else alone. For a
 * route, a router or an application; for an HttpApi as its middleware, where it adds Retry-After to what `errors` says.
 *
 * @since 0.1.0
 * @category errors
 */
export const problems: <E, R>(
  app: HttpApp.Default<E, R>
) => HttpApp.Default<Exclude<E, DatabaseError.DatabaseError | SqlError>, R> = Problems.problems

/**
 * What an endpoint, a group or an HttpApi that uses the database can fail with, for its `addError`: a handler may then
 * fail with any DatabaseError or SqlError and is answered as `toResponse` says, the documents are part of the OpenAPI
 * description, and a client gets a `Problem`.
 *
 * @since 0.1.0
 * @category errors
 */
export const errors: Schema.Schema<
  DatabaseError.DatabaseError | SqlError | Problems.EndlessResponse | Problems.Problem,
  { readonly type: string; readonly title: string; readonly status: number; readonly detail: string }
> = Problems.errors

/**
 * What readiness says: the database's health without secrets, and the migrations where the application has them.
 *
 * @since 0.1.0
 * @category health
 */
export const Readiness = Health.Readiness

/**
 * What readiness says.
 *
 * @since 0.1.0
 * @category health
 */
export type Readiness = Health.Readiness

/**
 * Whether requests can be served: the database answers, and no migration is pending, edited or missing where the context
 * has Migrations.
 *
 * @since 0.1.0
 * @category health
 */
export const readiness: Effect.Effect<Readiness, never, Database> = Health.readiness

/**
 * The probes as a group of an HttpApi, which `healthLayer` implements:
 *
 * - `GET /health/live`: 200 as long as the process answers. The database is not asked.
 * - `GET /health/ready`: 200 or 503, with the reasons.
 * - `GET /health/startup`: the same until it was ready once, and 200 from then on.
 *
 * @since 0.1.0
 * @category health
 */
export const HealthApi = Health.HealthApi

/**
 * Implements the HealthApi of an HttpApi.
 *
 * @since 0.1.0
 * @category health
 */
export const healthLayer = <ApiId extends string, Groups extends HttpApiGroup.HttpApiGroup.Any, E, R>(
  api:
    & HttpApi.HttpApi<ApiId, Groups, E, R>
    & ("health" extends HttpApiGroup.HttpApiGroup.Name<Groups> ? unknown : never)
): Layer.Layer<HttpApiGroup.ApiGroup<ApiId, "health">, never, Database> =>
  HttpApiBuilder.group(
    api as unknown as HttpApi.HttpApi<ApiId, typeof HealthApi, never, never>,
    "health",
    (handlers) =>
      handlers
        .handle("live", () => Health.live)
        .handle("ready", () => Health.ready)
        .handle("startup", () => Health.startup)
  )

/**
 * The probes as a router, to be concatenated or mounted: `GET /health/live`, `/health/ready` and `/health/startup`, as
 * HealthApi describes them.
 *
 * @since 0.1.0
 * @category health
 */
export const healthRoutes: HttpRouter.HttpRouter<never, Database> = HttpRouter.empty.pipe(
  HttpRouter.get("/health/live", Health.live),
  HttpRouter.get("/health/ready", Health.ready),
  HttpRouter.get("/health/startup", Health.startup)
)

/**
 * Makes the route `GET /metrics` (unless told otherwise): the application's metrics in the text format of Prometheus, made
 * by the exporter of OpenTelemetry. It needs the packages `@effect/opentelemetry`, `@opentelemetry/exporter-prometheus`,
 * `@opentelemetry/resources` and `@opentelemetry/sdk-metrics`, and loads them when it is made.
 *
 * @since 0.1.0
 * @category metrics
 */
export const metricsRoute = (options?: {
  readonly path?: HttpRouter.PathInput | undefined
}): Effect.Effect<HttpRouter.Route<never, never>, Metrics.ExporterMissing> =>
  Effect.map(Metrics.make, (answer) => HttpRouter.makeRoute("GET", options?.path ?? "/metrics", answer))
