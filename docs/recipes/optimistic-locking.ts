/**
 * Documents that several people edit: a save does not overwrite another's changes, and nothing is locked while they
 * type.
 */
import { SqlClient } from "@effect/sql"
import { Array, Effect, Schedule, Schema } from "effect"
import { Database, DatabaseError, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_document":
      "CREATE TABLE document (id integer PRIMARY KEY, body text NOT NULL, version integer NOT NULL DEFAULT 1)"
  })
}

const Document = Schema.Struct({ id: Schema.Int, body: Schema.String, version: Schema.Int })
type Document = typeof Document.Type

export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", { id: Schema.Int }) {}

/** Somebody else has saved the document: `current` is what it is now. */
export class Stale extends Schema.TaggedError<Stale>()("Stale", { current: Document }) {}

const documents = (rows: ReadonlyArray<unknown>) => Effect.orDie(Schema.decodeUnknown(Schema.Array(Document))(rows))

export const get = (id: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const found = yield* documents(yield* sql`SELECT id, body, version FROM document WHERE id = ${id}`)
    return yield* Effect.mapError(Array.head(found), () => new NotFound({ id }))
  }).pipe(DatabaseError.typed)

/**
 * Saves a document that was read with this version. Of several concurrent saves one succeeds, and the others are Stale.
 */
export const save = ({ body, id, version }: Document) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const saved = yield* documents(
      yield* sql`
        UPDATE document SET body = ${body}, version = version + 1 WHERE id = ${id} AND version = ${version}
        RETURNING id, body, version`
    )
    return saved.length === 1 ? saved[0] : yield* new Stale({ current: yield* get(id) })
  }).pipe(Database.session({ name: "save document" }))

/** For a change that the program can make again: reads, changes and saves until no other save came in between. */
export const modify = (id: number, change: (body: string) => string) =>
  Effect.flatMap(get(id), (document) => save({ ...document, body: change(document.body) })).pipe(
    Effect.retry({
      while: (error) => error._tag === "Stale",
      schedule: Schedule.jittered(Schedule.exponential("10 millis")),
      times: 20
    })
  )
