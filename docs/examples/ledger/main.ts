/**
 * A ledger behind an HTTP API, on embedded SQLite or on the database of DATABASE_URL.
 */
import { HttpApiBuilder, HttpMiddleware, HttpServer } from "@effect/platform"
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"
import { Database, DatabaseConfig, Migrations } from "sqlayer"
import { LedgerLive } from "./http.js"
import { loader } from "./migrations.js"
import { OperatorsLive } from "./operators.js"
import { ServerLive } from "./server.js"

const announce = HttpServer.addressFormattedWith((address) =>
  Effect.gen(function*() {
    const { target } = yield* DatabaseConfig.config
    const json = "-H 'content-type: application/json'"
    yield* Console.log(`The ledger is kept in ${DatabaseConfig.render(target)} and listens on ${address}. Try:

  curl ${address}/accounts ${json} -d '{"owner":"Ada","balance":10000}'
  curl ${address}/accounts ${json} -d '{"owner":"Grace"}'
  curl ${address}/transfers ${json} -d '{"from":1,"to":2,"amount":2500}'
`)
  })
)

const ListeningLive = HttpApiBuilder.serve(HttpMiddleware.logger).pipe(
  Layer.provide([LedgerLive, OperatorsLive])
)

// The layer that is provided last is built first and closed last: on shutdown the server stops listening and finishes
// its requests, and then the database is closed.
const Main = Layer.effectDiscard(announce).pipe(
  Layer.provide(ListeningLive),
  Layer.provide(ServerLive),
  Layer.provide(Migrations.layer({ loader })),
  Layer.provide(Database.layer)
)

NodeRuntime.runMain(Layer.launch(Main))
