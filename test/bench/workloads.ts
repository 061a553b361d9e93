/**
 * The workloads, and the tables they use.
 */
import type { Work } from "./peer.js"

export interface Workload {
  readonly work: Work
  readonly title: string
  readonly concurrencies: ReadonlyArray<number>
  readonly quick: boolean
}

export type Dialect = "postgres" | "sqlite"

const select = { work: "select", title: "select by key", quick: true } as const
const session = { work: "session", title: "session: select and update", quick: true } as const
const insert = { work: "insert", title: "insert 10,000 rows", concurrencies: [1], quick: false } as const

const copyIn = { work: "copyIn", title: "100,000 rows into a table", concurrencies: [1], quick: false } as const
const copyOut = { work: "copyOut", title: "100,000 rows out, as CSV", concurrencies: [1], quick: false } as const

export const workloads: { readonly [D in Dialect]: ReadonlyArray<Workload> } = {
  postgres: [
    { ...select, concurrencies: [1, 10, 64] },
    { ...session, concurrencies: [1, 10] },
    { work: "empty", title: "empty session", concurrencies: [10], quick: true },
    { work: "read", title: "read 10,000 rows", concurrencies: [1], quick: false },
    { work: "stream", title: "stream 1,000,000 rows", concurrencies: [1], quick: false },
    insert,
    copyIn,
    copyOut
  ],
  sqlite: [
    { ...select, concurrencies: [1, 10, 64] },
    { ...session, concurrencies: [1, 10] },
    insert,
    copyIn,
    copyOut
  ]
}

export const accounts = 10_000

/** `account` is for selects and updates, `item` for reads and streams, and `journal` for inserts. */
export const schema = (id: string): string => `
  CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
  CREATE TABLE item (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT NOT NULL);
  CREATE TABLE journal (id ${id}, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL);`

export const key = (): number => 1 + Math.floor(Math.random() * accounts)

/** The number of rows that one query reads. Streams read a hundred times as many. */
export const readable = 10_000

/** The number of rows that are copied at once. */
export const copied = 100_000

/** The query whose result is copied out, as CSV. */
export const copyQuery = `SELECT id, amount, note FROM item WHERE id <= ${copied}`

const row = (_: unknown, i: number) => ({
  account: 1 + i % accounts,
  amount: i * 7 % 1_000,
  note: `the note of row ${i}`
})

/** The rows to insert. */
export const rows = Array.from({ length: 10_000 }, row)

/** The rows to copy in. */
export const copyRows = Array.from({ length: copied }, row)

/** The rows to copy in, in parts that a statement has enough parameters for. */
export const copyParts = Array.from({ length: 5 }, (_, i) => copyRows.slice(i * 20_000, (i + 1) * 20_000))
