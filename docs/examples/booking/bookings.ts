/**
 * Bookings, which never overlap, and are paid when they are made.
 */
import { SqlClient } from "@effect/sql"
import { Array, DateTime, Effect, Schema } from "effect"
import { randomUUID } from "node:crypto"
import { Database, DatabaseError } from "sqlayer"
import * as Kysely from "sqlayer/Kysely"
import { Booking, CurrentTenant, InsufficientCredit, type NewBooking, NotFound, type Place, RoomTaken } from "./api.js"
import { Db } from "./database.js"
import * as Outbox from "./outbox.js"
import * as Rooms from "./rooms.js"
import * as Tenants from "./tenants.js"

/** Rows that do not match the schema are a defect. */
const decode = (rows: ReadonlyArray<unknown>) => Effect.orDie(Schema.decodeUnknown(Schema.Array(Booking))(rows))

const priceOf = ({ ends, starts }: NewBooking, centsPerHour: number) =>
  Math.ceil(DateTime.distance(starts, ends) / 3_600_000 * centsPerHour)

/**
 * Pays for a booking and makes it. On PostgreSQL an exclusion constraint refuses one that overlaps with another, on
 * SQLite a trigger, whose error is a CheckViolation. Either fails the session, which rolls the payment back.
 */
export const book = (order: NewBooking) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const rooms = yield* sql<{ readonly cents_per_hour: number }>`
      SELECT cents_per_hour FROM room WHERE tenant = ${tenant} AND id = ${order.room}`
    if (rooms.length === 0) {
      return yield* new NotFound({ id: order.room })
    }
    const booking: Booking = { id: randomUUID(), ...order, cents: priceOf(order, rooms[0].cents_per_hour) }
    yield* Rooms.pay(-booking.cents, `booking ${booking.id}`).pipe(
      DatabaseError.typed,
      Effect.catchTag("CheckViolation", () => new InsufficientCredit({ cents: booking.cents }))
    )
    yield* sql`INSERT INTO booking ${sql.insert({ tenant, ...booking })}`.pipe(
      DatabaseError.typed,
      Effect.catchTag("ExclusionViolation", "CheckViolation", () => new RoomTaken({ room: order.room }))
    )
    yield* Outbox.publish("booked", booking)
    return booking
  })

/**
 * Removes a booking and pays it back. Of two concurrent cancellations one succeeds, and the other fails with NotFound.
 */
export const cancel = (id: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const rows = yield* sql`DELETE FROM booking WHERE tenant = ${tenant} AND id = ${id}
      RETURNING id, room, starts, ends, cents`
    const booking = yield* Effect.mapError(Effect.flatMap(decode(rows), Array.head), () => new NotFound({ id }))
    yield* Rooms.pay(booking.cents, `cancellation of ${id}`)
    yield* Outbox.publish("canceled", booking)
  })

const pageSize = 100

/** A page of bookings in the order of their start: the first one, or the one after a place. */
export const list = (after: Place | undefined) =>
  Effect.gen(function*() {
    const db = yield* Db
    const all = db.selectFrom("booking").select(["id", "room", "starts", "ends", "cents"])
      .where("tenant", "=", yield* CurrentTenant).orderBy("starts").orderBy("id").limit(pageSize + 1)
    const page = after === undefined
      ? all
      : all.where((is) => is(is.refTuple("starts", "id"), ">", is.tuple(DateTime.formatIso(after.starts), after.id)))
    const rows = yield* Kysely.execute(page)
    const bookings = yield* decode(rows.slice(0, pageSize))
    return rows.length > pageSize ? { bookings, next: bookings[pageSize - 1] } : { bookings }
  })

/**
 * All bookings as CSV, in constant memory. The stream reads in a session of its own, which has the setting and the role
 * of the tenant. A client that disconnects, or takes longer than the timeout, ends the session.
 */
export const csv = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const database = yield* Database.Database
  const tenant = yield* CurrentTenant
  const guard = yield* Tenants.guard
  const minute = (column: string) =>
    sql.onDialectOrElse({
      pg: () => sql`to_char(${sql(column)} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"')`,
      orElse: () => sql`strftime('%Y-%m-%dT%H:%MZ', ${sql(column)})`
    })
  const query = sql`SELECT booking.id, room.name AS room, ${minute("starts")} AS starts, ${
    minute("ends")
  } AS ends, cents
    FROM booking JOIN room ON room.id = booking.room WHERE booking.tenant = ${tenant} ORDER BY booking.starts, booking.id`
  return database.copyTo(query, { format: "csv", header: true }).pipe(
    database.sessionStream({ ...guard, name: "export", readOnly: true, timeout: "5 minutes" })
  )
})
