/**
 * A program that reads rows on the main thread too, and exits without closing its database.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Database from "../../../src/Database.js"

const [, , filename, how] = process.argv

const iteration = Effect.async<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const program = Effect.gen(function*() {
  const { sql } = yield* Database.make({ environment: "test", url: `sqlite:///${filename}` })
  yield* sql`CREATE TABLE t (id INTEGER PRIMARY KEY)`
  yield* sql`INSERT INTO t VALUES (1)`
  for (let i = 0; i < 30; i++) {
    yield* iteration
    yield* sql`SELECT id FROM t WHERE id = 1`
  }
  yield* Effect.sync(() => process.stdout.write(`exiting ${Fs.existsSync(`${filename}-wal`)}\n`))
  yield* iteration
  if (how === "process.exit") {
    yield* Effect.sync(() => process.exit(0))
  }
})

Effect.runFork(Effect.flatMap(Scope.make(), (scope) => Scope.extend(program, scope)))
