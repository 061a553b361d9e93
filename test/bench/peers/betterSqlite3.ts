import Sqlite from "better-sqlite3"
import { type Open, peer, worker } from "../peer.js"
import { key, rows } from "../workloads.js"

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
  return peer({
    select: worker(async () => select.all(key()).length),
    session: worker(async () => session.immediate(key())),
    insert: worker(async () => {
      insertAll.immediate()
      return 0
    })
  })
}
