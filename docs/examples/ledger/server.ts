/**
 * Node's HTTP server with a graceful shutdown: it accepts no more connections and finishes the running requests.
 */
import { HttpApp, HttpServerResponse } from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import { Config, Effect } from "effect"
import { createServer } from "node:http"

const server = createServer()

// A client that sends another request over an open connection during the shutdown would wait forever, since this is the
// only listener left then.
server.on("request", (_request, response) => {
  if (server.listenerCount("request") === 1) {
    response.writeHead(503, { connection: "close" }).end()
  }
})

/** During the shutdown, asks clients to close the connection after the response. */
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
