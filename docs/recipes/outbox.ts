/**
 * A transactional outbox: messages that are sent if and only if a session commits. PostgreSQL only.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Either, Schedule, Stream } from "effect"
import { Database, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_outbox": `
      CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic text NOT NULL,
        payload jsonb NOT NULL,
        attempts integer NOT NULL DEFAULT 0,
        due timestamptz NOT NULL DEFAULT now()
      );
      CREATE INDEX outbox_due ON outbox (due, id)`
  })
}

export interface Message {
  /** The same whenever the message is delivered again, so that its receiver can tell. */
  readonly id: string
  readonly topic: string
  readonly payload: unknown
  readonly attempts: number
}

/** Called in the session whose commit sends the message. The notification is sent by that commit too. */
export const publish = (topic: string, payload: object) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`INSERT INTO outbox ${sql.insert({ topic, payload: JSON.stringify(payload) })}`
    yield* sql`SELECT pg_notify('outbox', '')`
  })

/** Sends a message to its receiver. It uses no database, or one of its own. */
export type Deliver = (message: Message) => Effect.Effect<void, unknown>

/**
 * Delivers one message, and returns whether there was one. The row stays locked meanwhile, and other workers skip it.
 * If this process dies, the server ends the transaction, and the message is there for the next worker.
 */
export const deliverNext = (deliver: Deliver) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const [message] = yield* sql<Message>`
      SELECT id, topic, payload, attempts FROM outbox WHERE due <= now()
      ORDER BY due, id LIMIT 1 FOR UPDATE SKIP LOCKED`
    if (message === undefined) {
      return false
    }
    const delivered = yield* Effect.either(Effect.timeout(deliver(message), "30 seconds"))
    if (Either.isRight(delivered)) {
      yield* sql`DELETE FROM outbox WHERE id = ${message.id}`
    } else {
      yield* Effect.logWarning(`message ${message.id} was not delivered`, delivered.left)
      yield* sql`
        UPDATE outbox SET attempts = attempts + 1, due = clock_timestamp() + least(2 ^ attempts, 3600) * interval '1 s'
        WHERE id = ${message.id}`
    }
    return true
  }).pipe(Database.session({ name: "outbox" }))

/**
 * Delivers messages forever. A notification says that there may be some; the tick is for messages that are due later,
 * and for those whose notification was missed. Notifications that arrive during a round cause one more round.
 */
export const worker = (deliver: Deliver) =>
  Stream.merge(Database.notifications("outbox"), Stream.tick("10 seconds")).pipe(
    Stream.buffer({ capacity: 1, strategy: "sliding" }),
    Stream.runForEach(() => Effect.repeat(deliverNext(deliver), { while: (more) => more })),
    Effect.tapError((error) => Effect.logWarning("the outbox starts again", error)),
    Effect.retry(Schedule.spaced("1 second"))
  )
