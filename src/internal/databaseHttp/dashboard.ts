/**
 * The dashboard: one address that serves a page, and the data that the page fetches.
 */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Database from "../../Database.js"
import * as Migrations from "../../Migrations.js"
import { openDatabases } from "../database/opened.js"
import { icon, page } from "./dashboard/page.js"
import { makePlanner } from "./dashboard/plan.js"
import { script } from "./dashboard/script.js"
import { style } from "./dashboard/style.js"
import { watch } from "./dashboard/watch.js"

/**
 * Options of the dashboard.
 *
 * @since 0.1.0
 * @category models
 */
export interface DashboardOptions<E, R> {
  /**
   * Decides whether a request may see the dashboard. It runs for every request, whether for the page, its script or its
   * data, in the context of the request. True admits the request. False responds with status 403. A response is sent as it
   * is, such as a 401 that asks for a password, or a redirect. If the guard fails or dies, the status is 403 too.
   */
  readonly guard: Effect.Effect<boolean | HttpServerResponse.HttpServerResponse, E, R>
  /**
   * Whether the page offers the plan of each statement that it shows: EXPLAIN, without the statement's values and
   * without executing it, in a read-only transaction of at most a second that is rolled back. The browser never sends
   * the text. Needs SQLite, or PostgreSQL from 16 on: with an older one the page gets InvalidStatement. Default: false.
   */
  readonly explain?: boolean | undefined
}

const headers = {
  "cache-control": "no-store",
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'"
  ].join("; "),
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff"
}

const empty = (status: number, more?: Readonly<Record<string, string>>) =>
  HttpServerResponse.empty({ status, headers: { ...headers, ...more } })

const text = (body: string, contentType: string) => HttpServerResponse.text(body, { contentType, headers })

/** The response to a request that is not admitted, or undefined. */
const refusal = <E, R>(
  { guard }: DashboardOptions<E, R>
): Effect.Effect<HttpServerResponse.HttpServerResponse | undefined, never, R> =>
  Effect.map(
    Effect.catchAllCause(
      guard,
      (cause) => Effect.as(Effect.logWarning("The guard of the dashboard failed, so access is denied", cause), false)
    ),
    (result) => HttpServerResponse.isServerResponse(result) ? result : result ? undefined : empty(403)
  )

/** See DatabaseHttp.dashboard. */
export const dashboard = <E, R>(
  options: DashboardOptions<E, R>
): Effect.Effect<HttpApp.Default<never, R>, never, Database.Database | Scope.Scope> =>
  Effect.gen(function*() {
    const database = yield* Database.Database
    const open = openDatabases.get(database.sql)
    const plan = options.explain === true && open !== undefined ? makePlanner(database, open) : undefined
    const dataSince = yield* watch(database, {
      explains: plan !== undefined,
      migrations: Option.getOrUndefined(yield* Effect.serviceOption(Migrations.Migrations))
    })
    const html = text(page, "text/html; charset=utf-8")
    const files = [
      { name: "script", response: text(script, "text/javascript; charset=utf-8") },
      { name: "style", response: text(style, "text/css; charset=utf-8") },
      { name: "icon", response: text(icon, "image/svg+xml") }
    ]

    const respond = (query: URLSearchParams): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
      const statement = query.get("explain")
      if (statement !== null) {
        return plan === undefined
          ? Effect.succeed(empty(404))
          : Effect.map(plan(statement), (plan) => HttpServerResponse.unsafeJson(plan, { headers }))
      }
      const cursor = query.get("data")
      return cursor === null
        ? Effect.succeed(files.find(({ name }) => query.has(name))?.response ?? html)
        // One request a second for each open page would fill the access log.
        : HttpMiddleware.withLoggerDisabled(
          Effect.map(dataSince(cursor), (data) => HttpServerResponse.unsafeJson(data, { headers }))
        )
    }

    return Effect.gen(function*() {
      const refused = yield* refusal(options)
      if (refused !== undefined) {
        return refused
      }
      const request = yield* HttpServerRequest.HttpServerRequest
      if (request.method !== "GET" && request.method !== "HEAD") {
        return empty(405, { allow: "GET, HEAD" })
      }
      const [, query] = request.url.split("?", 2)
      return yield* respond(new URLSearchParams(query))
    })
  })
