/**
 * A nested session in a session that a failed statement has aborted.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { open } from "../clients.js"

for (const dialect of ["postgres", "sqlite"] as const) {
  it.scopedLive(`a nested session of an aborted one does not succeed where a statement in it failed: ${dialect}`, () =>
    Effect.gen(function*() {
      const db = yield* open(dialect, { poolSize: 1, poolMaxOverflow: 0 })
      const { sql } = db
      yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY)`
      yield* sql`INSERT INTO account VALUES (1)`
      const violate = Effect.exit(sql`INSERT INTO account VALUES (1)`)
      const outer = yield* Effect.flip(db.session(Effect.gen(function*() {
        yield* sql`INSERT INTO account VALUES (2)`
        yield* violate
        assert.strictEqual((yield* Effect.flip(db.session(violate)))._tag, "TransactionAborted")
        assert.strictEqual((yield* Effect.flip(db.session(db.session(violate))))._tag, "TransactionAborted")
      })))
      assert.strictEqual(outer._tag, "TransactionAborted")
      assert.deepStrictEqual(yield* sql`SELECT id FROM account`, [{ id: 1 }])
    }))
}
