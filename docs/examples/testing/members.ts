/**
 * A small application to test: the members of a club.
 */
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "@effect/platform"
import { SqlClient } from "@effect/sql"
import { Effect, Layer, Schema } from "effect"
import { Database, DatabaseError, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_member": "CREATE TABLE member (email TEXT PRIMARY KEY, points INTEGER NOT NULL DEFAULT 0)"
  })
}

export class EmailTaken extends Schema.TaggedError<EmailTaken>()(
  "EmailTaken",
  { email: Schema.String },
  HttpApiSchema.annotations({ status: 409 })
) {}

export const add = (email: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`INSERT INTO member ${sql.insert({ email })}`
  }).pipe(
    Database.session({ name: "add member" }),
    Effect.catchTag("UniqueViolation", () => new EmailTaken({ email }))
  )

export const reward = (email: string, points: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`UPDATE member SET points = points + ${points} WHERE email = ${email}`
  }).pipe(Database.session({ name: "reward member", retry: true }))

export const list = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  return yield* sql<
    { readonly email: string; readonly points: number }
  >`SELECT email, points FROM member ORDER BY email`
}).pipe(DatabaseError.typed)

const Member = Schema.Struct({ email: Schema.String, points: Schema.Int })

export const ClubApi = HttpApi.make("club").add(
  HttpApiGroup.make("members")
    .add(
      HttpApiEndpoint.post("add", "/members")
        .setPayload(Schema.Struct({ email: Schema.String }))
        .addSuccess(Schema.Void, { status: 201 })
        .addError(EmailTaken)
    )
    .add(HttpApiEndpoint.get("list", "/members").addSuccess(Schema.Array(Member)))
)

/** All other errors of the database are answered with 500. */
const dieOnDatabaseError = <A, E, R>(effect: Effect.Effect<A, E | DatabaseError.DatabaseError, R>) =>
  Effect.catchIf(effect, DatabaseError.isDatabaseError, (error) => Effect.die(error))

const MembersLive = HttpApiBuilder.group(ClubApi, "members", (handlers) =>
  handlers
    .handle("add", ({ payload }) => dieOnDatabaseError(add(payload.email)))
    .handle("list", () => dieOnDatabaseError(list)))

export const ClubLive = HttpApiBuilder.api(ClubApi).pipe(Layer.provide(MembersLive))
