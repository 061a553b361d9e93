import { once } from "node:events"
import { DataSource, EntitySchema, LessThanOrEqual } from "typeorm"
import { type Open, peer, worker } from "../../peer.js"
import { key, readable, rows } from "../../workloads.js"

const column = { type: Number } as const

const Account = new EntitySchema<{ id: number; balance: number }>({
  name: "account",
  columns: { id: { type: Number, primary: true }, balance: column }
})

const Item = new EntitySchema<{ id: number; amount: number; note: string }>({
  name: "item",
  columns: { id: { type: Number, primary: true }, amount: column, note: { type: String } }
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
    select: worker(async () => (await accounts.findBy({ id: key() })).length),
    session: worker(() =>
      source.transaction(async (manager) => {
        const id = key()
        const { length } = await manager.find(Account, { where: { id }, lock: { mode: "pessimistic_write" } })
        await manager.increment(Account, { id }, "balance", 1)
        return length
      })
    ),
    empty: worker(() => source.transaction(async () => 0)),
    read: worker(async () => (await items.findBy({ id: LessThanOrEqual(readable) })).length),
    stream: worker(async () => {
      const stream = await items.createQueryBuilder("item").stream()
      let count = 0
      stream.on("data", () => {
        count++
      })
      await once(stream, "end")
      return count
    }),
    insert: worker(() =>
      source.transaction(async (manager) => {
        await manager.insert(Journal, rows)
        return 0
      })
    )
  })
}
