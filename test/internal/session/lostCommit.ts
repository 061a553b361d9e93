/**
 * Sessions whose COMMIT, or the answer to it, is lost on the network.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Database from "../../../src/Database.js"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import type { Restore } from "../../../src/internal/driver.js"
import { connect } from "../../../src/internal/postgres/connect.js"
import { makeSetup } from "../../../src/internal/postgres/setup.js"
import * as Migrations from "../../../src/Migrations.js"
import * as Session from "../../../src/Session.js"
import { query } from "../../support/client.js"
import { eventually } from "../../support/eventually.js"
import { type Decision, type Proxy, proxy, type ProxyConnection } from "../../support/proxy.js"
import { createTables, insert, numbers } from "./harness.js"

const isCommit = (chunk: Buffer) => chunk.includes("COMMIT")

/** For a session that is run again. */
export const recorded = { commit: "recorded", retry: true } as const

/** A database of one connection, by default with the tables of the tests, and the network in front of it. */
export const proxied = (
  url: string,
  prepare: (db: Database.Service) => Effect.Effect<unknown, SqlError> = createTables
) =>
  Effect.gen(function*() {
    const network = yield* proxy(url)
    const options = { poolSize: 1, poolMaxOverflow: 0, connectTimeout: "2 seconds" } as const
    const db = yield* Database.make({ environment: "test", ...options, url: network.url })
    yield* prepare(db)
    return { db, network }
  })

/** The same with the table of recorded commits. The connection is clean, so that nothing but a COMMIT looks like one. */
export const migrated = (url: string) =>
  Effect.tap(proxied(url), ({ db }) =>
    Effect.zipRight(
      Effect.provideService(
        Migrations.run({ loader: Migrations.fromRecord({ "0001_commit_records": Migrations.commitRecords }) }),
        Database.Database,
        db
      ),
      numbers(db)
    ))

/** How many rows there are of each outcome. */
export const records = (url: string): Effect.Effect<{ readonly [committed: string]: number }> =>
  Effect.map(
    query(url, "SELECT committed, count(*)::int FROM sqlayer.commits GROUP BY committed ORDER BY committed"),
    (rows) => Object.fromEntries(rows.map(({ committed, count }) => [committed, count]))
  )

/** What a server has in `items`. */
export const itemsOf = (url: string): Effect.Effect<ReadonlyArray<number>> =>
  Effect.map(query(url, "SELECT n FROM items ORDER BY n"), (rows) => rows.map(({ n }) => n))

/** Opens connections without a pool. */
export const connecting = (url: string) => (restore: Restore) =>
  Effect.flatMap(
    Effect.orDie(DatabaseConfig.resolve({ url })),
    (settings) => connect(makeSetup(settings, settings.target as DatabaseConfig.PostgresTarget), restore)
  )

/** Does something to the next COMMIT on its way, once. */
export const atCommit = (network: Proxy, decide: (connection: ProxyConnection) => Decision) =>
  Effect.suspend(() => {
    let armed = true
    return network.onClientData((chunk, connection) => {
      if (!armed || !isCommit(chunk)) {
        return "pass"
      }
      armed = false
      return decide(connection)
    })
  })

/** Closes the connection in place of the answer to the next COMMIT. */
export const inPlaceOfTheAnswer = (network: Proxy, how: "cut" | "reset") =>
  Effect.suspend(() => {
    let committing: number | undefined = undefined
    return Effect.zipRight(
      atCommit(network, ({ id }) => {
        committing = id
        return "pass"
      }),
      network.onServerData((_chunk, { id }) => {
        if (id !== committing) {
          return "pass"
        }
        committing = undefined
        return how
      })
    )
  })

/**
 * Keeps the next COMMIT, the answer to it, or the end of the connection behind the answer from arriving, does something, and
 * closes the connection only when that is done: so it is done by the time that the outcome is looked up.
 */
export const lost = (network: Proxy, what: "request" | "answer" | "end", meanwhile: Effect.Effect<unknown>) =>
  Effect.gen(function*() {
    let committing: number | undefined = undefined
    const lose = (connection: ProxyConnection): Decision => {
      Effect.runFork(Effect.zipRight(meanwhile, Effect.sync(connection.cut)))
      return "silence"
    }
    yield* atCommit(network, (connection) => {
      committing = connection.id
      return what === "request" ? lose(connection) : "pass"
    })
    yield* network.onServerData((chunk, connection) => {
      if (what === "request" || connection.id !== committing) {
        return "pass"
      }
      committing = undefined
      const decision = lose(connection)
      return what === "end" ? { forward: chunk, then: "silence" } : decision
    })
  })

export interface Log {
  runs: number
  readonly hooks: Array<string>
}

export const newLog = (): Log => ({ runs: 0, hooks: [] })

/** A session that inserts a number, and tells how often it ran and how it was said to have ended. */
export const inserting = (db: Database.Service, n: number, log: Log) =>
  Effect.gen(function*() {
    log.runs++
    yield* Session.afterCommit(Effect.sync(() => log.hooks.push("commit")))
    yield* Session.afterRollback(Effect.sync(() => log.hooks.push("rollback")))
    yield* insert(db, n)
  })

/** How many connections the proxy has accepted. Removes what was to be done to messages. */
export const accepted = (network: Proxy): Effect.Effect<number> =>
  Effect.gen(function*() {
    let last = 0
    const hook = ({ id }: ProxyConnection): Decision => {
      last = Math.max(last, id)
      return "pass"
    }
    yield* network.onServerData((_chunk, connection) => hook(connection))
    yield* query(network.url, "SELECT 1")
    yield* network.onServerData(undefined)
    return last
  })

/** Waits until the pool has noticed that its connection is lost, and has another one. */
export const reconnected = (db: Database.Service): Effect.Effect<void> =>
  eventually(Effect.map(Effect.exit(numbers(db)), Exit.isSuccess), { timeout: "1 minute" })
