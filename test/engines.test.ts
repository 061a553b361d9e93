/** Engines that lack some of PostgreSQL: what needs it is refused by type and says what to do instead. */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import * as Migrations from "../src/Migrations.js"
import * as Engine from "./support/engine.js"
import { commandComplete, hostileServer, problem, ready, welcome } from "./support/hostileServer.js"
import { query } from "./support/postgres.js"

const open = (url: string, options: Parameters<typeof Database.make>[0] = {}) =>
  Database.make({ environment: "test", url, sslMode: "disable", poolSize: 1, poolMaxOverflow: 0, ...options })

const engines = [["CockroachDB", Engine.cockroach], ["YugabyteDB", Engine.yugabyte], [
  "Aurora DSQL",
  Engine.dsql
]] as const

const refusedWith = (error: DatabaseError, hint: RegExp): void => {
  assert.strictEqual(error._tag, "InvalidStatement", error.message)
  assert.strictEqual(error.code, "0A000")
  assert.match(error.hint ?? "", hint)
}

const typedFailure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<DatabaseError, A, R> =>
  Effect.map(Effect.flip(effect), (error) => {
    const typed = isDatabaseError(error) ? error : fromSqlError(error as never)
    assert(isDatabaseError(typed))
    return typed
  })

describe("engines", () => {
  for (const [name, options] of engines) {
    it.scopedLive(`${name}: a verified session is refused, and recorded is named`, () =>
      Effect.gen(function*() {
        const server = yield* Engine.engineServer(options)
        const database = yield* open(server.url)
        const verified = () => typedFailure(database.session(database.sql`SELECT 1`, { commit: "verified" }))
        refusedWith(yield* verified(), /recorded/)
        const sent = server.statements.length
        refusedWith(yield* verified(), /recorded/)
        assert.strictEqual(server.statements.length, sent, "what is known to be lacking is not sent again")
        yield* database.session(database.sql`SELECT 1`)
      }))

    it.scopedLive(`${name}: a recorded session commits`, () =>
      Effect.gen(function*() {
        const server = yield* Engine.engineServer(options)
        const database = yield* open(server.url)
        const { session, sql } = database
        yield* Effect.provideService(Migrations.commitRecords, SqlClient.SqlClient, sql)
        yield* session(sql`CREATE TABLE items (id int)`, { commit: "recorded" })
        yield* session(sql`INSERT INTO items VALUES (1)`, { commit: "recorded" })
        assert.deepStrictEqual(yield* sql`SELECT id FROM items`, [{ id: 1 }])
      }))

    it.scopedLive(`${name}: notifications are refused`, () =>
      Effect.gen(function*() {
        const server = yield* Engine.engineServer(options)
        const database = yield* open(server.url)
        const error = yield* typedFailure(
          Stream.runDrain(Stream.unwrap(Effect.succeed(Database.notifications("channel")))).pipe(
            Effect.provideService(Database.Database, database)
          )
        )
        refusedWith(error, /poll|change feed/)
      }))

    it.scopedLive(`${name}: a connection with what a borrower has left is cleaned by what there is`, () =>
      Effect.gen(function*() {
        const server = yield* Engine.engineServer(options)
        const database = yield* open(server.url)
        const { sql } = database
        for (let i = 0; i < 3; i++) {
          const [before] = yield* sql<{ tenant: string; pid: number }>`
SELECT coalesce(current_setting('app.tenant', true), '') AS tenant, pg_backend_pid() AS pid`
          assert.strictEqual(before.tenant, "", `round ${i}`)
          yield* sql`SELECT set_config('app.tenant', 'someone', false)`
        }
        assert.strictEqual((yield* database.poolStats).created, 1, "no connection was lost")
        const resets = server.statements.filter((text) => text === "RESET ALL").length
        assert.isAtLeast(resets, 2)
        assert.isAtMost(
          server.statements.filter((text) => text.startsWith("SET seed")).length,
          options === Engine.yugabyte ? 10 : 1,
          "what the engine does not know is tried once"
        )
      }))

    it.scopedLive(`${name}: runners of migrations take turns`, () =>
      Effect.gen(function*() {
        const server = yield* Engine.engineServer(options)
        const runs: Array<string> = []
        const migrations = {
          progress: () => Effect.void,
          loader: Migrations.fromRecord({
            "0001_first": Effect.gen(function*() {
              const { sql } = yield* Database.Database
              runs.push("begin")
              yield* sql`CREATE TABLE first (id int)`
              yield* Effect.sleep("100 millis")
              runs.push("end")
            })
          })
        }
        const run = Effect.scoped(Effect.flatMap(open(server.url), (database) =>
          Effect.provideService(Migrations.run(migrations), Database.Database, database)))
        const results = yield* Effect.all([run, run], { concurrency: "unbounded" })
        assert.deepStrictEqual(runs, ["begin", "end"])
        assert.strictEqual(results.flat().length, 1)
        const [{ count }] = yield* query(
          server.database,
          "SELECT count(*)::int AS count FROM effect_sql_migrations_lock"
        )
        assert.strictEqual(count, 1)
      }))
  }

  it.scopedLive("nested sessions are refused where there are no savepoints, and can join", () =>
    Effect.gen(function*() {
      const server = yield* Engine.engineServer(Engine.dsql)
      const database = yield* open(server.url)
      const nested = (propagation: "join" | "nested") =>
        database.session(Effect.zipRight(
          database.sql`SELECT 1`,
          database.session(database.sql`SELECT 2 AS two`, { propagation })
        ))
      refusedWith(yield* typedFailure(nested("nested")), /join/)
      const sent = server.statements.filter((text) => text.startsWith("SAVEPOINT")).length
      // Now it is known, so that the session around it goes on.
      const error = yield* database.session(Effect.gen(function*() {
        yield* database.sql`CREATE TABLE kept (id int)`
        const error = yield* typedFailure(database.session(database.sql`SELECT 2`))
        yield* database.sql`INSERT INTO kept VALUES (1)`
        return error
      }))
      refusedWith(error, /join/)
      assert.strictEqual(server.statements.filter((text) => text.startsWith("SAVEPOINT")).length, sent)
      assert.deepStrictEqual(yield* database.sql`SELECT id FROM kept`, [{ id: 1 }])
      assert.deepStrictEqual(yield* nested("join"), [{ two: 2 }])
    }))

  it.scopedLive("statements that need what is lacking say what to do instead", () =>
    Effect.gen(function*() {
      const server = yield* Engine.engineServer(Engine.dsql)
      const { sql } = yield* open(server.url)
      refusedWith(yield* typedFailure(sql`CREATE TEMPORARY TABLE t (id int)`), /column/)
      refusedWith(yield* typedFailure(sql`SELECT pg_advisory_lock(1)`), /FOR UPDATE/)
      const error = yield* typedFailure(sql`SELECT no_such_function()`)
      assert.strictEqual(error.code, "42883")
      assert.isUndefined(error.hint?.match(/instead|poll/) ?? undefined)
    }))

  it.scopedLive("an engine that is recognized is asked once, PostgreSQL and what cannot be told from it never", () =>
    Effect.gen(function*() {
      const probes = ({ statements }: Engine.EngineServer) =>
        statements.filter((text) => text === "SAVEPOINT sqlayer_probe").length
      const server = yield* Engine.engineServer(Engine.yugabyte)
      const database = yield* open(server.url, { poolSize: 3 })
      const session = database.session(Effect.zipRight(database.sql`SELECT 1`, Effect.sleep("20 millis")))
      yield* Effect.all([session, session, session], { concurrency: "unbounded" })
      assert.strictEqual((yield* database.poolStats).created, 3)
      assert.strictEqual(probes(server), 1)
      for (const parameters of [{}, Engine.dsql.parameters]) {
        const plain = yield* Engine.engineServer({ parameters, treatments: [] })
        const database = yield* open(plain.url)
        yield* database.sql`SELECT 1`
        assert.deepStrictEqual(plain.statements.filter((text) => text !== "SELECT 1"), [])
      }
    }))

  for (
    const [code, message] of [
      ["40001", "restart transaction: TransactionRetryWithProtoRefreshError: WriteTooOldError"],
      ["40001", "change conflicts with another transaction, please retry: (OC000)"],
      ["OC000", "change conflicts with another transaction, please retry"],
      ["OC001", "schema has been updated by another transaction, please retry"]
    ]
  ) {
    it.scopedLive(`COMMIT answered with ${code} (${message.slice(0, 30)}) runs the session again`, () =>
      Effect.gen(function*() {
        let commits = 0
        const server = yield* hostileServer((socket, piece, nth) => {
          const text = piece.toString("latin1")
          if (nth === 0) {
            socket.write(welcome)
          } else if (text.includes("COMMIT")) {
            commits++
            socket.write(Buffer.concat([
              commits === 1 ? problem({ S: "ERROR", V: "ERROR", C: code, M: message }) : commandComplete("COMMIT"),
              ready("I")
            ]))
          } else {
            const tags = ["BEGIN", "INSERT 0 1"]
            socket.write(Buffer.concat([...tags.map(commandComplete), ready("T")]))
          }
        })
        const database = yield* open(server.url, { preparedStatements: "off" })
        let runs = 0
        const session = Effect.suspend(() => {
          runs++
          return database.sql`INSERT INTO t VALUES (1)`.raw
        })
        const failed = yield* Effect.exit(database.session(session))
        assert(Exit.isFailure(failed) && failed.cause._tag === "Fail")
        assert.strictEqual(failed.cause.error._tag, "SerializationFailure")
        commits = 0
        runs = 0
        yield* database.session(session, { retry: true })
        assert.strictEqual(runs, 2)
      }))
  }
})
