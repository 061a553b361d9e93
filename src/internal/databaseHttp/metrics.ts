/**
 * The application's metrics in Prometheus' text format.
 */
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { DataPoint, MetricData } from "@opentelemetry/sdk-metrics"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const packages = [
  "@effect/opentelemetry",
  "@opentelemetry/exporter-prometheus",
  "@opentelemetry/resources",
  "@opentelemetry/sdk-metrics"
]

/** See DatabaseHttp.ExporterMissing. */
export class ExporterMissing extends Schema.TaggedError<ExporterMissing>("sqlayer/DatabaseHttp/ExporterMissing")(
  "ExporterMissing",
  { reason: Schema.String }
) {
  override get message(): string {
    return `the metrics route needs the packages ${packages.join(", ")}: ${this.reason}`
  }
}

const load = Effect.tryPromise({
  try: async () => {
    const [metrics, { Resource }, { PrometheusSerializer }, { emptyResource }, { DataPointType }] = await Promise.all([
      import("@effect/opentelemetry/Metrics"),
      import("@effect/opentelemetry/Resource"),
      import("@opentelemetry/exporter-prometheus"),
      import("@opentelemetry/resources"),
      import("@opentelemetry/sdk-metrics")
    ])
    return { metrics, Resource, PrometheusSerializer, emptyResource, DataPointType }
  },
  catch: (cause) => new ExporterMissing({ reason: cause instanceof Error ? cause.message : String(cause) })
})

/** Suffixes that Prometheus keeps for parts of a histogram or a summary, and for a counter, which gets it again. */
const reserved = /[._](?:sum|bucket|total)$/

/** A name as Prometheus' conventions ask for it: with its base unit at its end, and no suffix that means something else. */
const named = (name: string, unit: string, histogram: boolean): string => {
  const plain = histogram ? name : name.replace(reserved, "").replace(/s?[._]count$/, "s")
  return unit === "s" && !plain.endsWith("seconds") ? `${plain}_seconds` : plain
}

/** The producer takes the unit from an attribute, which says nothing as a label. */
const labels = <Point extends DataPoint<unknown>>(point: Point): Point => {
  const { time_unit: _, unit: __, ...attributes } = point.attributes
  return { ...point, attributes }
}

/** Makes what answers with the metrics. */
export const make: Effect.Effect<Effect.Effect<HttpServerResponse.HttpServerResponse>, ExporterMissing> = Effect.gen(
  function*() {
    const { DataPointType, PrometheusSerializer, Resource, emptyResource, metrics } = yield* load
    const producer = yield* Effect.provideService(metrics.makeProducer, Resource, emptyResource())
    const serializer = new PrometheusSerializer(undefined, false, undefined, true, true)
    const prepared = (data: MetricData): MetricData => ({
      ...data,
      descriptor: {
        ...data.descriptor,
        name: named(data.descriptor.name, data.descriptor.unit, data.dataPointType === DataPointType.HISTOGRAM)
      },
      dataPoints: (data.dataPoints as ReadonlyArray<DataPoint<unknown>>).map(labels)
    } as MetricData)
    return Effect.map(Effect.promise(() => producer.collect()), ({ resourceMetrics }) => {
      const text = serializer.serialize({
        ...resourceMetrics,
        scopeMetrics: resourceMetrics.scopeMetrics.map(({ metrics, scope }) => ({
          scope,
          metrics: metrics.map(prepared)
        }))
      })
      return HttpServerResponse.text(text.endsWith("\n") ? text : `${text}\n`, {
        contentType: "text/plain; version=0.0.4; charset=utf-8",
        headers: { "cache-control": "no-store" }
      })
    })
  }
)
