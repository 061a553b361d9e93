import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { forEachDialect } from "../../support/dialects.js"
import { assertIdle, failure, insert, live, numbers, open } from "./harness.js"

forEachDialect((name, _, dialect) =>
  describe(`a nested session on ${name}`, () => {
    live("of an aborted one does not succeed where a statement in it failed", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect)
        yield* insert(db, 1)
        yield* db.sql`CREATE TABLE account (id INTEGER PRIMARY KEY)`
        yield* db.sql`INSERT INTO account VALUES (1)`
        const violate = Effect.exit(db.sql`INSERT INTO account VALUES (1)`)
        const outer = yield* failure(db.session(Effect.gen(function*() {
          yield* insert(db, 2)
          yield* violate
          assert.strictEqual((yield* failure(db.session(violate)))._tag, "TransactionAborted")
          assert.strictEqual((yield* failure(db.session(db.session(violate))))._tag, "TransactionAborted")
          const inner: Array<string> = []
          yield* failure(db.session(Effect.map(failure(db.session(violate)), ({ _tag }) => inner.push(_tag))))
          assert.deepStrictEqual(inner, ["TransactionAborted"])
        })))
        assert.strictEqual(outer._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* numbers(db), [1])
        yield* assertIdle(db)
      }))

    const ends = dialect.dialect === "sqlite" ? ["ROLLBACK", "INSERT OR ROLLBACK INTO items VALUES (1)"] : ["ROLLBACK"]
    for (const statement of ends) {
      for (const fails of [true, false]) {
        live(`that ends the whole transaction, and then ${fails ? "fails" : "goes on"}: ${statement}`, () =>
          Effect.gen(function*() {
            const db = yield* open(dialect)
            yield* insert(db, 1)
            const error = yield* failure(db.session(Effect.gen(function*() {
              yield* insert(db, 2)
              const end = Effect.ignore(db.sql.unsafe(statement))
              yield* Effect.ignore(db.session(fails ? Effect.zipRight(end, Effect.fail("mine")) : end))
              // Not as a statement that commits by itself.
              yield* Effect.ignore(insert(db, 3))
              yield* Effect.ignore(db.session(insert(db, 4)))
            })))
            assert.strictEqual(error._tag, "TransactionAborted")
            assert.deepStrictEqual(yield* numbers(db), [1])
            yield* db.session(db.session(insert(db, 5)))
            assert.deepStrictEqual(yield* numbers(db), [1, 5])
            yield* assertIdle(db)
          }))
      }
    }
  })
)
