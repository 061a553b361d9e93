/** What spans and metrics say of several servers. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricState from "effect/MetricState"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import * as Database from "../src/Database.js"
import type * as Session from "../src/Session.js"
import { eventually } from "./support/eventually.js"
import { cluster } from "./support/postgres.js"
import { collectingSpans } from "./support/spans.js"

/** The values of a metric, by the port and the role of the server. */
const valuesOf = (name: string, pool: string) =>
  Effect.map(Metric.snapshot, (pairs) =>
    new Map(pairs.flatMap(({ metricKey, metricState }) => {
      const labels = Object.fromEntries(metricKey.tags.map(({ key, value }) => [key, value]))
      return metricKey.name !== name || !labels["db.client.connection.pool.name"].startsWith(pool) ? [] : [[
        `${labels["server.port"]} ${labels["sqlayer.server.role"]}`,
        MetricState.isCounterState(metricState)
          ? Number(metricState.count)
          : MetricState.isHistogramState(metricState)
          ? metricState.count
          : (metricState as MetricState.MetricState.Gauge<number>).value
      ]]
    })))

describe("telemetry of a cluster", () => {
  it.scopedLive("names the server that ran each statement and session, its lag, and how long a failover took", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 1 })
      const [primary, [standby]] = [servers.primary(), servers.standbys()]
      const name = `cluster ${primary.port}`
      const database = yield* Database.make({
        url: servers.url,
        name,
        readers: "auto",
        readerWait: "30 seconds",
        readerMaxLag: "1 minute",
        hostRecheck: "100 millis",
        connectTimeout: "20 seconds"
      })
      const { sql } = database
      const ask = (options: Session.Options) => database.session(sql`SELECT 1`, options)
      const { spans } = yield* collectingSpans(Effect.all([
        ask({ name: "writing" }),
        ask({ name: "reading", readOnly: true, reader: "replica" }),
        Stream.runDrain(sql`SELECT 'streamed'`.stream),
        sql`SELECT 'alone'`
      ]))
      const attributesOf = (span: Tracer.Span | undefined) =>
        ["server.address", "server.port", "sqlayer.server.role"].map((key) => span?.attributes.get(key))
      const onPrimary = ["127.0.0.1", primary.port, "writer"]
      const onStandby = ["127.0.0.1", standby.port, "standby"]
      const session = (name: string) => spans.find(({ attributes }) => attributes.get("sqlayer.session.name") === name)
      const statement = (text: string) => spans.find(({ attributes }) => attributes.get("db.query.text") === text)
      assert.deepStrictEqual(attributesOf(session("writing")), onPrimary)
      assert.deepStrictEqual(attributesOf(session("reading")), onStandby)
      assert.deepStrictEqual(attributesOf(statement("SELECT 'streamed'")), onPrimary)
      assert.deepStrictEqual(attributesOf(statement("SELECT 'alone'")), onPrimary)

      const open = yield* valuesOf("sqlayer.server.connections", name)
      assert.isAbove(open.get(`${primary.port} writer`) ?? 0, 0)
      const readers = yield* valuesOf("db.client.connection.count", `${name} (readers)`)
      assert.isTrue(readers.has(`${standby.port} standby`))
      yield* eventually(
        Effect.map(valuesOf("sqlayer.replica.lag", name), (lags) => (lags.get(`${standby.port} undefined`) ?? -1) >= 0)
      )

      assert.strictEqual((yield* valuesOf("sqlayer.failover.duration", name)).get("undefined undefined") ?? 0, 0)
      yield* primary.kill
      yield* servers.promote()
      yield* eventually(Effect.isSuccess(sql`CREATE TABLE IF NOT EXISTS after_failover (id int)`))
      yield* eventually(
        Effect.map(valuesOf("sqlayer.failover.duration", name), (counts) => counts.get("undefined undefined") === 1)
      )
      yield* eventually(
        Effect.map(
          valuesOf("sqlayer.server.connections", name),
          (open) => open.get(`${primary.port} writer`) === 0 && (open.get(`${standby.port} writer`) ?? 0) > 0
        )
      )
    }))
})
