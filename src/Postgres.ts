/**
 * PostgreSQL: layers whose type provides PgClient, and what only PostgreSQL has.
 *
 * For applications that run on PostgreSQL alone. Where the environment chooses the database, use `Database.layer`.
 *
 * This module is imported as `sqlayer/Postgres`, and is not a part of `sqlayer`: its types are those of @effect/sql-pg
 * and @types/pg, which an application without PostgreSQL does not install. It loads neither of them when it runs, only
 * `pg`, when the database is opened.
 *
 * @since 0.1.0
 */
import type * as PgClientModule from "@effect/sql-pg/PgClient"
import type * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as SqlStatement from "@effect/sql/Statement"
import type * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Database from "./Database.js"
import type * as DatabaseConfig from "./DatabaseConfig.js"
import type * as DatabaseError from "./DatabaseError.js"
import { narrowTo } from "./internal/database/narrowTo.js"
import * as Drivers from "./internal/drivers.js"
import { make as makeError } from "./internal/makeError.js"
import * as Client from "./internal/postgres/client.js"

/**
 * The requirement of an effect that uses PgClient. It is a type of its own, so that an effect with this requirement
 * does not compile with a layer that provides only SqlClient, such as `Database.layer`. With @effect/sql-pg's own tag
 * it would, since its PgClient is a subtype of SqlClient.
 *
 * @since 0.1.0
 * @category models
 */
export interface PgClient {
  /** Makes the type unique. No value has it. */
  readonly _: unique symbol
}

/**
 * The client of @effect/sql-pg: an SqlClient that can also listen, notify and write JSON. At run time it is the tag
 * of `@effect/sql-pg/PgClient`, without loading that module. The type of the client is `typeof PgClient.Service`.
 *
 * @since 0.1.0
 * @category tags
 */
export const PgClient: Context.Tag<PgClient, PgClientModule.PgClient> = Context.GenericTag<
  PgClient,
  PgClientModule.PgClient
>(
  Client.PgClient.key
)

/** What the layers provide: the client also under @effect/sql-pg's own tag. */
type Services = Database.Database | SqlClient.SqlClient | PgClientModule.PgClient | PgClient

const onPostgres = narrowTo(Drivers.postgres, PgClient, (url) =>
  makeError("ConnectionFailed", {
    dialect: "postgres",
    code: "08001",
    reason: `${url} is not a PostgreSQL database: DATABASE_URL has to begin with postgres: or postgresql:`,
    transient: false
  }))

/**
 * The PostgreSQL database that the environment configures, as `Database.layer` opens it. Fails with ConnectionFailed if
 * DATABASE_URL names another database, which is not opened, or if the package `pg` is not installed.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> = onPostgres(
  Database.layer
)

/**
 * The PostgreSQL database that the environment and the options in code configure together, as `Database.layerWith`
 * opens it. Fails as `layer` does, and the ConfigError also names the options that are invalid.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  options: DatabaseConfig.Options
): Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> =>
  onPostgres(Database.layerWith(options))

/**
 * The PostgreSQL database that a Config describes. Fails as `Database.layerConfig` does, and with ConnectionFailed as
 * `layer` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<DatabaseConfig.Options>
): Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> =>
  onPostgres(Database.layerConfig(config))

/**
 * The PostgreSQL database that the options describe. Fails as `Database.make` does, and with ConnectionFailed as
 * `layer` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFrom = (
  options: DatabaseConfig.Options
): Layer.Layer<Services, DatabaseError.DatabaseError> => onPostgres(Database.layerFrom(options))

/**
 * Narrows a layer of a database, such as one of TestDatabase, to PostgreSQL: its type then also provides PgClient.
 * Fails as that layer does, and with ConnectionFailed as `layer` does.
 *
 * ```ts
 * import { TestDatabase } from "sqlayer"
 * import * as Postgres from "sqlayer/Postgres"
 *
 * export const TestLive = Postgres.layerOf(TestDatabase.layerPostgres())
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerOf = <E, R>(
  layer: Layer.Layer<Database.Database | SqlClient.SqlClient, E, R>
): Layer.Layer<Services, E | DatabaseError.DatabaseError, R> => onPostgres(layer)

/**
 * The payloads of the notifications of a channel, from when the stream listens to it (LISTEN). All channels share one
 * connection outside of the pool. Notifications that are sent while it is lost are missed; `Database.notifications`
 * reports that. Fails with SqlError, whose cause is a DatabaseError.
 *
 * @since 0.1.0
 * @category notifications
 */
export const listen = (channel: string): Stream.Stream<string, SqlError, PgClient> =>
  Stream.unwrap(Effect.map(PgClient, (client) => client.listen(channel)))

/**
 * Sends a payload to a channel (NOTIFY). In a session it is delivered when the session commits. Fails with SqlError,
 * whose cause is a DatabaseError.
 *
 * @since 0.1.0
 * @category notifications
 */
export const notify = (channel: string, payload: string): Effect.Effect<void, SqlError, PgClient> =>
  Effect.flatMap(PgClient, (client) => client.notify(channel, payload))

/**
 * A value as a parameter of type json or jsonb. Its keys are transformed like names, unless `transformJson` is false.
 *
 * @since 0.1.0
 * @category statements
 */
export const json = (value: unknown): SqlStatement.Fragment => Client.json(value)
