/** A program that opens a database and never closes it: `endsByItself.ts <what it does> <url>`. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Stream from "effect/Stream"
import * as Database from "../../src/Database.js"

const [, , what, url] = process.argv

const runtime = ManagedRuntime.make(
  Database.layerFrom({ url, poolSize: 2, poolMaxOverflow: what === "idle" ? 1 : 0, poolTimeout: "1 second" })
)

const print = (text: string) => Effect.sync(() => process.stdout.write(`${text}\n`))

const statement = (text: string) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(text))

/** `Effect.never` would keep the process alive. */
const heldForEver = Effect.async<never>(() => undefined)

const programs: Record<string, () => void> = {
  /** Leaves three idle connections behind, one of which is to be cleaned and one to be closed. */
  idle: () => {
    const session = Effect.flatMap(Database.Database, (db) => db.session(statement("SELECT 1")))
    const dirty = statement("SELECT set_config('app.user', 'someone', false), pg_sleep(0.5)")
    const work = Effect.all([session, dirty, session], { concurrency: "unbounded" })
    void runtime.runPromise(Effect.zipRight(work, print("done")))
  },
  /** Awaits an answer, with nothing else to keep the process alive. */
  running: () => {
    void runtime.runPromise(Effect.zipRight(statement("SELECT pg_sleep(1)"), print("done")))
  },
  /** Waits for a connection of an exhausted pool. */
  waiting: () => {
    const hold = Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.zipRight(sql.reserve, heldForEver))
    const wait = Effect.catchAll(statement("SELECT 1"), (error) => print(String(error)))
    void runtime.runPromise(Effect.zipRight(statement("SELECT 1"), print("open"))).then(() => {
      runtime.runFork(Effect.scoped(hold))
      runtime.runFork(Effect.scoped(hold))
      // Later, since the connections are to be held.
      return setTimeout(() => runtime.runFork(wait), 500)
    })
  },
  /** Listens, and ends after the first notification. */
  listening: () => {
    const listen = Effect.flatMap(PgClient.PgClient, (pg) => Stream.runHead(pg.listen("channel")))
    void runtime.runPromise(
      Effect.tap(Effect.zipRight(print("listening"), listen as Effect.Effect<unknown, unknown>), print("notified"))
    )
  }
}

programs[what]()
