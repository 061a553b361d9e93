/**
 * The application's metrics in the text format of Prometheus.
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

/** Documented at DatabaseHttp.ExporterMissing. */
export class ExporterMissing extends Schema.TaggedError<ExporterMissing>("sqlayer/DatabaseHttp/ExporterMissing")(
  "ExporterMissing",
  { reason: Schema.String }
) {
  override get message(): string {
    return `the metrics route needs the packages ${packages.join(", ")}: ${this.reason}`
  }
}

/** Imports that are awaited inside of `try` are optional to bundlers: they leave out what is not installed. */
const importPackages = async () => {
  try {
    const metrics = await import("@effect/opentelemetry/Metrics")
    const { Resource } = await import("@effect/opentelemetry/Resource")
    const { PrometheusSerializer } = await import("@opentelemetry/exporter-prometheus")
    const { emptyResource } = await import("@opentelemetry/resources")
    const { DataPointType } = await import("@opentelemetry/sdk-metrics")
    return { metrics, Resource, PrometheusSerializer, emptyResource, DataPointType }
  } catch (cause) {
    throw new ExporterMissing({ reason: cause instanceof Error ? cause.message : String(cause) })
  }
}

const load = Effect.tryPromise({ try: importPackages, catch: (error) => error as ExporterMissing })

/**
 * Suffixes with a meaning in Prometheus: parts of histograms and summaries, and `total`, which the serializer adds to
 * counters itself.
 */
const reservedSuffix = /[._](?:sum|bucket|total)$/

/**
 * A metric's name by the conventions of Prometheus (https://prometheus.io/docs/practices/naming/): it ends with the base
 * unit, and not with a reserved suffix.
 */
const prometheusName = (name: string, unit: string, isHistogram: boolean): string => {
  const base = isHistogram ? name : name.replace(reservedSuffix, "").replace(/s?[._]count$/, "s")
  return unit === "s" && !base.endsWith("seconds") ? `${base}_seconds` : base
}

/** Removes the attributes from which the producer reads the unit, because they are useless as labels. */
const withoutUnit = <Point extends DataPoint<unknown>>(point: Point): Point => {
  const { time_unit: _, unit: __, ...attributes } = point.attributes
  return { ...point, attributes }
}

/**
 * Loads the packages and makes the effect that responds with the current metrics. Fails with ExporterMissing if a package
 * cannot be loaded.
 */
export const make: Effect.Effect<Effect.Effect<HttpServerResponse.HttpServerResponse>, ExporterMissing> = Effect.gen(
  function*() {
    const { DataPointType, PrometheusSerializer, Resource, emptyResource, metrics } = yield* load
    const producer = yield* Effect.provideService(metrics.makeProducer, Resource, emptyResource())
    const serializer = new PrometheusSerializer(undefined, false, undefined, true, true)
    const toPrometheus = (data: MetricData): MetricData => ({
      ...data,
      descriptor: {
        ...data.descriptor,
        name: prometheusName(data.descriptor.name, data.descriptor.unit, data.dataPointType === DataPointType.HISTOGRAM)
      },
      dataPoints: (data.dataPoints as ReadonlyArray<DataPoint<unknown>>).map(withoutUnit)
    } as MetricData)
    return Effect.map(Effect.promise(() => producer.collect()), ({ resourceMetrics }) => {
      const text = serializer.serialize({
        ...resourceMetrics,
        scopeMetrics: resourceMetrics.scopeMetrics.map(({ metrics, scope }) => ({
          scope,
          metrics: metrics.map(toPrometheus)
        }))
      })
      return HttpServerResponse.text(text.endsWith("\n") ? text : `${text}\n`, {
        contentType: "text/plain; version=0.0.4; charset=utf-8",
        headers: { "cache-control": "no-store" }
      })
    })
  }
)
