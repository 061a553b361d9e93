import Sqlite from "better-sqlite3"
import { linesIn, type Open, peer } from "../peer.js"
import { accountColumns, copyQuery, copyRows, itemColumns, key, rows } from "../workloads.js"

/** Opens the file with the settings that all SQLite peers use. */
export const database = (file: string): Sqlite.Database => {
  const database = new Sqlite(file)
  database.pragma("journal_mode = WAL")
  database.pragma("synchronous = FULL")
  return database
}

export const raw: Open = async ({ url }) => {
  const sqlite = database(url)
  const select = sqlite.prepare(`SELECT ${accountColumns} FROM account WHERE id = ?`)
  const balance = sqlite.prepare("SELECT balance FROM account WHERE id = ?")
  const update = sqlite.prepare("UPDATE account SET balance = balance + 1 WHERE id = ?")
  const session = sqlite.transaction((id: number) => {
    const { length } = balance.all(id)
    update.run(id)
    return length
  })
  const insert = sqlite.prepare("INSERT INTO journal (account, amount, note) VALUES (@account, @amount, @note)")
  const insertAll = sqlite.transaction(() => rows.forEach((row) => insert.run(row)))
  const copyAll = sqlite.transaction(() => copyRows.forEach((row) => insert.run(row)))
  const query = sqlite.prepare(copyQuery).raw()
  const read = sqlite.prepare(`SELECT ${itemColumns} FROM item WHERE id <= ?`)
  const stream = sqlite.prepare(`SELECT ${itemColumns} FROM item`)
  return peer({
    copyIn: async () => {
      copyAll.immediate()
      return 0
    },
    copyOut: async () => {
      const lines = (query.all() as ReadonlyArray<ReadonlyArray<unknown>>).map((row) => `${row.join(",")}\n`)
      return linesIn(Buffer.from(lines.join("")))
    },
    select: async () => select.all(key()).length,
    session: async () => session.immediate(key()),
    read: async (rows) => read.all(rows).length,
    stream: async () => {
      let count = 0
      for (const _ of stream.iterate()) {
        count++
      }
      return count
    },
    insert: async () => {
      insertAll.immediate()
      return 0
    }
  })
}
