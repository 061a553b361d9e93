/**
 * Accounts and transfers in the database, with the same statements on SQLite and PostgreSQL.
 */
import { SqlClient } from "@effect/sql"
import { Array, Effect, Order, Schema } from "effect"
import { Database, DatabaseError } from "sqlayer"
import {
  Account,
  AccountNotFound,
  type AccountOpening,
  InsufficientFunds,
  OwnerTaken,
  type TransferOrder
} from "./api.js"

/** PostgreSQL returns a bigint as text, since it may exceed the range of a JavaScript number. */
const Row = Schema.Struct({ ...Account.fields, balance: Schema.Union(Schema.Int, Schema.NumberFromString) })

/** Rows that do not match the schema are a defect. */
const accounts = (rows: ReadonlyArray<unknown>) => Effect.orDie(Schema.decodeUnknown(Schema.Array(Row))(rows))

const one = (id: number) => (found: ReadonlyArray<Account>) =>
  Effect.mapError(Array.head(found), () => new AccountNotFound({ account: id }))

/** `typed` turns a statement's SqlError into a DatabaseError, inside any session or outside of one. */
export const open = (opening: AccountOpening) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql`INSERT INTO account ${sql.insert(opening)} RETURNING id, owner, balance`
    return (yield* accounts(rows))[0]
  }).pipe(
    DatabaseError.typed,
    Effect.catchTag("UniqueViolation", () => new OwnerTaken({ owner: opening.owner }))
  )

export const get = (id: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql`SELECT id, owner, balance FROM account WHERE id = ${id}`
    return yield* Effect.flatMap(accounts(rows), one(id))
  }).pipe(DatabaseError.typed)

export const list = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  return yield* Effect.flatMap(sql`SELECT id, owner, balance FROM account ORDER BY id`, accounts)
}).pipe(DatabaseError.typed)

/**
 * Moves money, or fails and changes nothing: the session rolls back everything that it did.
 *
 * The accounts are updated, and so locked, in the order of their ids, so that two transfers never deadlock.
 */
export const transfer = (order: TransferOrder) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const change = (id: number, amount: number) =>
      sql`UPDATE account SET balance = balance + ${amount} WHERE id = ${id} RETURNING id, owner, balance`.pipe(
        Effect.flatMap(accounts),
        Effect.flatMap(one(id))
      )
    const changes = [{ id: order.from, amount: -order.amount }, { id: order.to, amount: order.amount }]
    const changed = yield* Effect.forEach(
      Array.sortWith(changes, ({ id }) => id, Order.number),
      ({ amount, id }) => change(id, amount)
    )
    const overdrawn = changed.find(({ balance, id }) => id === order.from && balance < 0)
    if (overdrawn !== undefined) {
      return yield* new InsufficientFunds({ account: overdrawn.id, missing: -overdrawn.balance })
    }
    const entry = { from_account: order.from, to_account: order.to, amount: order.amount }
    const rows = yield* sql<{ readonly id: number }>`INSERT INTO transfer ${sql.insert(entry)} RETURNING id`
    return { ...order, id: rows[0].id }
  }).pipe(Database.session({ name: "transfer", retry: true }))
