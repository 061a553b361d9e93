/**
 * Requests that are carried out once, however often they are sent.
 */
import { SqlClient } from "@effect/sql"
import { Effect, Schema } from "effect"
import { createHash } from "node:crypto"
import { Database } from "sqlayer"
import { CurrentTenant, KeyReused } from "./api.js"

interface Request<A, I> {
  /** The header Idempotency-Key. */
  readonly key: string
  /** What is asked for, as a value that JSON can represent. */
  readonly payload: unknown
  readonly answer: Schema.Schema<A, I>
}

/**
 * Carries the request out in a session that also stores its answer under its key. A request whose key has an answer
 * gets that answer. A request that arrives while the first one is running waits for it in its INSERT. A request that
 * fails leaves nothing behind, and can be sent again with its key.
 *
 * With `recorded` and `retry`, a request is carried out exactly once, even if the answer to its COMMIT is lost.
 */
export const once = <A, I>({ answer, key, payload }: Request<A, I>) => <E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const tenant = yield* CurrentTenant
    const Answer = Schema.parseJson(answer)
    const fingerprint = createHash("sha256").update(JSON.stringify(payload)).digest("hex")
    const claimed = yield* sql`INSERT INTO request ${sql.insert({ tenant, key, fingerprint })}
      ON CONFLICT (tenant, key) DO NOTHING RETURNING key`
    if (claimed.length === 0) {
      const [stored] = yield* sql<{ readonly fingerprint: string; readonly answer: string }>`
        SELECT fingerprint, answer FROM request WHERE tenant = ${tenant} AND key = ${key}`
      return stored.fingerprint === fingerprint
        ? yield* Effect.orDie(Schema.decode(Answer)(stored.answer))
        : yield* new KeyReused({ key })
    }
    const done = yield* effect
    const encoded = yield* Effect.orDie(Schema.encode(Answer)(done))
    yield* sql`UPDATE request SET answer = ${encoded} WHERE tenant = ${tenant} AND key = ${key}`
    return done
  }).pipe(Database.session({ name: "once", commit: "recorded", retry: true }))
