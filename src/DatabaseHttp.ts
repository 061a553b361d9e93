/**
 * The database in an HTTP server of @effect/platform: a session for each request, health checks, metrics, a dashboard,
 * and responses to database errors.
 *
 * @since 0.1.0
 */
import type * as HttpApi from "@effect/platform/HttpApi"
import type * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import type * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import type * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import type * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Database } from "./Database.js"
import type * as DatabaseError from "./DatabaseError.js"
import * as Causality from "./internal/databaseHttp/causality.js"
import type { DashboardOptions } from "./internal/databaseHttp/dashboard.js"
import * as Handlers from "./internal/databaseHttp/handlers.js"
import * as Health from "./internal/databaseHttp/health.js"
import * as Metrics from "./internal/databaseHttp/metrics.js"
import * as Problems from "./internal/databaseHttp/problem.js"
import * as RequestSession from "./internal/databaseHttp/session.js"
import type * as Session from "./Session.js"

/**
 * Options of the session of a request: those of `Session.Options` except `propagation` and `retry`. A request cannot be
 * run again, since its body can be read only once; a client that receives status 503 with Retry-After may repeat it.
 *
 * - `readOnly`: default true for GET and HEAD, otherwise false.
 * - `name`: default the method and the route's path, such as `GET /accounts/:id`.
 * - `bodyLimit`: maximum size in bytes of a streamed response body. Default: 4 MiB (4,194,304).
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RequestSession.Options {}

export {
  /**
   * A response that cannot be completed inside the session of its request: a web socket, an event stream, or a streamed
   * body larger than `bodyLimit`. The session is rolled back, and the response has status 500. `reason` says which it
   * is.
   *
   * @since 0.1.0
   * @category errors
   */
  EndlessResponse,
  /**
   * The error that a client of an HttpApi gets for a database error: the RFC 9457 problem document of the response.
   *
   * @since 0.1.0
   * @category errors
   */
  Problem
} from "./internal/databaseHttp/problem.js"

export type {
  /**
   * Who may see the dashboard, and whether it shows the plans of statements.
   *
   * @since 0.1.0
   * @category dashboard
   */
  DashboardOptions
} from "./internal/databaseHttp/dashboard.js"

/**
 * A page that shows what the database is doing, updated every second. Returns an app, to be mounted in an HttpRouter at
 * any path. While the scope is open, a fiber takes a sample every second and keeps those of the last five minutes.
 * Never fails.
 *
 * Only while a page is open, the database is queried for locks, its own statistics and the migrations, on an idle
 * connection of the pool or on a separate one. The page shows pending migrations if `Migrations` is in the context.
 *
 * The page, its script and its data have the same path and differ only in the query, so the page works wherever it is
 * mounted. Do not wrap it in `middleware`, which would run each of its requests in a session.
 *
 * @since 0.1.0
 * @category dashboard
 */
export const dashboard = <E, R>(
  options: DashboardOptions<E, R>
): Effect.Effect<HttpApp.Default<never, R>, never, Database | Scope.Scope> =>
  Effect.flatMap(
    Effect.promise(() => import("./internal/databaseHttp/dashboard.js")),
    ({ dashboard }) => dashboard(options)
  )

export {
  /**
   * A package that `metricsRoute` needs is not installed. `message` names all of them, `reason` is Node's error.
   *
   * @since 0.1.0
   * @category errors
   */
  ExporterMissing
} from "./internal/databaseHttp/metrics.js"

