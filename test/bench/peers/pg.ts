import { createRequire } from "node:module"
import Pg from "pg"
import { linesIn, type Options, type Peer, peer } from "../peer.js"
import { accountColumns, copyParts, copyQuery, copyRows, itemColumns, key, rows, wideQuery } from "../workloads.js"

// The pg-cursor that @effect/sql-pg depends on.
const require = createRequire(createRequire(import.meta.url).resolve("@effect/sql-pg"))

interface Cursor extends Pg.Submittable {
  readonly read: (rows: number) => Promise<ReadonlyArray<unknown>>
  readonly close: () => Promise<void>
}

export const Cursor: new(text: string, values: ReadonlyArray<unknown>) => Cursor = require("pg-cursor")

/** `($1, $2, $3), ($4, $5, $6), …` */
const placeholders = (count: number): string =>
  Array.from({ length: count }, (_, i) => `($${i * 3 + 1}, $${i * 3 + 2}, $${i * 3 + 3})`).join(", ")

const make = (named: boolean) => async ({ columns, pool: max, statements, timeout, url }: Options): Promise<Peer> => {
  const pool = new Pg.Pool({ connectionString: url, max, connectionTimeoutMillis: timeout ?? 0 })

  const run = (on: Pg.Pool | Pg.PoolClient, name: string, text: string, values: Array<unknown>) =>
    on.query(named ? { name, text, values } : { text, values })

  const session = async <A>(use: (client: Pg.PoolClient) => Promise<A>): Promise<A> => {
    const client = await pool.connect()
    try {
      await client.query("BEGIN")
      const result = await use(client)
      await client.query("COMMIT")
      return result
    } catch (error) {
      await client.query("ROLLBACK")
      throw error
    } finally {
      client.release()
    }
  }

  const selects = Array.from(
    { length: statements },
    (_, i) => `SELECT ${accountColumns} FROM account WHERE id = $1${i === 0 ? "" : ` -- ${i}`}`
  )
  let index = 0
  const select = async (on: Pg.Pool | Pg.PoolClient) => {
    index = (index + 1) % statements
    return (await run(on, `select ${index}`, selects[index], [key()])).rows.length
  }

  const wide = wideQuery(columns)

  return peer({
    select: () => select(pool),
    session: () =>
      session(async (client) => {
        const id = key()
        const { rows } = await run(client, "lock", "SELECT balance FROM account WHERE id = $1 FOR UPDATE", [id])
        await run(client, "update", "UPDATE account SET balance = balance + 1 WHERE id = $1", [id])
        return rows.length
      }),
    empty: () => session(async () => 0),
    read: async (rows) =>
      (await run(pool, "read", `SELECT ${itemColumns} FROM item WHERE id <= $1`, [rows])).rows.length,
    wide: async () => (await run(pool, "wide", wide, [])).rows.length,
    stream: async () => {
      const client = await pool.connect()
      const cursor = client.query(new Cursor(`SELECT ${itemColumns} FROM item`, []))
      let count = 0
      for (let read = await cursor.read(1_000); read.length > 0; read = await cursor.read(1_000)) {
        count += read.length
      }
      await cursor.close()
      client.release()
      return count
    },
    insert: () =>
      session(async (client) => {
        if (named) {
          const text =
            "INSERT INTO journal (account, amount, note) SELECT * FROM unnest($1::int[], $2::int[], $3::text[])"
          const columns = [rows.map((row) => row.account), rows.map((row) => row.amount), rows.map((row) => row.note)]
          await run(client, "insert", text, columns)
        } else {
          // 30,000 parameters; the protocol allows 65,535.
          const text = `INSERT INTO journal (account, amount, note) VALUES ${placeholders(rows.length)}`
          await client.query(text, rows.flatMap((row) => [row.account, row.amount, row.note]))
        }
        return 0
      }),
    copyIn: () =>
      session(async (client) => {
        for (const part of named ? [copyRows] : copyParts) {
          if (named) {
            await client.query(
              "INSERT INTO journal (account, amount, note) SELECT * FROM unnest($1::int[], $2::int[], $3::text[])",
              [part.map((row) => row.account), part.map((row) => row.amount), part.map((row) => row.note)]
            )
          } else {
            const text = `INSERT INTO journal (account, amount, note) VALUES ${placeholders(part.length)}`
            await client.query(text, part.flatMap((row) => [row.account, row.amount, row.note]))
          }
        }
        return 0
      }),
    copyOut: async () => {
      const { rows } = await pool.query<{ id: number; amount: number; note: string }>(copyQuery)
      return linesIn(Buffer.from(rows.map(({ amount, id, note }) => `${id},${amount},${note}\n`).join("")))
    }
  }, {
    hold: async (millis) => {
      try {
        await session((client) => client.query("SELECT pg_sleep($1)", [millis / 1_000]))
        return true
      } catch (error) {
        if (String(error).includes("timeout exceeded when trying to connect")) {
          return false
        }
        throw error
      }
    },
    wait: async (sessions) => {
      const holders = await Promise.all(Array.from({ length: max }, () => pool.connect()))
      const waiting = Array.from({ length: sessions }, () => session(select))
      return () => {
        holders.forEach((holder) => holder.release())
        return Promise.all(waiting)
      }
    }
  })
}

export const plain = make(false)

/** Uses named prepared statements, and inserts rows as one array per column. */
export const named = make(true)
