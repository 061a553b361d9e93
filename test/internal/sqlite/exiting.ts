/**
 * A program that gives up statements, lets some of them succeed and some fail afterwards, and exits while others run.
 */
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as Database from "../../../src/Database.js"
import { waitForLocks } from "./blocking.js"

const [, , directory, how, exitAfter, ...unlockAfter] = process.argv

const create = (filename: string): Sqlite.Database => {
  const database = new Sqlite(filename)
  database.pragma("journal_mode = WAL")
  database.exec("CREATE TABLE t (a PRIMARY KEY); INSERT INTO t VALUES (0)")
  return database
}

const exit: Record<string, () => void> = {
  "process.exit": () => process.exit(7),
  "an exception": () => {
    throw new Error("expected")
  },
  // Nothing is left to keep the process alive.
  "the end": () => {
    process.exitCode = 7
  }
}

/** An insert waits for a lock within SQLite, and is given up. It then succeeds, or violates a constraint. */
const insert = (index: number, millis: number) =>
  Effect.scoped(Effect.gen(function*() {
    const filename = Path.join(directory, `${index}.db`)
    const attached = Path.join(directory, `${index}.attached.db`)
    create(filename).close()
    const locked = create(attached)
    const database = yield* Database.make({ environment: "test", url: `sqlite:///${filename}` })
    const { sql } = database
    const blocked = Effect.gen(function*() {
      yield* sql.unsafe(waitForLocks)
      yield* sql`INSERT INTO t VALUES (1)`
      yield* sql`ATTACH ${attached} AS attached`
      locked.exec("BEGIN IMMEDIATE")
      yield* sql`INSERT INTO attached.t VALUES (${index % 2})`
    })
    yield* Effect.ignore(database.session(blocked, { timeout: "100 millis" }))
    if (millis > 0) {
      yield* Effect.promise(() => sleep(millis))
      locked.close()
    }
  }))

process.on("exit", () => process.stdout.write("exiting\n"))

Effect.runFork(
  Effect.forEach(unlockAfter, (millis, index) => insert(index, Number(millis)), { concurrency: "unbounded" }).pipe(
    Effect.provide(Logger.remove(Logger.defaultLogger))
  )
)

setTimeout(exit[how], Number(exitAfter))