/**
 * Runs each request in a session, for a route, a router or a whole application. The session takes its connection with
 * the handler's first statement, so a request without statements needs no connection, and a request whose body arrives
 * slowly holds none meanwhile.
 *
 * The session is committed if the handler succeeds with a status below 400. It is rolled back if the handler fails,
 * dies or responds with a status of 400 or above, or if the client disconnects before the commit begins. The response
 * is sent after the commit, so a commit that fails is an error like any other. A streamed body is read to its end
 * inside the session.
 *
 * Adds the errors of sessions, DatabaseError, and EndlessResponse; SqlError becomes DatabaseError.
 *
 * The options can be a function that makes an effect of each request. The effect runs before the session, for example
 * to find out who the user is. If it fails, the request fails:
 *
 * ```ts
 * import { HttpServerResponse } from "@effect/platform"
 * import { Effect } from "effect"
 * import { DatabaseHttp } from "sqlayer"
 *
 * const ofTenant = DatabaseHttp.middleware((request) =>
 *   Effect.succeed({ settings: { "app.tenant": request.headers["x-tenant"] ?? "" } })
 * )(Effect.succeed(HttpServerResponse.empty()))
 * ```
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
export const middleware: {
  <E2, R2>(
    options: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<Options, E2, R2>
  ): <A extends HttpServerRespondable.Respondable, E, R>(
    app: HttpApp.HttpApp<A, E, R>
  ) => HttpApp.Default<
    Exclude<E, SqlError> | E2 | DatabaseError.DatabaseError | Problems.EndlessResponse,
    Exclude<R, Session.Session> | R2 | Database
  >
  (options?: Options): <A extends HttpServerRespondable.Respondable, E, R>(
    app: HttpApp.HttpApp<A, E, R>
  ) => HttpApp.Default<
    Exclude<E, SqlError> | DatabaseError.DatabaseError | Problems.EndlessResponse,
    Exclude<R, Session.Session> | Database
  >
} =
  <E2, R2>(options?: RequestSession.RequestOptions<E2, R2>) =>
  <A extends HttpServerRespondable.Respondable, E, R>(app: HttpApp.HttpApp<A, E, R>) =>
    RequestSession.inSession(
      Effect.flatMap(app, HttpServerRespondable.toResponse),
      (response) => Effect.succeed(response),
      options ?? {}
    )

/**
 * How `causality` carries a token.
 *
 * - `key`: the secret that signs the tokens, of at least 32 characters, the same on all instances. Without a signature,
 *   a client could make requests wait with a forged token.
 * - `cookie`: the cookie's name, or false for no cookie. Default: `sqlayer-token`. The cookie is HttpOnly, with
 *   SameSite=Lax.
 * - `header`: the header's name in requests and responses, or false for no header. Default: `x-sqlayer-token`. In a
 *   request, a valid header takes precedence over the cookie.
 * - `secure`: whether the cookie is sent by HTTPS only. Default: true.
 * - `maxAge`: how long the browser keeps the cookie. Default: 1 hour.
 *
 * @since 0.1.0
 * @category causality
 */
export interface CausalityOptions extends Causality.CausalityOptions {}

/**
 * Makes users see their own writes, on whichever instance and reader their next request runs. The response carries the
 * token of the user's last commit (`Database.token`), signed, in a cookie and a header. The client sends it with the
 * next request, which runs inside `Database.after`. A token with an invalid signature is ignored. A request does not
 * wait for the writes of other users, since each request runs inside `Database.causal`.
 *
 * Apply it after `middleware` and `problems`, so that it wraps them. Throws if the key has fewer than 32 characters.
 *
 * ```ts
 * import { HttpRouter } from "@effect/platform"
 * import { Redacted } from "effect"
 * import { DatabaseHttp } from "sqlayer"
 *
 * const app = HttpRouter.empty.pipe(
 *   HttpRouter.use(DatabaseHttp.middleware()),
 *   HttpRouter.use(DatabaseHttp.problems),
 *   DatabaseHttp.causality({ key: Redacted.make("a secret of at least 32 characters") })
 * )
 * ```
 *
 * @since 0.1.0
 * @category causality
 */
export const causality: (
  options: CausalityOptions
) => <E, R>(app: HttpApp.Default<E, R>) => HttpApp.Default<E, R | Database> = Causality.causality

/**
 * Runs each request to a group of an HttpApi in a session. It applies to the handlers that were added before it and
 * have no session yet. The request is read and decoded before the session, and the response is encoded before the
 * commit. Options that are a function of the request can use what the group's middleware provides, and fail with the
 * errors of the group.
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
export const sessions: {
  <E2, R2>(
    options: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<Options, E2, R2>
  ): <E, Provides, R, Endpoints extends HttpApiEndpoint.HttpApiEndpoint.Any>(
    handlers: HttpApiBuilder.Handlers<E, Provides, R, Endpoints> & ([E2] extends [E] ? unknown : never)
  ) => HttpApiBuilder.Handlers<
    E,
    Provides,
    Exclude<R, Session.Session> | Exclude<R2, Provides | HttpRouter.HttpRouter.Provided> | Database,
    Endpoints
  >
  (options?: Options): <E, Provides, R, Endpoints extends HttpApiEndpoint.HttpApiEndpoint.Any>(
    handlers: HttpApiBuilder.Handlers<E, Provides, R, Endpoints>
  ) => HttpApiBuilder.Handlers<E, Provides, Exclude<R, Session.Session> | Database, Endpoints>
} = <E2, R2>(options?: RequestSession.RequestOptions<E2, R2>) => Handlers.withSessions(options ?? {})

/**
 * The response to a database error: a status, and an RFC 9457 problem document. The document consists of fixed texts:
 * it never has a statement, a value, a code, or the name of a table or a constraint.
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
 * Turns database errors of an application into the responses of `toResponse`. Other errors are not changed. Use it on a
 * route, a router or an application. As the middleware of an HttpApi it adds Retry-After to the responses of `errors`.
 *
 * @since 0.1.0
 * @category errors
 */
