import Sqlite from "better-sqlite3"
import { linesIn, type Open, peer, worker } from "../peer.js"
import { copyQuery, copyRows, key, rows } from "../workloads.js"

/** Opens the file with the settings that all SQLite peers use. */
export const database = (file: string): Sqlite.Database => {
  const database = new Sqlite(file)
  database.pragma("journal_mode = WAL")
  database.pragma("synchronous = FULL")
  return database
}

export const raw: Open = async ({ url }) => {
  const sqlite = database(url)
  const select = sqlite.prepare("SELECT id, balance FROM account WHERE id = ?")
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
  return peer({
    copyIn: worker(async () => {
      copyAll.immediate()
      return 0
    }),
    copyOut: worker(async () => {
      const lines = (query.all() as ReadonlyArray<ReadonlyArray<unknown>>).map((row) => `${row.join(",")}\n`)
      return linesIn(Buffer.from(lines.join("")))
    }),
    select: worker(async () => select.all(key()).length),
    session: worker(async () => session.immediate(key())),
    insert: worker(async () => {
      insertAll.immediate()
      return 0
    })
  })
}
