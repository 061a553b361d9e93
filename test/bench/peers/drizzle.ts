import { eq, lte, sql } from "drizzle-orm"
import { drizzle as overSqlite } from "drizzle-orm/better-sqlite3"
import { drizzle as overPg } from "drizzle-orm/node-postgres"
import * as Postgres from "drizzle-orm/pg-core"
import * as Sqlite from "drizzle-orm/sqlite-core"
import Pg from "pg"
import { type Open, peer } from "../peer.js"
import { key, rows } from "../workloads.js"
import { database } from "./betterSqlite3.js"

export const postgres: Open = async ({ pool: max, url }) => {
  const { integer, pgTable, text, timestamp } = Postgres
  const account = pgTable("account", {
    id: integer().primaryKey(),
    owner: text().notNull(),
    currency: text().notNull(),
    balance: integer().notNull(),
    opened: timestamp({ withTimezone: true }).notNull()
  })
  const item = pgTable("item", {
    id: integer().primaryKey(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull(),
    created: timestamp({ withTimezone: true }).notNull()
  })
  const journal = pgTable("journal", {
    id: integer().primaryKey().generatedByDefaultAsIdentity(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull()
  })
  const pool = new Pg.Pool({ connectionString: url, max })
  const db = overPg({ client: pool })
  return peer({
    select: async () => (await db.select().from(account).where(eq(account.id, key()))).length,
    session: () =>
      db.transaction(async (tx) => {
        const id = key()
        const { length } = await tx.select({ balance: account.balance }).from(account).where(eq(account.id, id))
          .for("update")
        await tx.update(account).set({ balance: sql`${account.balance} + 1` }).where(eq(account.id, id))
        return length
      }),
    empty: () => db.transaction(async () => 0),
    read: async (rows) => (await db.select().from(item).where(lte(item.id, rows))).length,
    insert: () =>
      db.transaction(async (tx) => {
        await tx.insert(journal).values(rows)
        return 0
      })
  })
}

export const sqlite: Open = async ({ url }) => {
  const { integer, sqliteTable, text } = Sqlite
  const account = sqliteTable("account", {
    id: integer().primaryKey(),
    owner: text().notNull(),
    currency: text().notNull(),
    balance: integer().notNull(),
    opened: text().notNull()
  })
  const item = sqliteTable("item", {
    id: integer().primaryKey(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull(),
    created: text().notNull()
  })
  const journal = sqliteTable("journal", {
    id: integer().primaryKey(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull()
  })
  const client = database(url)
  const db = overSqlite({ client })
  return peer({
    select: async () => (await db.select().from(account).where(eq(account.id, key()))).length,
    session: async () =>
      db.transaction((tx) => {
        const id = key()
        const { length } = tx.select({ balance: account.balance }).from(account).where(eq(account.id, id)).all()
        tx.update(account).set({ balance: sql`${account.balance} + 1` }).where(eq(account.id, id)).run()
        return length
      }, { behavior: "immediate" }),
    read: async (rows) => (await db.select().from(item).where(lte(item.id, rows))).length,
    insert: async () =>
      db.transaction((tx) => {
        tx.insert(journal).values(rows).run()
        return 0
      }, { behavior: "immediate" })
  })
}
