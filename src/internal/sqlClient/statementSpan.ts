/**
 * The name and the attributes of a statement's span.
 */
import type * as Tracer from "effect/Tracer"
import type { SpanNames } from "../../DatabaseConfig.js"
import type { Dialect } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"
import { dialectOf } from "../config/dialectOf.js"
import type { ActivityTracker } from "../telemetry/activity.js"
import { isRecorded } from "../telemetry/tracing.js"

export interface Environment {
  readonly dialect: Dialect
  readonly tracker: ActivityTracker
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly spanNames: SpanNames
}

/**
 * The name of a statement's span. If the text has no summary, or is undefined, it is the name of the database system.
 */
export const spanName = ({ dialect, spanNames, tracker }: Environment, sql: string | undefined): string => {
  if (spanNames === "effect-sql") {
    return Telemetry.statementSpan
  }
  const summary = sql === undefined ? "" : tracker.queries.of(sql).summary
  return summary === "" ? dialectOf(dialect).systemName : summary
}

/** Adds the attributes of a statement, which a `method` of @effect/sql's connection runs, if the span is recorded. */
export const annotateSpan = (
  { spanAttributes, spanNames, tracker }: Environment,
  span: Tracer.Span,
  method: string,
  sql: string
): void => {
  if (!isRecorded(span)) {
    return
  }
  const { batchSize, collection, operation, procedure, summary } = tracker.queries.of(sql)
  for (const [key, value] of spanAttributes) {
    span.attribute(key, value)
  }
  const set = (key: string, value: unknown): void => {
    if (value !== undefined && value !== "") {
      span.attribute(key, value)
    }
  }
  set("db.query.summary", summary)
  set("db.operation.name", spanNames === "effect-sql" ? method : operation)
  set("db.operation.batch.size", batchSize)
  set("db.collection.name", collection)
  set("db.stored_procedure.name", procedure)
  set("db.query.text", sql)
}
