/**
 * SQLite: layers whose type provides SqliteClient, and what only SQLite has.
 *
 * For applications that run on SQLite alone. Where the environment chooses the database, use `Database.layer`.
 *
 * This module is imported as `sqlayer/Sqlite`, and is not a part of `sqlayer`: its types are those of
 * @effect/sql-sqlite-node, which an application without SQLite does not install. It does not load that package when it
 * runs. The library is better-sqlite3 where it is installed, and otherwise the runtime's own node:sqlite.
 *
 * @since 0.1.0
 */
import type * as SqliteClientModule from "@effect/sql-sqlite-node/SqliteClient"
import type * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import type * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Database from "./Database.js"
import type * as DatabaseConfig from "./DatabaseConfig.js"
import type * as DatabaseError from "./DatabaseError.js"
import { narrowTo } from "./internal/database/narrowTo.js"
import * as Drivers from "./internal/drivers.js"
import { make as makeError } from "./internal/makeError.js"
import * as Client from "./internal/sqlite/client.js"

/**
 * The requirement of an effect that uses SqliteClient. It is a type of its own, so that an effect with this requirement
 * does not compile with a layer that provides only SqlClient, such as `Database.layer`. With @effect/sql-sqlite-node's
 * own tag it would, since its SqliteClient is a subtype of SqlClient.
 *
 * @since 0.1.0
 * @category models
 */
export interface SqliteClient {
  /** Makes the type unique. No value has it. */
  readonly _: unique symbol
}

/**
 * The client of @effect/sql-sqlite-node: an SqlClient that can also export, back up and load extensions. At run time it
 * is the tag of `@effect/sql-sqlite-node/SqliteClient`, without loading that module. The type of the client is
 * `typeof SqliteClient.Service`.
 *
 * @since 0.1.0
 * @category tags
 */
export const SqliteClient: Context.Tag<SqliteClient, SqliteClientModule.SqliteClient> = Context.GenericTag<
  SqliteClient,
  SqliteClientModule.SqliteClient
>(Client.SqliteClient.key)

/** What the layers provide: the client also under @effect/sql-sqlite-node's own tag. */
type Services = Database.Database | SqlClient.SqlClient | SqliteClientModule.SqliteClient | SqliteClient

const onSqlite = narrowTo(Drivers.sqlite, SqliteClient, (url) =>
  makeError("ConnectionFailed", {
    dialect: "sqlite",
    code: "SQLITE_CANTOPEN",
    reason: `${url} is not a SQLite database: DATABASE_URL has to begin with sqlite: or file:, or be :memory:`,
    transient: false
  }))

/**
 * The SQLite database that the environment configures, as `Database.layer` opens it. Fails with ConnectionFailed if
 * DATABASE_URL names another database, which is not opened, or if there is no SQLite library that runs here.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> = onSqlite(
  Database.layer
)

/**
 * The SQLite database that the environment and the options in code configure together, as `Database.layerWith` opens
 * it. Fails as `layer` does, and the ConfigError also names the options that are invalid.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  options: DatabaseConfig.Options
): Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> => onSqlite(Database.layerWith(options))

/**
 * The SQLite database that a Config describes. Fails as `Database.layerConfig` does, and with ConnectionFailed as
 * `layer` does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<DatabaseConfig.Options>
): Layer.Layer<Services, ConfigError.ConfigError | DatabaseError.DatabaseError> =>
  onSqlite(Database.layerConfig(config))

/**
 * The SQLite database that the options describe. Fails as `Database.make` does, and with ConnectionFailed as `layer`
 * does.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFrom = (
  options: DatabaseConfig.Options
): Layer.Layer<Services, DatabaseError.DatabaseError> => onSqlite(Database.layerFrom(options))

/**
 * Narrows a layer of a database, such as one of TestDatabase, to SQLite: its type then also provides SqliteClient.
 * Fails as that layer does, and with ConnectionFailed as `layer` does.
 *
 * ```ts
 * import { TestDatabase } from "sqlayer"
 * import * as Sqlite from "sqlayer/Sqlite"
 *
 * export const TestLive = Sqlite.layerOf(TestDatabase.layer())
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerOf = <E, R>(
  layer: Layer.Layer<Database.Database | SqlClient.SqlClient, E, R>
): Layer.Layer<Services, E | DatabaseError.DatabaseError, R> => onSqlite(layer)

const export_: Effect.Effect<Uint8Array, SqlError, SqliteClient> = Effect.flatMap(
  SqliteClient,
  (client) => client.export
)

export {
  /**
   * The content of the database, as the bytes of a file. With node:sqlite it needs Node 24 or later, and otherwise
   * fails with SqlError, whose cause is an InvalidStatement.
   *
   * @since 0.1.0
   * @category copies
   */
  export_ as export
}

/**
 * Options of `backup`.
 *
 * @since 0.1.0
 * @category models
 */
export interface BackupOptions {
  /**
   * Reports the progress: the number of pages of the database, and how many remain. Runs up to 20 times a second, and
   * once more at the end. A defect of it is a defect of the backup. Default: none.
   */
  readonly onProgress?: ((progress: SqliteClientModule.BackupMetadata) => Effect.Effect<void>) | undefined
}

/**
 * Copies the database to a file, while it is in use. A file in WAL mode is copied as it was at the beginning, on a
 * separate connection: other statements and sessions run and commit meanwhile. For a database in memory or in another
 * journal mode, and with `thread: "main"`, the copy uses the connection that writes, so other statements wait for it.
 *
 * The copy is written to a new file in the directory of the destination, which is renamed when it is complete and
 * synced to disk. A backup that fails or is interrupted leaves the destination as it was; a process that is killed
 * leaves the new file, whose name ends with `.incomplete`. Fails with SqlError, whose cause is a DatabaseError:
 * ConnectionFailed if the destination cannot be written, is the database itself, or has a WAL. With node:sqlite it
 * needs Node 24 or later, and otherwise fails with InvalidStatement as the cause.
 *
 * @since 0.1.0
 * @category copies
 */
export const backup = (
  destination: string,
  options?: BackupOptions
): Effect.Effect<SqliteClientModule.BackupMetadata, SqlError, SqliteClient> =>
  Effect.flatMap(SqliteClient, (client) => {
    const copy: Client.Backup = client.backup
    return copy(destination, options)
  })

/**
 * Loads an extension into every connection of the database, including those that are opened later. Fails with SqlError,
 * whose cause is a DatabaseError: InsufficientPrivilege where the runtime's permissions forbid extensions.
 *
 * @since 0.1.0
 * @category extensions
 */
export const loadExtension = (path: string): Effect.Effect<void, SqlError, SqliteClient> =>
  Effect.flatMap(SqliteClient, (client) => client.loadExtension(path))
