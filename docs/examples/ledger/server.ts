/**
 * Node's HTTP server, made to stop well: it accepts no more connections, answers the requests that run, and ends.
 */
import { HttpApp, HttpServerResponse } from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import { Config, Effect } from "effect"
import { createServer } from "node:http"

const server = createServer()

// A client that sends its next request over an open connection while the server stops would wait for ever: by then
// nobody but this listener is left.
server.on("request", (_request, response) => {
  if (server.listenerCount("request") === 1) {
    response.writeHead(503, { connection: "close" }).end()
  }
})

/** Tells clients whose request is answered while the server stops not to send another one. */
export const closing = HttpApp.withPreResponseHandler((_request, response) =>
  Effect.succeed(server.listening ? response : HttpServerResponse.setHeader(response, "connection", "close"))
)

export const ServerLive = NodeHttpServer.layerConfig(() => server, {
  host: Config.string("HOST").pipe(Config.withDefault("127.0.0.1")),
  port: Config.integer("PORT").pipe(
    Config.validate({
      message: "expected a port from 1 to 65535, or 0 for a free one",
      validation: (port) => port >= 0 && port <= 65_535
    }),
    Config.withDefault(3000)
  )
})
