/**
 * One session a request: what is committed, what is rolled back, and what happens to a body that is still to be read.
 */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { SqlError } from "@effect/sql/SqlError"
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
  readonly bodyLimit?: number | undefined
}

const defaultBodyLimit = 4 * 1024 * 1024

/** The client is not told why, so the log is. */
const refuse = (reason: string) =>
  Effect.zipRight(Effect.logError(reason), Effect.fail(new EndlessResponse({ reason })))

/** What a body's stream fails with has no type: an error of the database keeps its own, anything else is a defect. */
const failed = (error: unknown): Effect.Effect<never, DatabaseError | SqlError | EndlessResponse> =>
  isDatabaseError(error) || error instanceof EndlessResponse || Predicate.isTagged(error, "SqlError")
    ? Effect.fail(error as DatabaseError | SqlError | EndlessResponse)
    : Effect.die(error)

const collected = (stream: Stream.Stream<Uint8Array, unknown>, limit: number) =>
  Effect.suspend(() => {
    const pieces: Array<Uint8Array> = []
    let length = 0
    return stream.pipe(
      Stream.runForEach((piece) => {
        length += piece.length
        pieces.push(piece)
        return length > limit
          ? refuse(
            `a streamed body of more than ${limit} bytes cannot be finished inside the request's session: ` +
              `raise bodyLimit, or stream it from a route without one`
          )
          : Effect.void
      }),
      Effect.catchAll(failed),
      Effect.map(() => {
        const body = new Uint8Array(length)
        let offset = 0
        for (const piece of pieces) {
          body.set(piece, offset)
          offset += piece.length
        }
        return body
      })
    )
  })

/** The response with its body at hand: a stream may read from the session, so it is read to its end inside of it. */
const finished = (response: HttpServerResponse.HttpServerResponse, method: string, limit: number) => {
  const { body } = response
  if (body._tag !== "Stream" || method === "HEAD") {
    return Effect.succeed(response)
  }
  if (body.contentType.startsWith("text/event-stream")) {
    return refuse("an event stream does not end, so it cannot be part of a request's session")
  }
  return Effect.map(
    collected(body.stream, limit),
    (bytes) => HttpServerResponse.setBody(response, HttpBody.uint8Array(bytes, body.contentType))
  )
}

const isUpgrade = (request: HttpServerRequest.HttpServerRequest): boolean =>
  request.headers.upgrade?.toLowerCase() === "websocket"

const webSocket = "a web socket outlives its request, so it cannot be part of a request's session"

/** A request that may be answered, although it asks for a web socket, with anything but that. */
const withoutUpgrade = (request: HttpServerRequest.HttpServerRequest): HttpServerRequest.HttpServerRequest =>
  Object.create(request, {
    upgrade: { get: () => Effect.die(new EndlessResponse({ reason: webSocket })) },
    modify: {
      value: (options: Parameters<typeof request.modify>[0]) => withoutUpgrade(request.modify(options))
    }
  })

const refusingUpgrade = <A, E, R>(
  answer: Effect.Effect<A, E, R>,
  request: HttpServerRequest.HttpServerRequest
): Effect.Effect<A, E | EndlessResponse, R> =>
  answer.pipe(
    Effect.provideService(HttpServerRequest.HttpServerRequest, withoutUpgrade(request)),
    Effect.catchSomeDefect((defect) =>
      defect instanceof EndlessResponse ? Option.some(refuse(defect.reason)) : Option.none()
    )
  ) as Effect.Effect<A, E | EndlessResponse, R>

/**
 * Runs what answers a request in a session. `seal` is run on its answer inside of the session too, and what it fails with
 * rolls back as well.
 */
export const inSession = <A, E, R, B, E2, R2>(
  answer: Effect.Effect<A, E, R>,
  seal: (answer: A) => Effect.Effect<B, E2, R2>,
  options: Options,
  route?: string
): Effect.Effect<
  B | HttpServerResponse.HttpServerResponse,
  Exclude<E | E2, SqlError> | DatabaseError | EndlessResponse,
  Exclude<R | R2, Session.Session> | Database | HttpServerRequest.HttpServerRequest
> =>
  Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    const work = isUpgrade(request) ? refusingUpgrade(answer, request) : answer
    const database = yield* Database
    const { bodyLimit = defaultBodyLimit, ...asked } = options
    const context = Option.getOrUndefined(yield* Effect.serviceOption(HttpRouter.RouteContext))
    const path = route ?? context?.route.path
    const isRead = request.method === "GET" || request.method === "HEAD"
    const sealed = (value: A) =>
      Effect.gen(function*() {
        const whole = HttpServerResponse.isServerResponse(value)
          ? yield* finished(value, request.method, bodyLimit)
          : yield* seal(value)
        if (HttpServerResponse.isServerResponse(whole) && whole.status >= 400) {
          yield* Session.rollbackOnly
        }
        return whole
      })
    const session = (work: Effect.Effect<A, E | EndlessResponse, R>) =>
      database.session(Effect.flatMap(work, sealed), {
        ...asked,
        name: asked.name ?? (path === undefined ? request.method : `${request.method} ${path}`),
        readOnly: asked.readOnly ?? isRead
      })
    // A server runs applications where nothing interrupts them, and routes where a client that leaves does. Waiting for a
    // connection and for the commit ends when the client leaves, unless the route says that it must not be interrupted.
    return yield* context?.route.uninterruptible === true
      ? session(work)
      : Effect.checkInterruptible((interruptible) =>
        interruptible ? session(work) : Effect.interruptible(session(Effect.uninterruptible(work)))
      )
  })
