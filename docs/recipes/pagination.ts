/**
 * Pages of a list that changes while it is read: each page begins after the last row of the one before.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Schema } from "effect"
import { DatabaseError, Migrations } from "sqlayer"

/**
 * Times have milliseconds, as a Date has. With microseconds, the time of a cursor would differ from that of its row.
 */
const table = (time: string) => `
  CREATE TABLE event (id integer PRIMARY KEY, at ${time} NOT NULL, title text NOT NULL);
  CREATE INDEX event_at ON event (at, id)`

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_event": { up: table("timestamptz(3)"), dialect: "postgres" },
    "0002_create_event": { up: table("text"), dialect: "sqlite" }
  })
}

/** A Date of PostgreSQL, and a text of SQLite. */
const Time = Schema.transform(Schema.Union(Schema.DateFromSelf, Schema.String), Schema.ValidDateFromSelf, {
  strict: true,
  decode: (value) => new Date(value),
  encode: (value) => value
})

const Event = Schema.Struct({ id: Schema.Int, at: Time, title: Schema.String })

/** The place of a row in the order, as text that a client sends back unchanged. */
const Cursor = Schema.compose(
  Schema.StringFromBase64Url,
  Schema.parseJson(Schema.Tuple(Schema.Date, Schema.Int))
)

/**
 * The newest events, or those after a cursor. `next` is the cursor of the next page, and undefined on the last one.
 * Fails with a ParseError if the text is not a cursor, and then runs no statement.
 */
export const page = (cursor: string | undefined, size = 20) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const after = cursor === undefined ? undefined : yield* Schema.decode(Cursor)(cursor)
    const where = after === undefined ? sql`` : sql`WHERE (at, id) < (${after[0]}, ${after[1]})`
    // One row more than the page has tells whether there is a next page.
    const rows = yield* sql`SELECT id, at, title FROM event ${where} ORDER BY at DESC, id DESC LIMIT ${size + 1}`
    const events = yield* Effect.orDie(Schema.decodeUnknown(Schema.Array(Event))(rows.slice(0, size)))
    const last = rows.length > size ? events[size - 1] : undefined
    return { events, next: last === undefined ? undefined : yield* Schema.encode(Cursor)([last.at, last.id]) }
  }).pipe(DatabaseError.typed)
