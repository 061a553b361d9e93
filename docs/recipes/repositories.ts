/**
 * A repository of @effect/sql's Model. Its errors are defects, which sessions turn back into typed errors.
 */
import { Model, SqlClient, SqlSchema } from "@effect/sql"
import { Context, Effect, Layer, Schema } from "effect"
import { Database, DatabaseError, DatabaseTypes, Migrations } from "sqlayer"

const table = (id: string, time: string) => `
  CREATE TABLE member (
    id ${id}, email text NOT NULL UNIQUE, name text NOT NULL, "createdAt" ${time} NOT NULL, "updatedAt" ${time} NOT NULL
  )`

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_member": {
      up: table("integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "timestamptz"),
      dialect: "postgres"
    },
    "0002_create_member": { up: table("integer PRIMARY KEY", "text"), dialect: "sqlite" }
  })
}

/** The fields DateTimeInsert and DateTimeUpdate are read as texts, so PostgreSQL's times have to be read as such. */
export const types = { timestamptz: DatabaseTypes.microseconds }

export const MemberId = Schema.Int.pipe(Schema.brand("MemberId"))

export class Member extends Model.Class<Member>("Member")({
  id: Model.Generated(MemberId),
  email: Schema.NonEmptyTrimmedString,
  name: Schema.String,
  createdAt: Model.DateTimeInsert,
  updatedAt: Model.DateTimeUpdate
}) {}

export class EmailTaken extends Schema.TaggedError<EmailTaken>()("EmailTaken", { email: Schema.String }) {}

const make = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const repository = yield* Model.makeRepository(Member, { tableName: "member", spanPrefix: "Members", idColumn: "id" })

  const findByEmail = SqlSchema.findOne({
    Request: Schema.String,
    Result: Member,
    execute: (email) => sql`SELECT * FROM member WHERE email = ${email}`
  })

  /** The repository turns every error into a defect, and the session turns that back into the error. */
  const signUp = (email: string, name: string) =>
    repository.insert(Member.insert.make({ email, name })).pipe(
      Database.session({ name: "sign up" }),
      Effect.catchTag("UniqueViolation", () => new EmailTaken({ email }))
    )

  /**
   * Locks the row before it is read, so that no change in between is lost. On SQLite, sessions that write take turns.
   */
  const rename = (id: typeof MemberId.Type, name: string) =>
    Effect.gen(function*() {
      yield* sql.onDialectOrElse({
        pg: () => sql`SELECT FROM member WHERE id = ${id} FOR UPDATE`,
        orElse: () => Effect.void
      })
      const found = yield* repository.findById(id)
      return yield* Effect.transposeMapOption(found, (member) =>
        repository.update(Member.update.make({ id, email: member.email, name })))
    }).pipe(Database.session({ name: "rename" }))

  return {
    signUp,
    rename,
    findByEmail: (email: string) =>
      findByEmail(email).pipe(Effect.catchTag("ParseError", Effect.die), DatabaseError.typed)
  }
})

export class Members extends Context.Tag("Members")<Members, Effect.Effect.Success<typeof make>>() {
  static readonly layer = Layer.effect(Members, make)
}
