/**
 * An application with a dashboard, on a real server, whose database has more to do than it can.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import { createServer } from "node:http"
import * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { dashboard, type DashboardOptions } from "../../../src/internal/databaseHttp/dashboard.js"
import { make as makeError } from "../../../src/internal/makeError.js"

/** What would take the page over if it were put there as markup. */
export const hostile = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`

/** Serves the dashboard at /admin/database beside an application; gives the server's address. */
export const serve = <E>(
  database: Database.Service,
  options: DashboardOptions<E, HttpServerRequest.HttpServerRequest>
): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function*() {
    const app = yield* dashboard(options)
    const server = yield* NodeHttpServer.make(createServer, { host: "127.0.0.1", port: 0 })
    yield* HttpRouter.empty.pipe(
      HttpRouter.get("/", HttpServerResponse.text("the application")),
      HttpRouter.mountApp("/admin/database", app),
      HttpServer.serveEffect(),
      Effect.provideService(HttpServer.HttpServer, server)
    )
    return HttpServer.formatAddress(server.address)
  }).pipe(Effect.provideService(Database.Database, database), Effect.orDie)

/** Sessions without end, until the scope closes: many that wait, some that fail, some that are run again. */
export const load = (database: Database.Service): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { dialect, session, sql } = database
    yield* sql`CREATE TABLE item (id INTEGER PRIMARY KEY)`
    yield* sql`INSERT INTO item VALUES (1)`
    const slow = sql.onDialectOrElse({
      pg: () => sql`SELECT pg_sleep(0.1), ${"secret parameter"}::text`,
      orElse: () =>
        sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT count(*), ${"secret parameter"} FROM n`
    })
    const faster = makeError("SerializationFailure", { dialect, code: "40001", reason: "somebody was faster" })
    const retried = Effect.flatMap(Ref.make(0), (attempts) =>
      session(
        Effect.flatMap(
          Ref.getAndUpdate(attempts, (n) => n + 1),
          (n): Effect.Effect<unknown, DatabaseError | SqlError> => n === 0 ? faster : slow
        ),
        { name: "settle accounts", retry: true }
      ))
    const endless = <E>(effect: Effect.Effect<unknown, E>) =>
      Effect.forkScoped(Effect.forever(Effect.zipRight(Effect.exit(effect), Effect.sleep("20 millis"))))

    yield* endless(retried)
    yield* endless(session(slow, { name: "POST /orders" }))
    yield* endless(session(Effect.zipRight(slow, Effect.sleep("300 millis")), { name: "nightly report" }))
    yield* endless(session(sql`INSERT INTO item VALUES (1)`, { name: "POST /items" }))
    yield* endless(session(Effect.zipRight(slow, Effect.fail("out of stock")), { name: "PUT /baskets/:id" }))
    yield* endless(
      session(Effect.zipRight(sql.unsafe(`SELECT '${hostile.replaceAll("'", "''")}'`), slow), { name: hostile })
    )
  }).pipe(Effect.orDie)
