/**
 * Runs a request in a session: decides between commit and rollback, and reads a streamed body to its end.
 */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { SqlError } from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Stream from "effect/Stream"
import { Database } from "../../Database.js"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import * as Session from "../../Session.js"
import { EndlessResponse } from "./problem.js"

/** See DatabaseHttp.Options. */
export interface Options extends Omit<Session.Options, "retry" | "propagation"> {
  /** Maximum size in bytes of a streamed response body. Default: 4 MiB. */
  readonly bodyLimit?: number | undefined
}

/** The options of a request's session: the same for all requests, or what an effect makes of the request. */
export type RequestOptions<E, R> =
  | Options
  | ((request: HttpServerRequest.HttpServerRequest) => Effect.Effect<Options, E, R>)

const defaultBodyLimit = 4 * 1024 * 1024

/** The response does not say the reason, so it is logged. */
const refuse = (reason: string) =>
  Effect.zipRight(Effect.logError(reason), Effect.fail(new EndlessResponse({ reason })))

type Refusal = DatabaseError | SqlError | EndlessResponse

/** The errors of a body's stream have no type. Database errors stay errors, others become defects. */
const failBody = (error: unknown): Effect.Effect<never, Refusal> =>
  isDatabaseError(error) || error instanceof EndlessResponse || Predicate.isTagged(error, "SqlError")
    ? Effect.fail(error as Refusal)
    : Effect.die(error)

const readAll = (stream: Stream.Stream<Uint8Array, unknown>, limit: number) =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let length = 0
    return stream.pipe(
      Stream.runForEach((chunk) => {
        length += chunk.length
        chunks.push(chunk)
        return length > limit
          ? refuse(
            `a streamed body of more than ${limit} bytes cannot be finished inside the request's session: ` +
              `raise bodyLimit, or stream it from a route without one`
          )
          : Effect.void
      }),
      Effect.catchAll(failBody),
      Effect.map(() => {
        const body = new Uint8Array(length)
        let offset = 0
        for (const chunk of chunks) {
          body.set(chunk, offset)
          offset += chunk.length
        }
        return body
      })
    )
  })

/** The response with its whole body. A stream may read from the session, so it is read to its end inside the session. */
const withWholeBody = (response: HttpServerResponse.HttpServerResponse, method: string, limit: number) => {
  const { body } = response
  if (body._tag !== "Stream" || method === "HEAD") {
    return Effect.succeed(response)
  }
  if (body.contentType.startsWith("text/event-stream")) {
    return refuse("an event stream does not end, so it cannot be part of a request's session")
  }
  return Effect.map(
    readAll(body.stream, limit),
    (bytes) => HttpServerResponse.setBody(response, HttpBody.uint8Array(bytes, body.contentType))
  )
}

const isUpgrade = (request: HttpServerRequest.HttpServerRequest): boolean =>
  request.headers.upgrade?.toLowerCase() === "websocket"

const webSocket = "a web socket outlives its request, so it cannot be part of a request's session"

/** A request for a web socket whose upgrade is refused. Every other response to it is possible. */
const withoutUpgrade = (request: HttpServerRequest.HttpServerRequest): HttpServerRequest.HttpServerRequest =>
  Object.create(request, {
    upgrade: { get: () => Effect.die(new EndlessResponse({ reason: webSocket })) },
    modify: {
      value: (options: Parameters<typeof request.modify>[0]) => withoutUpgrade(request.modify(options))
    }
  })

const refusingUpgrade = <A, E, R>(
  handler: Effect.Effect<A, E, R>,
  request: HttpServerRequest.HttpServerRequest
): Effect.Effect<A, E | EndlessResponse, R> =>
  handler.pipe(
    Effect.provideService(HttpServerRequest.HttpServerRequest, withoutUpgrade(request)),
    Effect.catchSomeDefect((defect) =>
      defect instanceof EndlessResponse ? Option.some(refuse(defect.reason)) : Option.none()
    )
  ) as Effect.Effect<A, E | EndlessResponse, R>

/**
 * Runs the handler of a request in a session. `toResponse` is applied to its result inside the session, so that its failure
 * rolls back too.
 */
export const inSession = <A, E, R, B, E2, R2, E3, R3>(
  handler: Effect.Effect<A, E, R>,
  toResponse: (result: A) => Effect.Effect<B, E2, R2>,
  requestOptions: RequestOptions<E3, R3>,
  route?: string
): Effect.Effect<
  B | HttpServerResponse.HttpServerResponse,
  Exclude<E | E2, SqlError> | E3 | DatabaseError | EndlessResponse,
  Exclude<R | R2, Session.Session> | R3 | Database | HttpServerRequest.HttpServerRequest
> =>
  Effect.contextWithEffect((context: Context.Context<HttpServerRequest.HttpServerRequest | Database>) => {
    const request = Context.get(context, HttpServerRequest.HttpServerRequest)
    const database = Context.get(context, Database)
    const { route: routed } = Option.getOrUndefined(Context.getOption(context, HttpRouter.RouteContext)) ?? {}
    const guarded = isUpgrade(request) ? refusingUpgrade(handler, request) : handler
    const path = route ?? routed?.path
    const isRead = request.method === "GET" || request.method === "HEAD"
    const run = ({ bodyLimit = defaultBodyLimit, ...sessionOptions }: Options) => {
      const respond = (value: A): Effect.Effect<B | HttpServerResponse.HttpServerResponse, Refusal | E2, R2> =>
        HttpServerResponse.isServerResponse(value)
          ? withWholeBody(value, request.method, bodyLimit)
          : toResponse(value)
      const session = (handler: Effect.Effect<A, E | EndlessResponse, R>) =>
        database.session(Effect.flatMap(Effect.flatMap(handler, respond), rollbackIfFailed), {
          ...sessionOptions,
          name: sessionOptions.name ?? (path === undefined ? request.method : `${request.method} ${path}`),
          readOnly: sessionOptions.readOnly ?? isRead
        })
      // A server runs applications uninterruptibly, and routes interruptibly: a client that disconnects interrupts them. In
      // an application only the wait for the commit becomes interruptible. A route that is declared uninterruptible stays so.
      return routed?.uninterruptible === true
        ? session(guarded)
        : Effect.checkInterruptible((interruptible) =>
          interruptible ? session(guarded) : Effect.interruptible(session(Effect.uninterruptible(guarded)))
        )
    }
    return typeof requestOptions === "function" ? Effect.flatMap(requestOptions(request), run) : run(requestOptions)
  })

/** Rolls the session back if the status of the response is 400 or higher. */
const rollbackIfFailed = <A>(response: A): Effect.Effect<A, never, Session.Session> =>
  HttpServerResponse.isServerResponse(response) && response.status >= 400
    ? Effect.as(Session.rollbackOnly, response)
    : Effect.succeed(response)
