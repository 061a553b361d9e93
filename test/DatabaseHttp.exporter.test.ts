import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import * as DatabaseHttp from "../src/DatabaseHttp.js"

vi.mock("@opentelemetry/exporter-prometheus", () => {
  throw new Error("Cannot find package '@opentelemetry/exporter-prometheus'")
})

it.effect("the metrics route names the packages that it needs where one is missing", () =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(DatabaseHttp.metricsRoute())
    assert.instanceOf(error, DatabaseHttp.ExporterMissing)
    for (
      const name of [
        "@effect/opentelemetry",
        "@opentelemetry/exporter-prometheus",
        "@opentelemetry/resources",
        "@opentelemetry/sdk-metrics"
      ]
    ) {
      assert.include(error.message, name)
    }
  }))
