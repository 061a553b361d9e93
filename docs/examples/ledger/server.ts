/**
 * Node's HTTP server, which stops gracefully.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Config } from "effect"
import { createServer } from "node:http"
import { DatabaseHttp } from "sqlayer"

export const ServerLive = DatabaseHttp.layerServer(
  () => createServer(),
  (server) =>
    NodeHttpServer.layerConfig(server, {
      host: Config.string("HOST").pipe(Config.withDefault("127.0.0.1")),
      port: Config.integer("PORT").pipe(
        Config.validate({
          message: "expected a port from 1 to 65535, or 0 for a free one",
          validation: (port) => port >= 0 && port <= 65_535
        }),
        Config.withDefault(3000)
      )
    })
)
