/** The TransactionConnection of @effect/sql that others provide, with a connection that was reserved from the database. */
import * as SqlClient from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import { assert, describe } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type * as Database from "../../../src/Database.js"
import { forEachDialect, make, postgres } from "../../support/dialects.js"
import { assertIdle, failure, insert, live, numbers, open } from "./harness.js"

const one = { poolSize: 1, poolMaxOverflow: 0 }

const execute = (connection: SqlConnection.Connection, text: string) =>
  Effect.asVoid(connection.executeUnprepared(text, [], undefined))

/** What applications write to have another isolation level. */
const withTransaction = ({ sql }: Database.Service, begin: string) =>
  SqlClient.makeWithTransaction({
    transactionTag: SqlClient.TransactionConnection,
    spanAttributes: [],
    acquireConnection: Effect.flatMap(Scope.make(), (scope) =>
      Effect.map(Scope.extend(sql.reserve, scope), (connection) => [scope, connection] as const)),
    begin: (connection) =>
      execute(connection, begin),
    savepoint: (connection, id) => execute(connection, `SAVEPOINT own_${id}`),
    commit: (connection) => execute(connection, "COMMIT"),
    rollback: (connection) => execute(connection, "ROLLBACK"),
    rollbackSavepoint: (connection, id) => execute(connection, `ROLLBACK TO SAVEPOINT own_${id}`)
  })

/** A connection that was reserved, as the one of the code inside, with so many transactions open on it, less one. */
const reserved = <A, E, R>(
  db: Database.Service,
  depth: number,
  use: (connection: SqlConnection.Connection) => Effect.Effect<A, E, R>
) =>
  Effect.scoped(
    Effect.flatMap(db.sql.reserve, (connection) =>
      Effect.provideService(use(connection), SqlClient.TransactionConnection, [connection, depth]))
  )

