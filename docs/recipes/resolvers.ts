/**
 * Many lookups that become one statement: @effect/sql's SqlResolver.
 */
import { SqlClient, SqlResolver } from "@effect/sql"
import { Array, Effect, Schema } from "effect"
import { Database, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_tables": `
      CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL);
      CREATE TABLE book (id integer PRIMARY KEY, title text NOT NULL, author integer NOT NULL REFERENCES author (id))`
  })
}

const Author = Schema.Struct({ id: Schema.Int, name: Schema.String })
const Book = Schema.Struct({ id: Schema.Int, title: Schema.String, author: Schema.Int })

/**
 * Grouped, although an id has one author at most: `SqlResolver.findById` answers only one of several requests for the
 * same id in a batch, and the others end in an interruption. A grouped resolver answers all of them.
 */
export const makeAuthorOf = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const byId = yield* SqlResolver.grouped("AuthorById", {
    Request: Schema.Int,
    RequestGroupKey: (id) => id,
    Result: Author,
    ResultGroupKey: ({ id }) => id,
    execute: (ids) => sql`SELECT id, name FROM author WHERE ${sql.in("id", Array.dedupe(ids))}`
  })
  return (id: number) => Effect.map(byId.execute(id), Array.head)
})

/**
 * Two statements, however many books there are, in one session: both see the same rows, and its settings apply to both.
 */
export const shelf = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const authorOf = yield* makeAuthorOf
  const books = yield* Effect.flatMap(
    sql`SELECT id, title, author FROM book ORDER BY id`,
    Schema.decodeUnknown(Schema.Array(Book))
  )
  return yield* Effect.forEach(
    books,
    ({ author, title }) => Effect.map(authorOf(author), (found) => ({ title, author: found })),
    { batching: true, concurrency: "unbounded" }
  )
}).pipe(Database.session({ name: "shelf", readOnly: true, isolation: "repeatable read" }))
