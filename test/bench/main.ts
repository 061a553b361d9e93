/**
 * What sqlayer costs beside the bare client libraries and stock @effect/sql: the same work done by each in turn, rounds
 * interleaved, so that the machine's moods meet all alike. Prints ratios to the bare library; more is faster.
 *
 * `npm run bench -- --quick` takes short rounds.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import Pg from "pg"
import { Database } from "sqlayer"
import { makeCluster } from "../support/cluster.js"
import { prepare } from "../support/installation.js"
import { makeKeeper } from "../support/keeper.js"

const quick = process.argv.includes("--quick")
const rounds = quick ? 3 : 7
const roundMillis = quick ? 300 : 2_000
const rows = 1_000

interface Peer {
  readonly name: string
  /** One operation, as many times as asked, by this many at once. */
  readonly work: { readonly [Work in string]: () => Promise<unknown> }
  readonly close: () => Promise<unknown>
}

const key = () => 1 + Math.floor(Math.random() * rows)

/** Operations a second. */
const measure = async (operation: () => Promise<unknown>, concurrency: number): Promise<number> => {
  const started = performance.now()
  let count = 0
  const loop = async () => {
    while (performance.now() - started < roundMillis) {
      await operation()
      count++
    }
  }
  await Promise.all(Array.from({ length: concurrency }, loop))
  return count / ((performance.now() - started) / 1_000)
}

const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((left, right) => left - right)[Math.floor(values.length / 2)]

/** The peers one after the other, again and again; the first is what the others are compared with. */
const compare = async (title: string, peers: ReadonlyArray<Peer>, concurrencies: ReadonlyArray<number>) => {
  console.log(`\n${title}: ratios to ${peers[0].name}, medians of ${rounds} rounds (lowest to highest)`)
  for (const work of Object.keys(peers[0].work)) {
    for (const concurrency of concurrencies) {
      const ratios = peers.map((): Array<number> => [])
      for (let round = -1; round < rounds; round++) {
        const speeds: Array<number> = []
        for (const peer of peers) {
          speeds.push(await measure(peer.work[work], concurrency))
        }
        if (round >= 0) {
          speeds.forEach((speed, i) => ratios[i].push(speed / speeds[0]))
        }
      }
      const cells = peers.slice(1).map((peer, i) => {
        const all = ratios[i + 1]
        return `${peer.name} ${median(all).toFixed(2)} (${Math.min(...all).toFixed(2)} to ${
          Math.max(...all).toFixed(2)
        })`
      })
      console.log(`  ${work}, ${concurrency} at once: ${cells.join(", ")}`)
    }
  }
}

/** An Effect client's peer; a session is what it calls one. */
const effectPeer = (
  name: string,
  layer: Layer.Layer<SqlClient.SqlClient, unknown>,
  lock: string
): Peer => {
  const runtime = ManagedRuntime.make(layer)
  const run = <A>(f: (sql: SqlClient.SqlClient) => Effect.Effect<A, unknown>) =>
    runtime.runPromise(Effect.flatMap(SqlClient.SqlClient, f))
  return {
    name,
    work: {
      "select by key": () => run((sql) => sql`SELECT id, balance FROM account WHERE id = ${key()}`),
      "session of select and update": () =>
        run((sql) => {
          const id = key()
          return sql.withTransaction(Effect.zipRight(
            sql`SELECT balance FROM account WHERE id = ${id} ${sql.literal(lock)}`,
            sql`UPDATE account SET balance = balance + 1 WHERE id = ${id}`
          ))
        })
    },
    close: () => runtime.dispose()
  }
}

const schema = "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)"

const postgres = async () => {
  const installation = prepare()
  const keeper = makeKeeper(installation.root)
  const cluster = await makeCluster(installation, { maxConnections: 100, config: { synchronous_commit: "off" } })
  try {
    const pool = new Pg.Pool({ connectionString: cluster.url, max: 10 })
    await pool.query(`${schema}; INSERT INTO account SELECT i, 0 FROM generate_series(1, ${rows}) i`)
    const raw: Peer = {
      name: "pg",
      work: {
        "select by key": () => pool.query("SELECT id, balance FROM account WHERE id = $1", [key()]),
        "session of select and update": async () => {
          const id = key()
          const client = await pool.connect()
          try {
            await client.query("BEGIN")
            await client.query("SELECT balance FROM account WHERE id = $1 FOR UPDATE", [id])
            await client.query("UPDATE account SET balance = balance + 1 WHERE id = $1", [id])
            await client.query("COMMIT")
          } finally {
            client.release()
          }
        }
      },
      close: () => pool.end()
    }
    const peers = [
      raw,
      effectPeer("sqlayer", Database.layerFrom({ url: cluster.url, poolSize: 10, poolMaxOverflow: 0 }), "FOR UPDATE"),
      effectPeer(
        "@effect/sql-pg",
        PgClient.layer({ url: Redacted.make(cluster.url), maxConnections: 10 }),
        "FOR UPDATE"
      )
    ]
    await compare("PostgreSQL", peers, [1, 10])
    await Promise.all(peers.map((peer) => peer.close()))
  } finally {
    await cluster.dispose()
    await keeper.end()
  }
}

const sqlite = async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-bench-"))
  const file = path.join(directory, "bench.db")
  const database = new Sqlite(file)
  database.pragma("journal_mode = WAL")
  // As durable as sqlayer; the stock client is content with NORMAL, as better-sqlite3 is by default.
  database.pragma("synchronous = FULL")
  database.exec(schema)
  const insert = database.prepare("INSERT INTO account VALUES (?, 0)")
  database.transaction(() => {
    for (let i = 1; i <= rows; i++) {
      insert.run(i)
    }
  })()
  const select = database.prepare("SELECT id, balance FROM account WHERE id = ?")
  const update = database.prepare("UPDATE account SET balance = balance + 1 WHERE id = ?")
  const transaction = database.transaction((id: number) => {
    select.get(id)
    update.run(id)
  })
  const raw: Peer = {
    name: "better-sqlite3",
    work: {
      "select by key": async () => select.all(key()),
      "session of select and update": async () => transaction.immediate(key())
    },
    close: async () => database.close()
  }
  const peers = [
    raw,
    effectPeer("sqlayer", Database.layerFrom({ url: `sqlite:///${file}`, thread: "main" }), ""),
    effectPeer("sqlayer off the main thread", Database.layerFrom({ url: `sqlite:///${file}` }), ""),
    effectPeer("@effect/sql-sqlite-node", SqliteClient.layer({ filename: file }), "")
  ]
  await compare("SQLite, a file in WAL mode", peers, [1, 10])
  await Promise.all(peers.map((peer) => peer.close()))
  fs.rmSync(directory, { recursive: true, force: true })
}

await postgres()
await sqlite()
