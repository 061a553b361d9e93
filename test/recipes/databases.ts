/** The databases that the recipes are tested on: new ones, migrated, for each build of their layers. */
import type * as SqlClient from "@effect/sql/SqlClient"
import { describe } from "@effect/vitest"
import type * as ConfigError from "effect/ConfigError"
import * as Layer from "effect/Layer"
import { type Database, type DatabaseError, type Migrations, TestDatabase } from "sqlayer"
import { url } from "../support/postgres.js"

type TestLayer = Layer.Layer<
  Database.Database | SqlClient.SqlClient,
  ConfigError.ConfigError | DatabaseError.DatabaseError | Migrations.MigrationError
>

export const postgres = (options: TestDatabase.Options): TestLayer =>
  Layer.suspend(() => TestDatabase.layerPostgres({ url: url(), ...options }))

/** Registers the tests of a recipe that works on both databases. */
export const onBoth = (recipe: string, options: TestDatabase.Options, define: (database: TestLayer) => void) => {
  describe(`${recipe}, on SQLite`, () => {
    define(TestDatabase.layer(options))
  })
  describe(`${recipe}, on PostgreSQL`, () => {
    define(postgres(options))
  })
}
