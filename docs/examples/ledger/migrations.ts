/**
 * The migrations of the ledger's tables. An applied migration is never edited: a new one changes its tables.
 */
import { SqlClient } from "@effect/sql"
import { Effect } from "effect"
import { Migrations } from "sqlayer"

const createAccount = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE account (
    ${identity(sql)},
    owner TEXT NOT NULL UNIQUE,
    balance BIGINT NOT NULL
  )`
})

const createTransfer = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE transfer (
    ${identity(sql)},
    from_account INTEGER NOT NULL REFERENCES account (id),
    to_account INTEGER NOT NULL REFERENCES account (id),
    amount BIGINT NOT NULL CHECK (amount > 0)
  )`
})

const identity = (sql: SqlClient.SqlClient) =>
  sql.onDialectOrElse({
    pg: () => sql`id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY`,
    orElse: () => sql`id INTEGER PRIMARY KEY`
  })

export const loader = Migrations.fromRecord({
  "0001_create_account": createAccount,
  "0002_create_transfer": createTransfer
})
