import { type Generated, Kysely, PostgresDialect, SqliteDialect } from "kysely"
import Pg from "pg"
import { type Open, type Peer, peer } from "../peer.js"
import { key, rows } from "../workloads.js"
import { database } from "./betterSqlite3.js"
import { Cursor } from "./pg.js"

interface Tables {
  readonly account: {
    readonly id: number
    readonly owner: string
    readonly currency: string
    balance: number
    readonly opened: unknown
  }
  readonly item: {
    readonly id: number
    readonly account: number
    readonly amount: number
    readonly note: string
    readonly created: unknown
  }
  readonly journal: { readonly id: Generated<number>; account: number; amount: number; note: string }
}

const accountColumns = ["id", "owner", "currency", "balance", "opened"] as const
const itemColumns = ["id", "account", "amount", "note", "created"] as const

const open = (db: Kysely<Tables>, lock: boolean): Peer =>
  peer({
    select: async () =>
      (await db.selectFrom("account").select(accountColumns).where("id", "=", key()).execute()).length,
    session: () =>
      db.transaction().execute(async (trx) => {
        const id = key()
        const select = trx.selectFrom("account").select("balance").where("id", "=", id)
        const { length } = await (lock ? select.forUpdate() : select).execute()
        await trx.updateTable("account").set((eb) => ({ balance: eb("balance", "+", 1) })).where("id", "=", id)
          .execute()
        return length
      }),
    empty: () => db.transaction().execute(async () => 0),
    read: async (rows) => (await db.selectFrom("item").select(itemColumns).where("id", "<=", rows).execute()).length,
    stream: async () => {
      let count = 0
      for await (const _ of db.selectFrom("item").select(itemColumns).stream(1_000)) {
        count++
      }
      return count
    },
    insert: () =>
      db.transaction().execute(async (trx) => {
        await trx.insertInto("journal").values(rows).execute()
        return 0
      })
  })

export const postgres: Open = async ({ pool: max, url }) => {
  const pool = new Pg.Pool({ connectionString: url, max })
  return open(new Kysely<Tables>({ dialect: new PostgresDialect({ pool, cursor: Cursor as never }) }), true)
}

export const sqlite: Open = async ({ url }) =>
  open(new Kysely<Tables>({ dialect: new SqliteDialect({ database: database(url) }) }), false)
