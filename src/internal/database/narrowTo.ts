/**
 * Narrows the layers of a database to one dialect.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import type { Database } from "../../Database.js"
import type { DatabaseError } from "../../DatabaseError.js"
import { RequiredDriver } from "./driverOf.js"

/**
 * The same layer, which fails before it opens or loads anything if the database is of another driver. Otherwise it also
 * provides the dialect's own client.
 */
export const narrowTo = <Client, Service>(
  driver: Context.Tag.Service<RequiredDriver>["driver"],
  client: Context.Tag<Client, Service>,
  refusal: (url: string) => DatabaseError
) => {
  const required = Layer.succeed(RequiredDriver, { driver, refusal })
  return <E, R>(
    layer: Layer.Layer<Database | SqlClient.SqlClient, E, R>
  ): Layer.Layer<Database | SqlClient.SqlClient | Client | Service, E | DatabaseError, R> =>
    Layer.flatMap(Layer.provide(layer, required), (context) =>
      // Layers are memoized: this one may have been built before, where any driver was allowed.
      Context.getOption(context as Context.Context<Client>, client)._tag === "Some"
        ? Layer.succeedContext(context as Context.Context<Database | SqlClient.SqlClient | Client | Service>)
        : Layer.fail(refusal("the database that the application has opened")))
}
