import { once } from "node:events"
import { DataSource, EntitySchema, LessThanOrEqual } from "typeorm"
import { type Open, peer } from "../../peer.js"
import { key, rows } from "../../workloads.js"

const column = { type: Number } as const

const timestamp = { type: "timestamptz" } as const

const Account = new EntitySchema<{ id: number; owner: string; currency: string; balance: number; opened: Date }>({
  name: "account",
  columns: {
    id: { type: Number, primary: true },
    owner: { type: String },
    currency: { type: String },
    balance: column,
    opened: timestamp
  }
})

const Item = new EntitySchema<{ id: number; account: number; amount: number; note: string; created: Date }>({
  name: "item",
  columns: {
    id: { type: Number, primary: true },
    account: column,
    amount: column,
    note: { type: String },
    created: timestamp
  }
})

const Journal = new EntitySchema<{ id: number; account: number; amount: number; note: string }>({
  name: "journal",
  columns: {
    id: { type: Number, primary: true, generated: true },
    account: column,
    amount: column,
    note: { type: String }
  }
})

export const postgres: Open = async ({ pool: poolSize, url }) => {
  const source = await new DataSource({ type: "postgres", url, poolSize, entities: [Account, Item, Journal] })
    .initialize()
  const accounts = source.getRepository(Account)
  const items = source.getRepository(Item)
  return peer({
    select: async () => (await accounts.findBy({ id: key() })).length,
    session: () =>
      source.transaction(async (manager) => {
        const id = key()
        const { length } = await manager.find(Account, { where: { id }, lock: { mode: "pessimistic_write" } })
        await manager.increment(Account, { id }, "balance", 1)
        return length
      }),
    empty: () => source.transaction(async () => 0),
    read: async (rows) => (await items.findBy({ id: LessThanOrEqual(rows) })).length,
    stream: async () => {
      const stream = await items.createQueryBuilder("item").stream()
      let count = 0
      stream.on("data", () => {
        count++
      })
      await once(stream, "end")
      return count
    },
    insert: () =>
      source.transaction(async (manager) => {
        await manager.insert(Journal, rows)
        return 0
      })
  })
}