export const problems: <E, R>(
  app: HttpApp.Default<E, R>
) => HttpApp.Default<Exclude<E, DatabaseError.DatabaseError | SqlError>, R> = Problems.problems

/**
 * The database errors of an endpoint, a group or an HttpApi, for its `addError`. A handler may then fail with any
 * DatabaseError or SqlError, and the response is that of `toResponse`. The problem documents are part of the OpenAPI
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
 * The body of a readiness check.
 *
 * - `status`: `ready` if the database is healthy, no migration is pending, edited, missing or unfinished, and no server
 *   of `layerServer` is stopping; otherwise `unavailable`.
 * - `stopping`: true while such a server is stopping.
 * - `database`: its health, without secrets: whether it answers, the latency in milliseconds, the server's version and
 *   role, the pool's stats, and the last error.
 * - `migrations`: how many are applied, which are pending, and which are edited, missing or unfinished; absent if the
 *   application does not provide Migrations. `error` says why the status is not known, if it is not.
 *
 * @since 0.1.0
 * @category health
 */
export const Readiness = Health.Readiness

/**
 * The body of a readiness check.
 *
 * @since 0.1.0
 * @category health
 */
export type Readiness = Health.Readiness

/**
 * Whether the application can serve requests: the database answers and, if the context has Migrations, none is pending,
 * edited, missing or unfinished. Never fails, and takes at most `healthTimeout`, whatever the load of the pool: where
 * no connection is idle, it opens its own. If the status of the migrations cannot be read, the last known one counts;
 * once all are applied it is not read again.
 *
 * @since 0.1.0
 * @category health
 */
export const readiness: Effect.Effect<Readiness, never, Database> = Health.readinessWith({})

/**
 * What a readiness check demands.
 *
 * @since 0.1.0
 * @category health
 */
export interface ReadinessOptions {
  /**
   * Whether the answer of a standby is enough, so that an application that only reads stays in service while there is
   * no primary. Default: false.
   */
  readonly readers?: boolean | undefined
}

/**
 * The same as `readiness` with options.
 *
 * @since 0.1.0
 * @category health
 */
export const readinessWith: (options: ReadinessOptions) => Effect.Effect<Readiness, never, Database> =
  Health.readinessWith

/**
 * The health checks as a group of an HttpApi, which `healthLayer` implements.
 *
 * - `GET /health/live`: 200 as long as the process responds. It does not use the database.
 * - `GET /health/ready`: 200 or 503, with the Readiness.
 * - `GET /health/startup`: the same until the database was ready once, and 200 from then on.
 *
 * @since 0.1.0
 * @category health
 */
export const HealthApi = Health.HealthApi

/**
 * Implements the group HealthApi of an HttpApi. `options` are those of the readiness check.
 *
 * @since 0.1.0
 * @category health
 */
export const healthLayer = <ApiId extends string, Groups extends HttpApiGroup.HttpApiGroup.Any, E, R>(
  api:
    & HttpApi.HttpApi<ApiId, Groups, E, R>
    & ("health" extends HttpApiGroup.HttpApiGroup.Name<Groups> ? unknown : never),
  options: ReadinessOptions = {}
): Layer.Layer<HttpApiGroup.ApiGroup<ApiId, "health">, never, Database> =>
  Layer.unwrapEffect(Effect.map(
    Effect.promise(() => import("@effect/platform/HttpApiBuilder")),
    ({ group }) =>
      group(
        api as unknown as HttpApi.HttpApi<ApiId, typeof HealthApi, never, never>,
        "health",
        (handlers) =>
          handlers
            .handle("live", () => Health.live)
            .handle("ready", () => Health.ready(options))
            .handle("startup", () => Health.startup(options))
      )
  ))

/**
 * Makes the routes of `healthRoutes` with options.
 *
 * @since 0.1.0
 * @category health
 */
export const healthRoutesWith = (options: ReadinessOptions): HttpRouter.HttpRouter<never, Database> =>
  HttpRouter.empty.pipe(
    HttpRouter.get("/health/live", Health.live),
    HttpRouter.get("/health/ready", Health.ready(options)),
    HttpRouter.get("/health/startup", Health.startup(options))
  )

