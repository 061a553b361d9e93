/**
 * RFC 9457 problem documents for database errors. They consist of fixed texts, so they never have the name of a table or a
 * constraint, a code, a statement or a value.
 */
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { type SqlError, SqlErrorTypeId } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as DatabaseError from "../../DatabaseError.js"

export interface Document {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
}

type Tag = DatabaseError.DatabaseError["_tag"]

const internal: Document = {
  type: "about:blank",
  title: "Internal Server Error",
  status: 500,
  detail: "The request failed. Nothing of the failed transaction was kept."
}

const busy =
  "Another request was using the same data. Nothing of the failed transaction was kept: try the request again."
const unavailable = "The database cannot be used at the moment. Try the request again."

/** The errors that a client can do something about. All others get the document `internal`. */
const documents: { readonly [T in Tag]?: Omit<Document, "type"> } = {
  UniqueViolation: {
    status: 409,
    title: "Already exists",
    detail: "A value that must be unique exists already."
  },
  ForeignKeyViolation: {
    status: 409,
    title: "Broken reference",
    detail: "The request refers to something that does not exist, or removes something that is still referred to."
  },
  ExclusionViolation: {
    status: 409,
    title: "Conflict",
    detail: "The request conflicts with what exists already."
  },
  NotNullViolation: { status: 422, title: "Missing value", detail: "A value that is required is missing." },
  CheckViolation: { status: 422, title: "Value refused", detail: "A value does not satisfy the rules for it." },
  InvalidData: { status: 422, title: "Invalid value", detail: "A value is out of range or of the wrong form." },
  SerializationFailure: { status: 503, title: "Concurrent change", detail: busy },
  DeadlockDetected: { status: 503, title: "Concurrent change", detail: busy },
  LockTimeout: { status: 503, title: "Concurrent change", detail: busy },
  PoolTimeout: { status: 503, title: "Database busy", detail: unavailable },
  ConnectionFailed: { status: 503, title: "Database unavailable", detail: unavailable },
  ConnectionLost: { status: 503, title: "Database unavailable", detail: unavailable },
  StatementTimeout: {
    status: 504,
    title: "Took too long",
    detail: "The database did not answer in time. Nothing of the failed transaction was kept."
  },
  SessionTimeout: {
    status: 504,
    title: "Took too long",
    detail: "The request took too long. Nothing of the failed transaction was kept."
  },
  CommitOutcomeUnknown: {
    status: 500,
    title: "Outcome unknown",
    detail: "The database did not confirm the outcome: the request may or may not have been carried out."
  }
}

const typeOf = (tag: string): string => `urn:sqlayer:problem:${tag}`

const documentOf = (tag: string): Document => {
  const known = documents[tag as Tag]
  return known === undefined ? internal : { type: typeOf(tag), ...known }
}

const respond = (document: Document): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.unsafeJson(document, {
    status: document.status,
    contentType: "application/problem+json",
    headers: {
      "cache-control": "no-store",
      ...(document.status === 503 ? { "retry-after": "1" } : {})
    }
  })

export const toResponse = (error: DatabaseError.DatabaseError): HttpServerResponse.HttpServerResponse =>
  respond(documentOf(error._tag))

/** See DatabaseHttp.EndlessResponse. */
export class EndlessResponse extends Schema.TaggedError<EndlessResponse>("sqlayer/DatabaseHttp/EndlessResponse")(
  "EndlessResponse",
  { reason: Schema.String }
) {
  override get message(): string {
    return this.reason
  }
  [HttpServerRespondable.symbol](): Effect.Effect<HttpServerResponse.HttpServerResponse> {
    return Effect.succeed(respond(internal))
  }
}

const fields = { type: Schema.String, title: Schema.String, status: Schema.Int, detail: Schema.String }

/** See DatabaseHttp.Problem. */
export class Problem extends Schema.TaggedError<Problem>("sqlayer/DatabaseHttp/Problem")("Problem", fields) {
  override get message(): string {
    return `${this.title}: ${this.detail}`
  }
  [HttpServerRespondable.symbol](): Effect.Effect<HttpServerResponse.HttpServerResponse> {
    return Effect.succeed(respond(documentFrom(this)))
  }
}

type DatabaseFailure = DatabaseError.DatabaseError | SqlError

const isDatabaseFailure = (u: unknown): u is DatabaseFailure =>
  DatabaseError.isDatabaseError(u) || (Predicate.hasProperty(u, SqlErrorTypeId) && Predicate.isTagged(u, "SqlError"))

/** See DatabaseHttp.problems. */
export const problems = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<Exclude<E, DatabaseFailure>, R> =>
  Effect.catchAll(app, (error) =>
    isDatabaseFailure(error)
      ? Effect.succeed(toResponse(error._tag === "SqlError" ? DatabaseError.fromSqlError(error) : error))
      : Effect.fail(error as Exclude<E, DatabaseFailure>))

type Failure = DatabaseFailure | EndlessResponse | Problem

const isFailure = (u: unknown): u is Failure =>
  isDatabaseFailure(u) || u instanceof EndlessResponse || u instanceof Problem

const documentFrom = (error: Failure): Document => {
  switch (error._tag) {
    case "Problem":
      return { type: error.type, title: error.title, status: error.status, detail: error.detail }
    case "SqlError":
      return documentOf(DatabaseError.fromSqlError(error)._tag)
    default:
      return documentOf(error._tag)
  }
}

/** The schema of the responses with one status: errors are encoded as a document, which a client decodes as a Problem. */
const responsesWith = (status: number, description: string): Schema.Schema<Failure, Document> => {
  const types = new Set(
    DatabaseError.DatabaseError.members.map(({ _tag }) => documentOf(_tag))
      .filter((document) => document.status === status)
      .map(({ type }) => type)
  )
  const document: Schema.Schema<Document> = Schema.Struct({
    ...fields,
    type: Schema.Literal(...types),
    status: Schema.Literal(status)
  }).annotations({ identifier: `DatabaseProblem${status}`, description })
  const failure = Schema.declare((u): u is Failure => isFailure(u) && documentFrom(u).status === status)
  return Schema.transform(document, failure, {
    strict: true,
    decode: (document): Failure => new Problem(document),
    encode: documentFrom
  }).annotations(HttpApiSchema.annotations({ status, description })).pipe(
    HttpApiSchema.withEncoding({ kind: "Json", contentType: "application/problem+json" })
  )
}

/** See DatabaseHttp.errors. */
export const errors: Schema.Schema<Failure, Document> = Schema.Union(
  responsesWith(409, "The request conflicts with what exists already."),
  responsesWith(422, "A value is missing or not acceptable."),
  responsesWith(500, "The request failed."),
  responsesWith(503, "The database cannot be used, or not right now. Try again."),
  responsesWith(504, "The database did not answer in time.")
)
