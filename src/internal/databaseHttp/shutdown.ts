/**
 * The graceful shutdown of an HTTP server of Node: readiness first, then the listener, the requests that run, and the
 * connections.
 */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { Database, type Service } from "../../Database.js"
import type { NodeServer, ShutdownOptions } from "../../DatabaseHttp.js"
import { openDatabases } from "../database/opened.js"
import { timeoutOption } from "../raceFirst.js"
import { Connections } from "./connections.js"
import { leaveService } from "./health.js"

const defaultDelay = Duration.seconds(5)
const defaultTimeout = Duration.seconds(20)

/** How long the responses to requests that were interrupted may take. */
const interruptTimeout = Duration.seconds(1)

const shutdown = (
  connections: Connections,
  database: Service,
  { shutdownDelay, shutdownTimeout = defaultTimeout }: ShutdownOptions
): Effect.Effect<void> =>
  Effect.gen(function*() {
    const isProduction = openDatabases.get(database.sql)?.isProduction === true
    yield* Effect.sleep(shutdownDelay ?? (isProduction ? defaultDelay : Duration.zero))
    const closed = Effect.zipRight(connections.closeListener, connections.allClosed)
    if (Option.isNone(yield* timeoutOption(closed, shutdownTimeout))) {
      const running = connections.interruptRunning()
      yield* running === 0 ? Effect.void : Effect.logWarning(
        `${running} requests were still running ${Duration.format(shutdownTimeout)} after the server had stopped ` +
          "listening, and were interrupted"
      )
      yield* timeoutOption(connections.allClosed, interruptTimeout)
    }
  }).pipe(Effect.ensuring(connections.close))

/**
 * A response whose body breaks off the connection when it fails, as HTTP demands for an incomplete body. The platform
 * would end the body as if it were complete.
 */
const breakingOff = (
  response: HttpServerResponse.HttpServerResponse,
  source: object,
  connections: Connections
): HttpServerResponse.HttpServerResponse => {
  const { body } = response
  return body._tag !== "Stream" ? response : HttpServerResponse.setBody(
    response,
    HttpBody.stream(
      Stream.ensuringWith(body.stream, (exit) => Exit.isSuccess(exit) ? Effect.void : connections.breakOff(source)),
      body.contentType,
      body.contentLength
    )
  )
}

type Server = Context.Tag.Service<typeof HttpServer.HttpServer>

/** A server that closes its connections before its application is detached from it. */
const gracefully = (
  server: Server,
  connections: Connections,
  shutdown: Effect.Effect<void>
): Server =>
  HttpServer.make({
    address: server.address,
    serve: (app, middleware) => {
      const tracked = Effect.withFiberRuntime<HttpServerResponse.HttpServerResponse, unknown, unknown>((fiber) => {
        const request = Context.unsafeGet(fiber.currentContext, HttpServerRequest.HttpServerRequest)
        const source = request.source as object
        connections.runs(source, fiber)
        return Effect.map(app, (response) => breakingOff(response, source, connections))
      })
      return Effect.zipRight(
        server.serve(tracked as typeof app, middleware!),
        Effect.addFinalizer(() => shutdown)
      )
    }
  })

/** See DatabaseHttp.layerServer. */
export const layerServer = <Server extends NodeServer, A, E, R>(
  evaluate: () => Server,
  layer: (evaluate: () => Server) => Layer.Layer<A | HttpServer.HttpServer, E, R>,
  options: ShutdownOptions
): Layer.Layer<A | HttpServer.HttpServer, E, R | Database> => {
  let connections: Connections | undefined = undefined
  const observed = (): Server => {
    const server = evaluate()
    connections = new Connections(server)
    return server
  }
  return Layer.flatMap(layer(observed), (context) =>
    Layer.scopedContext(Effect.gen(function*() {
      const database = yield* Database
      if (connections === undefined) {
        throw new Error("The layer of the HTTP server does not use the server that it is given")
      }
      // Once, however many applications were served.
      const stop = yield* Effect.cached(leaveService(database, shutdown(connections, database, options)))
      // If no application was served, the platform would wait for the requests that nothing responds to.
      yield* Effect.addFinalizer(() => connections!.close)
      const server = Context.get(context, HttpServer.HttpServer)
      return Context.add(context, HttpServer.HttpServer, gracefully(server, connections, stop))
    })))
}