/**
 * The health checks as a router, to be concatenated or mounted: `GET /health/live`, `/health/ready` and
 * `/health/startup`, as in HealthApi.
 *
 * @since 0.1.0
 * @category health
 */
export const healthRoutes: HttpRouter.HttpRouter<never, Database> = healthRoutesWith({})

/**
 * What `layerServer` needs of a server of `node:http` or `node:https`.
 *
 * @since 0.1.0
 * @category shutdown
 */
export interface NodeServer {
  /** Whether it listens for connections. */
  readonly listening: boolean
  /** The address that it is bound to. */
  readonly address: () => unknown
  /** Adds a listener that is called before those that are already there. */
  readonly prependListener: (event: string, listener: (...args: Array<unknown>) => void) => unknown
}

/**
 * How a server of `layerServer` stops.
 *
 * @since 0.1.0
 * @category shutdown
 */
export interface ShutdownOptions {
  /**
   * How long the readiness check responds with 503 while the server still accepts connections. The load balancer has to
   * notice within this time: it takes the interval of its checks times the number of failures that it requires.
   * Default: 5 seconds in production, otherwise 0.
   */
  readonly shutdownDelay?: Duration.DurationInput | undefined
  /**
   * How long requests may run after the server has stopped accepting connections. Then they are interrupted. Default:
   * 20 seconds.
   */
  readonly shutdownTimeout?: Duration.DurationInput | undefined
}

/**
 * A Node HTTP server that stops gracefully when its scope closes, as it does on SIGTERM and SIGINT in a program that
 * `NodeRuntime.runMain` runs. `evaluate` creates the server, and `layer` makes the platform's layer of it; provide the
 * result in place of that layer.
 *
 * ```ts
 * import { HttpRouter, HttpServer } from "@effect/platform"
 * import { NodeHttpServer } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import { createServer } from "node:http"
 * import { Database, DatabaseHttp } from "sqlayer"
 *
 * const ServerLive = DatabaseHttp.layerServer(
 *   () => createServer(),
 *   (server) => NodeHttpServer.layer(server, { port: 3000 })
 * )
 *
 * const Main = HttpServer.serve(HttpRouter.concat(HttpRouter.empty, DatabaseHttp.healthRoutes)).pipe(
 *   Layer.provide(ServerLive),
 *   Layer.provide(Database.layer)
 * )
 * ```
 *
 * When the scope closes
 *
 * 1. the readiness checks of the database respond with 503, and for `shutdownDelay` everything else works as before;
 * 2. the server stops accepting connections. The requests that run, and those that still arrive over open connections,
 *    are answered with `Connection: close`. A connection that stays idle for a second is closed;
 * 3. after `shutdownTimeout` the requests that still run are interrupted, which rolls their sessions back, and answered
 *    with 503; responses that have begun are cut off. Streamed responses and web sockets count as running requests.
 *    Requests that cannot be interrupted get one more second. Then all connections are closed;
 * 4. the application's layers are released, and last the database, which is why the layer requires it.
 *
 * If a streamed body fails while the server runs, its connection is closed, so that the client notices that the body is
 * incomplete.
 *
 * @since 0.1.0
 * @category shutdown
 */
export const layerServer = <Server extends NodeServer, A, E, R>(
  evaluate: () => Server,
  layer: (evaluate: () => Server) => Layer.Layer<A | HttpServer.HttpServer, E, R>,
  options: ShutdownOptions = {}
): Layer.Layer<A | HttpServer.HttpServer, E, R | Database> =>
  Layer.unwrapEffect(Effect.map(
    Effect.promise(() => import("./internal/databaseHttp/shutdown.js")),
    ({ layerServer }) => layerServer(evaluate, layer, options)
  ))

/**
 * Makes a route that responds with the application's metrics in Prometheus' text format. `path` is its path; default:
 * `/metrics`.
 *
 * It needs the packages `@effect/opentelemetry`, `@opentelemetry/exporter-prometheus`, `@opentelemetry/resources` and
 * `@opentelemetry/sdk-metrics`, which are loaded when it is made. Fails with ExporterMissing if one is not installed.
 *
 * @since 0.1.0
 * @category metrics
 */
export const metricsRoute = (options?: {
  readonly path?: HttpRouter.PathInput | undefined
}): Effect.Effect<HttpRouter.Route<never, never>, Metrics.ExporterMissing> =>
  Effect.map(Metrics.make, (response) => HttpRouter.makeRoute("GET", options?.path ?? "/metrics", response))
