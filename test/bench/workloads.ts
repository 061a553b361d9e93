/**
 * What the peers do, and on which tables.
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

export const workloads: { readonly [D in Dialect]: ReadonlyArray<Workload> } = {
  postgres: [
    { ...select, concurrencies: [1, 10, 64] },
    { ...session, concurrencies: [1, 10] },
    { work: "empty", title: "empty session", concurrencies: [10], quick: true },
    { work: "read", title: "read 10,000 rows", concurrencies: [1], quick: false },
    { work: "stream", title: "stream 1,000,000 rows", concurrencies: [1], quick: false },
    insert
  ],
  sqlite: [
    { ...select, concurrencies: [1, 10, 64] },
    { ...session, concurrencies: [1, 10] },
    insert
  ]
}

export const accounts = 10_000

/** `account` is selected from and updated, `item` read and streamed, and `journal` inserted into. */
export const schema = (id: string): string => `
  CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
  CREATE TABLE item (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT NOT NULL);
  CREATE TABLE journal (id ${id}, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL);`

export const key = (): number => 1 + Math.floor(Math.random() * accounts)

/** So many that are read at once; there are a hundred times as many to stream. */
export const readable = 10_000

/** What is inserted. */
export const rows = Array.from({ length: 10_000 }, (_, i) => ({
  account: 1 + i % accounts,
  amount: i * 7 % 1_000,
  note: `the note of row ${i}`
}))
