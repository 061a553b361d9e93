import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { Open } from "../peer.js"
import { open, withTransaction } from "./effect.js"

export const postgres: Open = (options) =>
  open({
    layer: PgClient.layer({ url: Redacted.make(options.url), maxConnections: options.pool }),
    session: withTransaction
  }, options)

export const sqlite: Open = (options) =>
  open({
    layer: SqliteClient.layer({ filename: options.url }),
    session: withTransaction,
    prepare: Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe("PRAGMA synchronous = FULL"))
  }, options)
