import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import connect from "postgres"
import { linesIn, type Open, peer } from "../../peer.js"
import { copyQuery, copyRows, key, rows } from "../../workloads.js"

/** The rows in the text format of COPY, a thousand in each part. */
const copyTexts = function*() {
  for (let i = 0; i < copyRows.length; i += 1_000) {
    yield copyRows.slice(i, i + 1_000).map(({ account, amount, note }) => `${account}\t${amount}\t${note}\n`).join("")
  }
}

export const postgres: Open = async ({ pool: max, url }) => {
  const sql = connect(url, { max })
  return peer({
    select: async () =>
      (await sql`SELECT id, owner, currency, balance, opened FROM account WHERE id = ${key()}`).length,
    session: () =>
      sql.begin(async (sql) => {
        const id = key()
        const { length } = await sql`SELECT balance FROM account WHERE id = ${id} FOR UPDATE`
        await sql`UPDATE account SET balance = balance + 1 WHERE id = ${id}`
        return length
      }),
    empty: () => sql.begin(async () => 0),
    read: async (rows) => (await sql`SELECT id, account, amount, note, created FROM item WHERE id <= ${rows}`).length,
    stream: async () => {
      let count = 0
      for await (const rows of sql`SELECT id, account, amount, note, created FROM item`.cursor(1_000)) {
        count += rows.length
      }
      return count
    },
    insert: () =>
      sql.begin(async (sql) => {
        await sql`INSERT INTO journal ${sql(rows)}`
        return 0
      }),
    copyIn: async () => {
      const table = await sql`COPY journal (account, amount, note) FROM STDIN`.writable()
      await pipeline(Readable.from(copyTexts()), table)
      return 0
    },
    copyOut: async () => {
      let lines = 0
      for await (const chunk of await sql.unsafe(`COPY (${copyQuery}) TO STDOUT (FORMAT csv)`).readable()) {
        lines += linesIn(chunk)
      }
      return lines
    }
  })
}
