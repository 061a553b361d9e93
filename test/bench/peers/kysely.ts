import { type Generated, Kysely, PostgresDialect, SqliteDialect } from "kysely"
import Pg from "pg"
import { type Open, type Peer, peer, worker } from "../peer.js"
import { key, readable, rows } from "../workloads.js"
import { database } from "./betterSqlite3.js"
import { Cursor } from "./pg.js"

interface Tables {
  readonly account: { readonly id: number; balance: number }
  readonly item: { readonly id: number; readonly amount: number; readonly note: string }
  readonly journal: { readonly id: Generated<number>; account: number; amount: number; note: string }
}

const open = (db: Kysely<Tables>, lock: boolean): Peer =>
  peer({
    select: worker(async () =>
      (await db.selectFrom("account").select(["id", "balance"]).where("id", "=", key()).execute()).length
    ),
    session: worker(() =>
      db.transaction().execute(async (trx) => {
        const id = key()
        const select = trx.selectFrom("account").select("balance").where("id", "=", id)
        const { length } = await (lock ? select.forUpdate() : select).execute()
        await trx.updateTable("account").set((eb) => ({ balance: eb("balance", "+", 1) })).where("id", "=", id)
          .execute()
        return length
      })
    ),
    empty: worker(() => db.transaction().execute(async () => 0)),
    read: worker(async () =>
      (await db.selectFrom("item").select(["id", "amount", "note"]).where("id", "<=", readable).execute()).length
    ),
    stream: worker(async () => {
      let count = 0
      for await (const _ of db.selectFrom("item").select(["id", "amount", "note"]).stream(1_000)) {
        count++
      }
      return count
    }),
    insert: worker(() =>
      db.transaction().execute(async (trx) => {
        await trx.insertInto("journal").values(rows).execute()
        return 0
      })
    )
  })

export const postgres: Open = async ({ pool: max, url }) => {
  const pool = new Pg.Pool({ connectionString: url, max })
  return open(new Kysely<Tables>({ dialect: new PostgresDialect({ pool, cursor: Cursor as never }) }), true)
}

export const sqlite: Open = async ({ url }) =>
  open(new Kysely<Tables>({ dialect: new SqliteDialect({ database: database(url) }) }), false)
