/**
 * The workloads, and the tables they use.
 */
import type { Work } from "./peer.js"

export interface Workload {
  readonly work: Work
  readonly title: string
  readonly concurrencies: ReadonlyArray<number>
  /** The concurrencies of the quick run. */
  readonly quick: ReadonlyArray<number>
  /** The concurrencies that the plot shows. */
  readonly plotted: ReadonlyArray<number>
  /** How far away the database is: the delay of each direction, in milliseconds. */
  readonly delay?: number
}

export type Dialect = "postgres" | "sqlite"

const select = {
  work: "select",
  title: "select by key",
  concurrencies: [1, 10, 64, 256, 1_000],
  quick: [1, 64],
  plotted: [1, 10, 64, 1_000]
} as const
const promise = {
  work: "promise",
  title: "select by key, a promise for each",
  concurrencies: [10, 64],
  quick: [64],
  plotted: [64]
} as const
const session = {
  work: "session",
  title: "session: select and update",
  concurrencies: [1, 10, 64, 256],
  quick: [10],
  plotted: [1, 10, 64]
} as const
const mixed = { work: "mixed", title: "mixed load", concurrencies: [10, 64, 256], quick: [64], plotted: [64] } as const

const once = { concurrencies: [1], quick: [], plotted: [1] } as const
const read = { work: "read", title: "read 10,000 rows", ...once } as const
const stream = { work: "stream", title: "stream 1,000,000 rows", ...once } as const
const insert = { work: "insert", title: "insert 10,000 rows", ...once } as const
const copyIn = { work: "copyIn", title: "100,000 rows into a table", ...once } as const
const copyOut = { work: "copyOut", title: "100,000 rows out, as CSV", ...once } as const

const away = (delay: number): ReadonlyArray<Workload> => {
  const plotted = delay === 5 ? [10] : []
  return [
    { ...select, concurrencies: [10, 64], quick: [], plotted, delay },
    { ...session, concurrencies: [10], quick: [], plotted, delay }
  ]
}

export const workloads: { readonly [D in Dialect]: ReadonlyArray<Workload> } = {
  postgres: [
    select,
    promise,
    session,
    { work: "empty", title: "empty session", concurrencies: [10], quick: [], plotted: [10] },
    mixed,
    read,
    stream,
    insert,
    copyIn,
    copyOut,
    ...away(1),
    ...away(5)
  ],
  sqlite: [
    select,
    { ...promise, quick: [] },
    { ...session, quick: [] },
    mixed,
    read,
    stream,
    insert,
    copyIn,
    copyOut
  ]
}

/** The options of a peer, unless something else is measured. */
export const defaults = { pool: 10, statements: 1, columns: 5 }

export const accounts = 100_000

/** The columns of a selected account. */
export const accountColumns = "id, owner, currency, balance, opened"

/** The columns of an item that is read. */
export const itemColumns = "id, account, amount, note, created"

/** `account` is for selects and updates, `item` for reads and streams, and `journal` for inserts. */
export const schema = (id: string, timestamp: string): string => `
  CREATE TABLE account (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, currency TEXT NOT NULL, balance INTEGER NOT NULL, opened ${timestamp} NOT NULL
  );
  CREATE TABLE item (
    id INTEGER PRIMARY KEY, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL, created ${timestamp} NOT NULL
  );
  CREATE TABLE journal (id ${id}, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL);`

/** Fills `account` and `item` from a table `number` of integers `i`, whose timestamps are this expression. */
export const filled = (timestamp: string) => ({
  account: `INSERT INTO account SELECT i, 'the owner of ' || i, 'EUR', 0, ${timestamp} FROM number`,
  item: `INSERT INTO item SELECT i, i % ${accounts}, i * 7 % 1000, 'the note of row ' || i, ${timestamp} FROM number`
})

export const key = (): number => 1 + Math.floor(Math.random() * accounts)

/** The number of rows that one query reads. */
export const readable = 10_000

/** The number of rows that a stream reads. */
export const streamable = 1_000_000

/** The number of rows that a large read of the mixed load reads. */
export const largeRows = 1_000

/** Of 20 operations of the mixed load 16 are selects by key, 3 are sessions, and one is a large read. */
export const mixedWork = (number: number): "select" | "session" | "large" => {
  const place = number % 20
  return place === 19 ? "large" : place % 6 === 3 ? "session" : "select"
}

/** The number of sessions among the first operations of the mixed load. */
export const sessionsIn = (operations: number): number => {
  const rest = operations % 20
  return Math.floor(operations / 20) * 3 + (rest > 15 ? 3 : rest > 9 ? 2 : rest > 3 ? 1 : 0)
}

/** The query of this number of columns, which reads a thousand rows. */
export const wideQuery = (columns: number): string =>
  `SELECT ${
    Array.from({ length: columns }, (_, i) => `${["id", "note", "amount"][i % 3]} AS c${i}`).join(", ")
  } FROM item WHERE id <= 1000`

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
