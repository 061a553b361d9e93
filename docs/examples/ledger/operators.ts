/**
 * Metrics for Prometheus, and a dashboard that is protected by OPERATOR_PASSWORD.
 */
import { HttpApiBuilder, HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { Config, Effect, Layer, Option, Redacted } from "effect"
import { createHash, timingSafeEqual } from "node:crypto"
import { DatabaseHttp } from "sqlayer"

const digest = (text: string) => createHash("sha256").update(text).digest()

/** Basic authentication. Comparing digests takes the same time for every wrong password. */
const basic = (password: Redacted.Redacted) => {
  const expected = digest(`Basic ${btoa(`operator:${Redacted.value(password)}`)}`)
  return Effect.map(
    HttpServerRequest.HttpServerRequest,
    ({ headers }) =>
      timingSafeEqual(digest(headers.authorization ?? ""), expected)
        ? true
        : HttpServerResponse.empty({ status: 401, headers: { "www-authenticate": "Basic realm=\"operators\"" } })
  )
}

const MetricsLive = HttpApiBuilder.Router.use((router) =>
  Effect.flatMap(DatabaseHttp.metricsRoute(), (metrics) => router.addRoute(metrics))
)

/** Mounts the dashboard if there is a password. */
const DashboardLive = HttpApiBuilder.Router.use((router) =>
  Effect.gen(function*() {
    const password = yield* Config.option(Config.redacted("OPERATOR_PASSWORD"))
    if (Option.isSome(password)) {
      const dashboard = yield* DatabaseHttp.dashboard({ guard: basic(password.value) })
      yield* router.mountApp("/admin/database", dashboard)
    }
  })
)

export const OperatorsLive = Layer.merge(MetricsLive, DashboardLive)
