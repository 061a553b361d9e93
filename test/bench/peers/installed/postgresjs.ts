import connect from "postgres"
import { type Open, peer, worker } from "../../peer.js"
import { key, readable, rows } from "../../workloads.js"

export const postgres: Open = async ({ pool: max, url }) => {
  const sql = connect(url, { max })
  return peer({
    select: worker(async () => (await sql`SELECT id, balance FROM account WHERE id = ${key()}`).length),
    session: worker(() =>
      sql.begin(async (sql) => {
        const id = key()
        const { length } = await sql`SELECT balance FROM account WHERE id = ${id} FOR UPDATE`
        await sql`UPDATE account SET balance = balance + 1 WHERE id = ${id}`
        return length
      })
    ),
    empty: worker(() => sql.begin(async () => 0)),
    read: worker(async () => (await sql`SELECT id, amount, note FROM item WHERE id <= ${readable}`).length),
    stream: worker(async () => {
      let count = 0
      for await (const rows of sql`SELECT id, amount, note FROM item`.cursor(1_000)) {
        count += rows.length
      }
      return count
    }),
    insert: worker(() =>
      sql.begin(async (sql) => {
        await sql`INSERT INTO journal ${sql(rows)}`
        return 0
      })
    )
  })
}
