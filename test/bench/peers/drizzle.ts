import { eq, lte, sql } from "drizzle-orm"
import { drizzle as overSqlite } from "drizzle-orm/better-sqlite3"
import { drizzle as overPg } from "drizzle-orm/node-postgres"
import * as Postgres from "drizzle-orm/pg-core"
import * as Sqlite from "drizzle-orm/sqlite-core"
import Pg from "pg"
import { type Open, peer, worker } from "../peer.js"
import { key, readable, rows } from "../workloads.js"
import { database } from "./betterSqlite3.js"

export const postgres: Open = async ({ pool: max, url }) => {
  const { integer, pgTable, text } = Postgres
  const account = pgTable("account", { id: integer().primaryKey(), balance: integer().notNull() })
  const item = pgTable("item", { id: integer().primaryKey(), amount: integer().notNull(), note: text().notNull() })
  const journal = pgTable("journal", {
    id: integer().primaryKey().generatedByDefaultAsIdentity(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull()
  })
  const pool = new Pg.Pool({ connectionString: url, max })
  const db = overPg({ client: pool })
  return peer({
    select: worker(async () => (await db.select().from(account).where(eq(account.id, key()))).length),
    session: worker(() =>
      db.transaction(async (tx) => {
        const id = key()
        const { length } = await tx.select({ balance: account.balance }).from(account).where(eq(account.id, id))
          .for("update")
        await tx.update(account).set({ balance: sql`${account.balance} + 1` }).where(eq(account.id, id))
        return length
      })
    ),
    empty: worker(() => db.transaction(async () => 0)),
    read: worker(async () => (await db.select().from(item).where(lte(item.id, readable))).length),
    insert: worker(() =>
      db.transaction(async (tx) => {
        await tx.insert(journal).values(rows)
        return 0
      })
    )
  })
}

export const sqlite: Open = async ({ url }) => {
  const { integer, sqliteTable, text } = Sqlite
  const account = sqliteTable("account", { id: integer().primaryKey(), balance: integer().notNull() })
  const journal = sqliteTable("journal", {
    id: integer().primaryKey(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull()
  })
  const client = database(url)
  const db = overSqlite({ client })
  return peer({
    select: worker(async () => (await db.select().from(account).where(eq(account.id, key()))).length),
    session: worker(async () =>
      db.transaction((tx) => {
        const id = key()
        const { length } = tx.select({ balance: account.balance }).from(account).where(eq(account.id, id)).all()
        tx.update(account).set({ balance: sql`${account.balance} + 1` }).where(eq(account.id, id)).run()
        return length
      }, { behavior: "immediate" })
    ),
    insert: worker(async () =>
      db.transaction((tx) => {
        tx.insert(journal).values(rows).run()
        return 0
      }, { behavior: "immediate" })
    )
  })
}
