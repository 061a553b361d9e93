/**
 * The dashboard: one address that answers with a page, and with what the page asks for.
 */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { readFile } from "node:fs/promises"
import * as Database from "../../Database.js"
import { icon, page } from "./dashboard/page.js"
import { style } from "./dashboard/style.js"
import { watch } from "./dashboard/watch.js"

/**
 * Who may see the dashboard.
 *
 * @since 0.1.0
 * @category models
 */
export interface DashboardOptions<E, R> {
  /**
   * Run for every request, be it for the page, its script or its figures, in the request's own context. True lets the
   * request in. False is answered with 403 and nothing else; a response is sent as it is, such as a 401 that asks for a
   * password, or a redirect. A guard that fails or dies lets nobody in.
   */
  readonly guard: Effect.Effect<boolean | HttpServerResponse.HttpServerResponse, E, R>
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

/** In the order of their imports. */
const modules = ["dom", "plot", "rows", "client"]

/** The modules of the page's script as one: they cannot name each other where they differ by their queries alone. */
const readScript = async (): Promise<string> => {
  const sources = await Promise.all(
    modules.map((name) => readFile(new URL(`./dashboard/browser/${name}.js`, import.meta.url), "utf8"))
  )
  return sources.join("\n").replace(/^(import|\/\/# sourceMappingURL=).*$/gm, "").replace(/^export /gm, "")
}

/** The response to a request that is not let in, else undefined. */
const refusal = <E, R>(
  { guard }: DashboardOptions<E, R>
): Effect.Effect<HttpServerResponse.HttpServerResponse | undefined, never, R> =>
  Effect.map(
    Effect.catchAllCause(
      guard,
      (cause) => Effect.as(Effect.logWarning("The guard of the dashboard failed, and lets nobody in", cause), false)
    ),
    (verdict) => HttpServerResponse.isServerResponse(verdict) ? verdict : verdict ? undefined : empty(403)
  )

/**
 * A page that shows live what the database is doing. Gives an app to be mounted in an HttpRouter, at a path of one's
 * choice; the last five minutes are kept, by a fiber that looks once a second, for as long as the scope is open. The
 * guard decides who may see it.
 *
 * Everything has the same address and differs by the query alone, so that the page need not know where it was mounted,
 * nor whether its path ends with a slash. It is not to be put into `middleware`, which would take a connection.
 *
 * @since 0.1.0
 * @category dashboard
 */
export const dashboard = <E, R>(
  options: DashboardOptions<E, R>
): Effect.Effect<HttpApp.Default<never, R>, never, Database.Database | Scope.Scope> =>
  Effect.gen(function*() {
    const answer = yield* watch(yield* Database.Database)
    const script = yield* Effect.promise(readScript)
    const shell = text(page, "text/html; charset=utf-8")
    const files = [
      { name: "script", response: text(script, "text/javascript; charset=utf-8") },
      { name: "style", response: text(style, "text/css; charset=utf-8") },
      { name: "icon", response: text(icon, "image/svg+xml") }
    ]

    const respond = (query: URLSearchParams): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
      const cursor = query.get("data")
      return cursor === null
        ? Effect.succeed(files.find(({ name }) => query.has(name))?.response ?? shell)
        // Once a second for each that looks on is nothing for the access log.
        : HttpMiddleware.withLoggerDisabled(
          Effect.map(answer(cursor), (data) => HttpServerResponse.unsafeJson(data, { headers }))
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
