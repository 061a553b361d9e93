import * as HttpRouter from "@effect/platform/HttpRouter"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import { spawnSync } from "node:child_process"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import * as Dialects from "./support/dialects.js"
import { send, serve } from "./support/http.js"

const promtool = process.env.PROMTOOL ?? "promtool"
const installed = spawnSync(promtool, ["--version"]).status === 0
const ci = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false"

const used = Effect.gen(function*() {
  const { session, sql } = yield* Database.Database
  yield* session(sql`SELECT 1`)
  yield* Effect.ignore(session(sql`SELECT * FROM nowhere`))
})

const scraped = Effect.gen(function*() {
  const metrics = yield* DatabaseHttp.metricsRoute()
  const port = yield* serve(HttpRouter.append(HttpRouter.empty, metrics))
  return yield* send(port, "GET", "/metrics")
})

Dialects.forEachDialect((name, layer) =>
  describe(`the metrics route, ${name}`, () => {
    it.scopedLive("has the figures of the pool, the statements and the sessions", () =>
      Effect.gen(function*() {
        yield* used
        const { body, headers, status } = yield* scraped
        assert.strictEqual(status, 200)
        assert.strictEqual(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        assert.strictEqual(headers["cache-control"], "no-store")
        const { name: pool } = yield* Database.poolStats
        for (
          const figure of [
            `db_client_connections{`,
            `db_client_connection_max{`,
            `db_client_operation_duration_seconds_bucket{`,
            `db_client_connection_use_time_seconds_sum{`,
            `sqlayer_session_committed_total{`,
            `sqlayer_session_rolled_back_total{`
          ]
        ) {
          const lines = body.split("\n").filter((line) => line.startsWith(figure))
          assert.isTrue(lines.some((line) => line.includes(`pool_name="${pool}"`)), figure)
        }
        assert.match(body, /# TYPE db_client_connections gauge/)
        assert.match(body, /# TYPE db_client_operation_duration_seconds histogram/)
        assert.notMatch(body, /[{,](?:unit|time_unit)="/)
        // The table of a statement is a label, its text is not.
        assert.match(body, /db_collection_name="nowhere"/)
        assert.notMatch(body, /SELECT \*/)
      }).pipe(Effect.provide(layer)))

    it.scopedLive.skipIf(!installed && !ci)("satisfies promtool", () =>
      Effect.gen(function*() {
        yield* used
        // What an application may have of its own.
        yield* Metric.increment(Metric.counter("orders.count", { description: "Orders", incremental: true }))
        yield* Metric.set(Metric.gauge("queue.count", { description: "Waiting" }), 3)
        yield* Metric.update(
          Metric.histogram("handler.duration", MetricBoundaries.linear({ start: 0, width: 1, count: 3 }), "Seconds")
            .pipe(
              Metric.tagged("unit", "s")
            ),
          1
        )
        const { body } = yield* scraped
        assert.match(body, /^orders_total \d+$/m)
        assert.match(body, /^queues 3$/m)
        assert.match(body, /^handler_duration_seconds_count \d+$/m)
        const { error, status, stderr, stdout } = spawnSync(promtool, ["check", "metrics"], {
          input: body,
          encoding: "utf8"
        })
        assert.isUndefined(error, "promtool must be on the PATH, or named by PROMTOOL")
        assert.strictEqual(`${stdout}${stderr}`, "")
        assert.strictEqual(status, 0)
      }).pipe(Effect.provide(layer)))
  })
)

describe("the metrics route", () => {
  it.scopedLive("is where it is told to be", () =>
    Effect.gen(function*() {
      const metrics = yield* DatabaseHttp.metricsRoute({ path: "/ops/metrics" })
      const port = yield* serve(HttpRouter.append(HttpRouter.empty, metrics))
      assert.strictEqual((yield* send(port, "GET", "/ops/metrics")).status, 200)
      assert.strictEqual((yield* send(port, "GET", "/metrics")).status, 404)
    }))
})
