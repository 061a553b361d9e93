/**
 * What `DatabaseHttp.middleware` adds to a session that a handler begins itself: counted, not timed.
 */
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Tracer from "effect/Tracer"
import * as Database from "../../src/Database.js"
import * as DatabaseHttp from "../../src/DatabaseHttp.js"

/** The steps that the fiber of one request takes. */
const stepsOf = <E>(app: HttpApp.Default<E, Database.Database>) =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<Database.Database>()
    let steps = 0
    const tracer = Tracer.make({
      span: () => {
        throw new Error("tracing is disabled")
      },
      context: (f) => {
        steps++
        return f()
      }
    })
    const handler = HttpApp.toWebHandlerRuntime(runtime)(
      app.pipe(Effect.withTracerEnabled(false), Effect.withTracer(tracer))
    )
    const send = Effect.promise(() => handler(new Request("http://localhost/accounts")))
    yield* send
    steps = 0
    assert.strictEqual((yield* send).status, 204)
    return steps
  })

it.scopedLive("the middleware of a request adds few steps to those of its session", () =>
  Effect.gen(function*() {
    const database = yield* Database.make({ url: ":memory:", environment: "test" })
    const response = HttpServerResponse.empty()
    const routed = <E, R>(handler: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
      HttpRouter.empty.pipe(HttpRouter.get("/accounts", handler))
    const byHand = routed(Effect.as(Database.session(Effect.void), response))
    const inMiddleware = routed(Effect.succeed(response)).pipe(HttpRouter.use(DatabaseHttp.middleware()))
    const steps = Effect.provideService(Database.Database, database)
    const added = (yield* steps(stepsOf(inMiddleware))) - (yield* steps(stepsOf(byHand)))
    assert.isAtMost(added, 10)
  }))
