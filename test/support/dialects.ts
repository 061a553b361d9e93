/**
 * Databases of each dialect, for what must be the same on all of them.
 *
 *     forEachDialect((name, layer) =>
 *       describe(name, () => {
 *         it.live("…", () => Effect.gen(function*() { … }).pipe(Effect.provide(layer)))
 *       })
 *     )
 *
 * Each time the layer is built it is a new and empty database, which is gone when the layer's scope closes.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Database from "../../src/Database.js"
import type * as DatabaseConfig from "../../src/DatabaseConfig.js"
import type { DatabaseError } from "../../src/DatabaseError.js"

/** A kind of database to run tests on. */
export interface Dialect {
  readonly name: string
  readonly dialect: Database.Service["dialect"]
  /** The URL of a new and empty database. */
  readonly url: Effect.Effect<string, never, Scope.Scope>
  /** Whether all sessions share one connection. */
  readonly single: boolean
}

/** A directory that is removed when the scope closes. */
const temporaryDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

export const postgres: Dialect = {
  name: "postgres",
  dialect: "postgres",
  // Imported on demand, because the import starts the server: the tests of the other dialects need none.
  url: Effect.flatMap(Effect.promise(() => import("./postgres.js")), ({ freshDatabase }) => freshDatabase),
  single: false
}

export const sqliteFile: Dialect = {
  name: "sqlite file",
  dialect: "sqlite",
  url: Effect.map(temporaryDirectory, (directory) => `sqlite:///${Path.join(directory, "test.db")}`),
  single: true
}

const sqliteMemory: Dialect = {
  name: "sqlite :memory:",
  dialect: "sqlite",
  url: Effect.succeed(":memory:"),
  single: true
}

export const dialects: ReadonlyArray<Dialect> = [postgres, sqliteFile, sqliteMemory]

type Options = Omit<DatabaseConfig.Options, "url">

// A busy machine may need more than the default's 5 seconds to start the thread of a SQLite file.
const defaults: Options = { environment: "test", connectTimeout: "1 minute" }

/** Opens a new database of the dialect until the scope closes. */
export const make = (
  dialect: Dialect,
  options: Options = {}
): Effect.Effect<Database.Service, DatabaseError, Scope.Scope> =>
  Effect.flatMap(dialect.url, (url) => Database.make({ ...defaults, ...options, url }))

/** A new database of the dialect. */
export const layer = (
  dialect: Dialect,
  options: Options = {}
): Layer.Layer<Database.Database | SqlClient.SqlClient, DatabaseError> =>
  Layer.unwrapScoped(
    Effect.map(dialect.url, (url) => Database.layerFrom({ ...defaults, ...options, url }))
  )

/** Registers the same tests for each dialect. */
export const forEachDialect = (
  define: (
    name: string,
    layer: Layer.Layer<Database.Database | SqlClient.SqlClient, DatabaseError>,
    dialect: Dialect
  ) => void,
  options: Options = {}
): void => {
  for (const dialect of dialects) {
    define(dialect.name, layer(dialect, options), dialect)
  }
}
