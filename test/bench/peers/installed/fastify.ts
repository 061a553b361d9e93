/**
 * The HTTP servers of Fastify: over `pg` by hand, and over Drizzle.
 */
import { eq, sql } from "drizzle-orm"
import { drizzle as overPg } from "drizzle-orm/node-postgres"
import { integer, pgTable, text } from "drizzle-orm/pg-core"
import Fastify from "fastify"
import Pg from "pg"
import type { Serve } from "../../httpChild.js"
import { byHand } from "../http.js"

const transferSchema = {
  body: {
    type: "object",
    required: ["from", "to", "amount"],
    properties: { from: { type: "integer" }, to: { type: "integer" }, amount: { type: "integer" } }
  }
}

const accountSchema = {
  params: { type: "object", required: ["id"], properties: { id: { type: "integer" } } },
  response: {
    200: {
      type: "object",
      properties: { id: { type: "integer" }, owner: { type: "string" }, balance: { type: "integer" } }
    }
  }
}

const listen = async ({ account, transfer }: ReturnType<typeof byHand>): Promise<number> => {
  const app = Fastify()
  app.post("/transfers", { schema: transferSchema }, async (request, reply) => {
    await transfer(request.body as Parameters<typeof transfer>[0])
    return reply.code(201).send()
  })
  app.get(
    "/accounts/:id",
    { schema: accountSchema },
    (request) => account((request.params as { readonly id: number }).id).then(([row]) => row)
  )
  await app.listen({ port: 0, host: "127.0.0.1" })
  return (app.server.address() as { readonly port: number }).port
}

export const pg: Serve = ({ pool: max, url }) => listen(byHand(new Pg.Pool({ connectionString: url, max })))

export const drizzle: Serve = ({ pool: max, url }) => {
  const account = pgTable("account", {
    id: integer().primaryKey(),
    owner: text().notNull(),
    balance: integer().notNull()
  })
  const journal = pgTable("journal", {
    id: integer().primaryKey().generatedByDefaultAsIdentity(),
    account: integer().notNull(),
    amount: integer().notNull(),
    note: text().notNull()
  })
  const db = overPg({ client: new Pg.Pool({ connectionString: url, max }) })
  return listen({
    transfer: ({ amount, from, to }) =>
      db.transaction(async (tx) => {
        const [low, high] = from < to ? [from, to] : [to, from]
        const locked = (id: number) =>
          tx.select({ balance: account.balance }).from(account).where(eq(account.id, id)).for("update")
        await locked(low)
        await locked(high)
        const add = (id: number, difference: number) =>
          tx.update(account).set({ balance: sql`${account.balance} + ${difference}` }).where(eq(account.id, id))
        await add(from, -amount)
        await add(to, amount)
        await tx.insert(journal).values({ account: from, amount, note: "transfer" })
      }),
    account: (id) =>
      db.transaction((tx) => tx.select().from(account).where(eq(account.id, id)), { accessMode: "read only" })
  })
}
