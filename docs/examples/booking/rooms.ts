/**
 * Rooms, and the credit that bookings are paid from.
 */
import { SqlClient } from "@effect/sql"
import { Effect } from "effect"
import { randomUUID } from "node:crypto"
import { DatabaseError } from "sqlayer"
import * as Kysely from "sqlayer/Kysely"
import { CurrentTenant, NameTaken, type NewRoom } from "./api.js"
import { Db } from "./database.js"

export const add = (room: NewRoom) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const id = randomUUID()
    yield* sql`INSERT INTO room ${sql.insert({ id, tenant, name: room.name, cents_per_hour: room.centsPerHour })}`
    return { id, ...room }
  }).pipe(
    DatabaseError.typed,
    Effect.catchTag("UniqueViolation", () => new NameTaken({ name: room.name }))
  )

export const list = Effect.gen(function*() {
  const db = yield* Db
  const rooms = db.selectFrom("room").select(["id", "name", "cents_per_hour as centsPerHour"])
  return yield* Kysely.execute(rooms.where("tenant", "=", yield* CurrentTenant).orderBy("name"))
})

export const account = Effect.gen(function*() {
  const db = yield* Db
  const accounts = db.selectFrom("account").select("balance").where("tenant", "=", yield* CurrentTenant)
  return yield* Effect.flatten(Kysely.executeTakeFirst(accounts))
}).pipe(Effect.catchTag("NoSuchElementException", Effect.die))

export const usage = Effect.gen(function*() {
  const db = yield* Db
  const days = db.selectFrom("usage").select(["day", "bookings", "minutes"])
  return yield* Kysely.execute(days.where("tenant", "=", yield* CurrentTenant).orderBy("day"))
})

/**
 * Changes the balance and records the reason. The row of the account stays locked until the session ends, so that the
 * payments of a tenant are made one after the other. The table refuses a balance below 0, which is a CheckViolation.
 */
export const pay = (cents: number, reason: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const rows = yield* sql<{ readonly balance: number }>`
      UPDATE account SET balance = balance + ${cents} WHERE tenant = ${tenant} RETURNING balance`
    yield* sql`INSERT INTO entry ${sql.insert({ id: randomUUID(), tenant, amount: cents, reason })}`
    return rows[0]
  })
