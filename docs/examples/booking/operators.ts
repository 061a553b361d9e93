/**
 * Metrics and the dashboard, for operators who know OPERATOR_PASSWORD. Without the variable there are neither.
 */
import { HttpApiBuilder, HttpRouter, HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { Config, Effect, Encoding, Option, Redacted } from "effect"
import { createHash, timingSafeEqual } from "node:crypto"
import { DatabaseHttp } from "sqlayer"

const digest = (text: string) => createHash("sha256").update(text).digest()

const unauthorized = HttpServerResponse.empty({
  status: 401,
  headers: { "www-authenticate": "Basic realm=\"operators\", charset=\"UTF-8\"" }
})

export const OperatorsLive = HttpApiBuilder.Router.use((router) =>
  Effect.gen(function*() {
    const password = yield* Config.option(Config.redacted("OPERATOR_PASSWORD"))
    if (Option.isNone(password)) {
      return
    }
    const expected = digest(`Basic ${Encoding.encodeBase64(`operator:${Redacted.value(password.value)}`)}`)
    const isOperator = Effect.map(
      HttpServerRequest.HttpServerRequest,
      ({ headers }) => timingSafeEqual(digest(headers.authorization ?? ""), expected)
    )
    const guard = Effect.map(isOperator, (allowed) => allowed || unauthorized)
    yield* router.mountApp("/operators/database", yield* DatabaseHttp.dashboard({ guard }))
    const metrics = HttpRouter.empty.pipe(
      HttpRouter.append(yield* DatabaseHttp.metricsRoute()),
      HttpRouter.use((handler) =>
        Effect.flatMap(isOperator, (allowed) => allowed ? handler : Effect.succeed(unauthorized))
      )
    )
    yield* router.mountApp("/operators", metrics)
  })
)