forEachDialect((name, _, dialect) =>
  describe(`a TransactionConnection that others provide on ${name}`, () => {
    live("is honoured as makeWithTransaction provides it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const transaction = withTransaction(
          db,
          dialect.dialect === "postgres" ? "BEGIN ISOLATION LEVEL SERIALIZABLE" : "BEGIN"
        )
        const { used } = yield* db.poolStats
        assert.strictEqual(used, 0)
        yield* transaction(Effect.gen(function*() {
          yield* insert(db, 1)
          if (dialect.dialect === "postgres") {
            assert.deepStrictEqual(
              yield* db.sql`select current_setting('transaction_isolation') as level`,
              [{ level: "serializable" }]
            )
          }
          yield* db.sql.withTransaction(insert(db, 2))
          yield* Effect.exit(db.session(Effect.zipRight(insert(db, 3), Effect.fail("undone"))))
          yield* Effect.exit(transaction(Effect.zipRight(insert(db, 4), Effect.fail("undone"))))
          yield* transaction(insert(db, 5))
          yield* db.session(insert(db, 6), { propagation: "join" })
        }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 5, 6])
        const exit = yield* Effect.exit(transaction(Effect.zipRight(insert(db, 7), Effect.fail("undone"))))
        assert.isTrue(Exit.isFailure(exit))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 5, 6])
        yield* assertIdle(db)
      }))

    live("is honoured as test layers provide it, with a transaction that they roll back", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const layer = Layer.scopedContext(Effect.gen(function*() {
          const connection = yield* db.sql.reserve
          yield* execute(connection, "BEGIN")
          yield* Effect.addFinalizer(() => Effect.orDie(execute(connection, "ROLLBACK")))
          return Context.make(SqlClient.TransactionConnection, [connection, 1] as const)
        }))
        const test = Effect.gen(function*() {
          yield* insert(db, 1)
          yield* db.session(insert(db, 2))
          yield* db.sql.withTransaction(Effect.zipRight(insert(db, 3), db.session(insert(db, 4))))
          assert.strictEqual((yield* failure(db.session(insert(db, 4))))._tag, "UniqueViolation")
          return yield* numbers(db)
        })
        assert.deepStrictEqual(yield* Effect.provide(test, layer), [1, 2, 3, 4])
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      }))

    live("is honoured as migration locks provide it, with no transaction open", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* reserved(db, -1, (connection) =>
          Effect.gen(function*() {
            yield* insert(db, 1)
            yield* db.sql.withTransaction(Effect.zipRight(insert(db, 2), db.sql.withTransaction(insert(db, 3))))
            const exit = yield* Effect.exit(db.session(Effect.zipRight(
              insert(db, 4),
              db.session(Effect.zipRight(insert(db, 5), Effect.fail("undone")))
            )))
            assert.isTrue(Exit.isFailure(exit))
            yield* db.session(Effect.void)
            yield* Effect.scoped(
              Effect.flatMap(db.acquireSession(), ({ commit, run }) => Effect.zipRight(run(insert(db, 6)), commit))
            )
            yield* Effect.scoped(Effect.flatMap(db.acquireSession(), ({ run }) => run(insert(db, 7))))
            assert.strictEqual(
              (yield* failure(db.session(insert(db, 1))))._tag,
              "UniqueViolation"
            )
            // One that is begun by hand after all is one for the sessions too.
            yield* execute(connection, "BEGIN")
            yield* db.session(insert(db, 8))
            yield* execute(connection, "ROLLBACK")
            assert.strictEqual((yield* db.poolStats).used, 1)
          }))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 6])
        yield* assertIdle(db)
      }))

    live("is not shared by two transactions at once", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* reserved(db, -1, () =>
          Effect.gen(function*() {
            const started = yield* Deferred.make<void>()
            const begun = yield* Deferred.make<void>()
            const goOn = yield* Deferred.make<void>()
            const unbegun = yield* Effect.fork(db.session(Effect.zipRight(
              Effect.zipRight(Deferred.succeed(started, undefined), Deferred.await(begun)),
              insert(db, 2)
            )))
            yield* Deferred.await(started)
            const first = yield* Effect.fork(db.session(Effect.zipRight(
              insert(db, 1),
              Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(goOn))
            )))
            yield* Deferred.await(begun)
            // The one that had started before fails; one that starts now is nested.
            assert.strictEqual((yield* failure(Fiber.join(unbegun)))._tag, "InvalidStatement")
            yield* Effect.exit(db.session(Effect.zipRight(insert(db, 3), Effect.fail("undone"))))
            yield* db.session(insert(db, 4))
            yield* Deferred.succeed(goOn, undefined)
            yield* Fiber.join(first)
          }))
        assert.deepStrictEqual(yield* numbers(db), [1, 4])
        yield* assertIdle(db)
      }))

    live("is not waited for by the code inside of its own nested session", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        yield* reserved(db, 0, (connection) =>
          Effect.gen(function*() {
            yield* execute(connection, "BEGIN")
            const error = yield* failure(db.session(Effect.zipRight(
              insert(db, 1),
              execute(connection, "INSERT INTO items VALUES (2)")
            )))
            assert.strictEqual(error._tag, "InvalidStatement")
            yield* insert(db, 3)
            yield* execute(connection, "COMMIT")
          }))
        assert.deepStrictEqual(yield* numbers(db), [3])
        yield* assertIdle(db)
      }))

    live("is of no use once its scope is closed", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const connection = yield* Effect.scoped(db.sql.reserve)
        const late = Effect.provideService(insert(db, 1), SqlClient.TransactionConnection, [connection, -1])
        assert.strictEqual((yield* failure(late))._tag, "SessionClosed")
        const session = Effect.provideService(db.session(insert(db, 1)), SqlClient.TransactionConnection, [
          connection,
          -1
        ])
        assert.strictEqual((yield* failure(session))._tag, "SessionClosed")
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      }))

    live("of another client is none of this database", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, one)
        const other = yield* make(dialect, one)
        yield* reserved(other, -1, () => Effect.zipRight(insert(db, 1), db.session(insert(db, 2))))
        const foreign: SqlConnection.Connection = {
          execute: () => Effect.dieMessage("foreign"),
          executeRaw: () => Effect.dieMessage("foreign"),
          executeStream: () => {
            throw new Error("foreign")
          },
          executeValues: () => Effect.dieMessage("foreign"),
          executeUnprepared: () => Effect.dieMessage("foreign")
        }
        const inForeign = Effect.provideService(SqlClient.TransactionConnection, [foreign, 0])
        yield* inForeign(Effect.zipRight(insert(db, 3), db.session(insert(db, 4))))
        yield* Effect.exit(db.session(Effect.zipRight(inForeign(insert(db, 5)), Effect.fail("undone"))))
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
        yield* assertIdle(db)
      }))
  })
)

describe("a session on postgres", () => {
  live("is left where TransactionConnection is omitted", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, { poolSize: 2, poolMaxOverflow: 0 })
      const outside = Effect.mapInputContext(
        Context.omit(SqlClient.TransactionConnection) as unknown as (
          context: Context.Context<never>
        ) => Context.Context<never>
      )
      yield* Effect.exit(db.session(Effect.gen(function*() {
        yield* insert(db, 1)
        yield* outside(insert(db, 2))
        yield* outside(db.session(insert(db, 3)))
        return yield* Effect.fail("undone")
      })))
      assert.deepStrictEqual(yield* numbers(db), [2, 3])
      yield* assertIdle(db)
    }))
})
