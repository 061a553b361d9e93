/**
 * Events that are delivered at least once, and counted once.
 *
 * A session that changes bookings stores its events in the same transaction. The worker claims events for a few
 * seconds, delivers them without holding a lock, and removes them. If its process is killed in between, the claim runs
 * out and the events are delivered again, so that the consumer has to recognize those that it has handled.
 */
import { SqlClient } from "@effect/sql"
import { Context, DateTime, Effect, Layer, Schema, Stream } from "effect"
import { randomUUID } from "node:crypto"
import { Database, type DatabaseError } from "sqlayer"
import { type Booking, CurrentTenant } from "./api.js"

export const Event = Schema.Struct({
  id: Schema.UUID,
  kind: Schema.Literal("booked", "canceled"),
  tenant: Schema.UUID,
  booking: Schema.UUID,
  starts: Schema.DateTimeUtc,
  ends: Schema.DateTimeUtc
})
export type Event = typeof Event.Type

const Json = Schema.parseJson(Event)

/** Stores an event in the session that it is called in. A listening worker is notified when the session commits. */
export const publish = (kind: Event["kind"], { ends, id: booking, starts }: Booking) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const created = yield* DateTime.now
    const id = randomUUID()
    const event = yield* Effect.orDie(Schema.encode(Json)({ id, kind, tenant, booking, starts, ends }))
    yield* sql`INSERT INTO outbox ${sql.insert({ id, tenant, event, created, claimed_until: created })}`
    yield* sql.onDialectOrElse({ pg: () => sql`SELECT pg_notify('outbox', '')`, orElse: () => Effect.void })
  })

/** Handles an event. It may be called with the same event more than once. */
export class Consumer extends Context.Tag("booking/Consumer")<
  Consumer,
  (event: Event) => Effect.Effect<void, DatabaseError.DatabaseError>
>() {}

/** Counts the use of each day. It represents another system, which learns of bookings only from the events. */
export const UsageLive = Layer.effect(
  Consumer,
  Effect.map(
    Effect.context<Database.Database | SqlClient.SqlClient>(),
    (context) => (event: Event) =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const added = yield* sql`INSERT INTO handled ${sql.insert({ event: event.id })}
        ON CONFLICT (event) DO NOTHING RETURNING event`
        if (added.length === 1) {
          const sign = event.kind === "booked" ? 1 : -1
          const minutes = sign * DateTime.distance(event.starts, event.ends) / 60_000
          const day = DateTime.formatIsoDateUtc(event.starts)
          yield* sql`INSERT INTO usage ${sql.insert({ tenant: event.tenant, day, bookings: sign, minutes })}
          ON CONFLICT (tenant, day) DO UPDATE SET
            bookings = usage.bookings + excluded.bookings, minutes = usage.minutes + excluded.minutes`
        }
      }).pipe(Database.session({ name: "count usage", retry: true }), Effect.provide(context))
  )
)

/** How long a claim lasts. */
const claimDuration = "5 seconds"

/** Claims events that no worker has claimed. `SKIP LOCKED` skips those that another worker is claiming. */
const claim = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const now = yield* DateTime.now
  const skipLocked = sql.onDialectOrElse({ pg: () => sql`FOR UPDATE SKIP LOCKED`, orElse: () => sql.literal("") })
  return yield* sql<{ readonly id: string; readonly event: string }>`
    UPDATE outbox SET claimed_until = ${DateTime.addDuration(now, claimDuration)} WHERE id IN (
      SELECT id FROM outbox WHERE claimed_until <= ${now} ORDER BY created LIMIT 20 ${skipLocked}
    ) RETURNING id, event`
}).pipe(Database.session({ name: "claim events", retry: true }))

/** An event that cannot be delivered stays claimed until its claim runs out, and is then delivered again. */
const deliver = (row: { readonly id: string; readonly event: string }) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const consumer = yield* Consumer
    yield* consumer(yield* Schema.decode(Json)(row.event))
    yield* sql`DELETE FROM outbox WHERE id = ${row.id}`
  }).pipe(
    Effect.timeout(claimDuration),
    Effect.catchAllCause((cause) => Effect.logWarning(`the event ${row.id} was not delivered`, cause))
  )

/** Delivers events until none is left that can be claimed. */
export const drain = claim.pipe(
  Effect.tap((rows) => Effect.forEach(rows, deliver, { discard: true })),
  Effect.repeat({ while: (rows) => rows.length > 0 })
)

/** Wakes the worker at each notification, and regularly for events that were missed or have to be delivered again. */
const wakes = Stream.unwrap(Effect.map(SqlClient.SqlClient, (sql) =>
  sql.onDialectOrElse({
    pg: () =>
      Stream.merge(
        Stream.tick("1 second"),
        Database.notifications("outbox").pipe(
          Stream.catchAll((error) => Stream.drain(Stream.fromEffect(Effect.logWarning("nobody listens", error))))
        )
      ),
    orElse: () => Stream.tick("200 millis")
  })))

/** Delivers events for as long as the application runs. Any number of processes may have a worker. */
export const WorkerLive = Layer.scopedDiscard(
  wakes.pipe(
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.runForEach(() =>
      Effect.catchAllCause(drain, (cause) => Effect.logWarning("the outbox was not read", cause))
    ),
    Effect.forkScoped
  )
)
