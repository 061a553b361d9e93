/**
 * A service whose tenants book rooms, on embedded SQLite or on the database of DATABASE_URL.
 */
import { HttpApiBuilder, HttpMiddleware, HttpServer } from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, ConfigProvider, Console, Layer } from "effect"
import { createServer } from "node:http"
import { Database, DatabaseHttp, Migrations } from "sqlayer"
import { options } from "./database.js"
import { BookingLive } from "./http.js"
import { loader } from "./migrations.js"
import { OperatorsLive } from "./operators.js"
import * as Outbox from "./outbox.js"

const announce = HttpServer.addressFormattedWith((address) => {
  const json = "-H 'content-type: application/json'"
  const tenant = "-H \"authorization: Bearer $TOKEN\""
  return Console.log(`The booking service listens on ${address}. Try, with the token of the first answer as TOKEN:

  curl ${address}/tenants ${json} -d '{"name":"Ada & Co"}'
  curl ${address}/credit ${tenant} ${json} -H 'idempotency-key: 1' -d '{"cents":10000}'
  curl ${address}/rooms ${tenant} ${json} -d '{"name":"Blue","centsPerHour":1500}'
`)
})

/** On SIGTERM the server reports that it is not ready, finishes the requests that run, and closes their connections. */
const ServerLive = DatabaseHttp.layerServer(
  () => createServer(),
  (server) =>
    NodeHttpServer.layerConfig(server, {
      host: Config.string("HOST").pipe(Config.withDefault("127.0.0.1")),
      port: Config.integer("PORT").pipe(Config.withDefault(3001))
    })
)

/** Without DATABASE_URL the bookings are in a file of their own, so that examples do not share a file. */
const environment = ConfigProvider.orElse(
  ConfigProvider.fromEnv(),
  () => ConfigProvider.fromMap(new Map([["DATABASE_URL", "sqlite:///booking.db"]]))
)

// The layer that is provided last is released last: first the server stops, then the worker, and at last the database.
const Main = Layer.effectDiscard(announce).pipe(
  Layer.provide(HttpApiBuilder.serve(HttpMiddleware.logger)),
  Layer.provide([BookingLive, OperatorsLive]),
  Layer.provide(ServerLive),
  Layer.provide(Outbox.WorkerLive),
  Layer.provide(Outbox.UsageLive),
  Layer.provide(Migrations.layer({ loader })),
  Layer.provide(Database.layerWith(options)),
  Layer.provide(Layer.setConfigProvider(environment))
)

NodeRuntime.runMain(Layer.launch(Main))
