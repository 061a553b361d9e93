/**
 * A program that opens a database, and never closes it. Its last statements take a while, and keep it alive until then.
 */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"

const [, , url, file] = process.argv

const program = Effect.gen(function*() {
  const database = yield* Database.make({ environment: "test", url })
  const { sql } = database
  yield* sql`CREATE TABLE IF NOT EXISTS t (a)`
  const read = sql`SELECT a FROM t`
  yield* Effect.all([
    database.session(sql`INSERT INTO t VALUES (1)`, { timeout: "1 hour", statementTimeout: "1 hour" }),
    database.session(read, { readOnly: true }),
    Stream.runDrain(read.stream),
    database.health
  ], { concurrency: "unbounded" })
  yield* Effect.sync(() => process.stdout.write("opened\n"))
  if (file !== undefined) {
    // It waits for the lock of another process.
    yield* database.session(Effect.zipRight(sql`ATTACH ${file} AS locked`, sql`INSERT INTO locked.t VALUES (1)`))
  }
  const [{ n }] = yield* sql<{ readonly n: number }>`WITH RECURSIVE n(i) AS
    (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) AS n FROM n`
  yield* Effect.sync(() => process.stdout.write(`counted ${n}\n`))
})

Effect.runFork(
  Effect.flatMap(
    Scope.make(),
    (scope) => Scope.extend(program, scope).pipe(Effect.provide(Logger.remove(Logger.defaultLogger)))
  )
)
