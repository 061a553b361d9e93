/**
 * The anomalies that distinguish isolation levels, as defined by Adya and Fekete, in the schedules of Martin Kleppmann's
 * hermitage: https://github.com/ept/hermitage.
 */

/**
 * A step, and its results on PostgreSQL at "read committed" (the same as "read uncommitted"), "repeatable read" and
 * "serializable". An omitted result is that of the level before; the first defaults to `ok`.
 */
type Expected = readonly [
  transaction: string,
  action: string,
  readCommitted?: string,
  repeatableRead?: string,
  serializable?: string
]

/** Whether the anomaly happens at a level, or what prevents it. */
export type Verdict = "happens" | "snapshot" | "waits" | "SerializationFailure"

/** The results of a schedule from which an anomaly is recognized. */
interface Results {
  readonly reads: Readonly<Record<string, ReadonlyArray<string>>>
  readonly ends: Readonly<Record<string, string>>
  /** The rows after the schedule. */
  readonly after: string
}

export interface Anomaly {
  readonly name: string
  readonly steps: ReadonlyArray<Expected>
  readonly happened: (results: Results) => boolean
  /** The verdicts on PostgreSQL at "read committed", "repeatable read" and "serializable". */
  readonly verdicts: readonly [Verdict, Verdict, Verdict]
  /** The rows after the schedule at the same levels. */
  readonly after: readonly [string, string, string]
  /** The order in which sessions of several databases on one SQLite file execute. */
  readonly order: string
}

const all = "SELECT id, value FROM test"
const both = "1=10 2=20"
const failure = "SerializationFailure"
const waits = "waits for T1, then ok"
const waitsAndFails = "waits for T1, then SerializationFailure"

const update = (id: number, value: number): string => `UPDATE test SET value = ${value} WHERE id = ${id}`
const select = (id: number): string => `${all} WHERE id = ${id}`
const insert = (id: number, value: number): string => `INSERT INTO test (id, value) VALUES (${id}, ${value})`

const committed = ({ ends }: Results, ...transactions: ReadonlyArray<string>): boolean =>
  transactions.every((transaction) => ends[transaction] === "ok")

export const anomalies: ReadonlyArray<Anomaly> = [
  {
    name: "G0: write cycles",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", update(1, 11)],
      ["T2", update(1, 12), waits, waitsAndFails],
      ["T1", update(2, 21)],
      ["T1", "commit"],
      ["T2", update(2, 22), "ok", "over"],
      ["T2", "commit", "ok", "over"]
    ],
    happened: ({ after }) => after === "1=11 2=22" || after === "1=12 2=21",
    verdicts: ["waits", failure, failure],
    after: ["1=12 2=22", "1=11 2=21", "1=11 2=21"],
    order: "T1 T2"
  },
  {
    name: "G1a: aborted reads",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", update(1, 101)],
      ["T2", all, both],
      ["T1", "rollback"],
      ["T2", all, both],
      ["T2", "commit"]
    ],
    happened: ({ reads }) => reads.T2.some((rows) => rows.includes("101")),
    verdicts: ["snapshot", "snapshot", "snapshot"],
    after: [both, both, both],
    order: "T2 T1"
  },
  {
    name: "G1b: intermediate reads",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", update(1, 101)],
      ["T2", all, both],
      ["T1", update(1, 11)],
      ["T1", "commit"],
      ["T2", all, "1=11 2=20", both],
      ["T2", "commit"]
    ],
    happened: ({ reads }) => reads.T2.some((rows) => rows.includes("101")),
    verdicts: ["snapshot", "snapshot", "snapshot"],
    after: ["1=11 2=20", "1=11 2=20", "1=11 2=20"],
    order: "T2 T1"
  },
  {
    name: "G1c: circular information flow",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", update(1, 11)],
      ["T2", update(2, 22)],
      ["T1", select(2), "2=20"],
      ["T2", select(1), "1=10"],
      ["T1", "commit"],
      ["T2", "commit", "ok", "ok", failure]
    ],
    happened: ({ reads }) => reads.T1[0] === "2=22" && reads.T2[0] === "1=11",
    verdicts: ["snapshot", "snapshot", failure],
    after: ["1=11 2=22", "1=11 2=22", "1=11 2=20"],
    order: "T1 T2"
  },
  {
    name: "OTV: observed transaction vanishes",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T3", "begin"],
      ["T1", update(1, 11)],
      ["T1", update(2, 19)],
      ["T2", update(1, 12), waits, waitsAndFails],
      ["T1", "commit"],
      ["T3", select(1), "1=11"],
      ["T2", update(2, 18), "ok", "over"],
      ["T3", select(2), "2=19"],
      ["T2", "commit", "ok", "over"],
      ["T3", select(2), "2=18", "2=19"],
      ["T3", select(1), "1=12", "1=11"],
      ["T3", "commit"]
    ],
    happened: ({ reads }) => reads.T3[0] === "1=12" && reads.T3.includes("2=19"),
    verdicts: ["waits", failure, failure],
    after: ["1=12 2=18", "1=11 2=19", "1=11 2=19"],
    order: "T1 T3 T2"
  },
  {
    name: "PMP: predicate-many-preceders",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", `${all} WHERE value = 30`, "nothing"],
      ["T2", insert(3, 30)],
      ["T2", "commit"],
      ["T1", `${all} WHERE value % 3 = 0`, "3=30", "nothing"],
      ["T1", "commit"]
    ],
    happened: ({ reads }) => reads.T1[0] === "nothing" && reads.T1[1] === "3=30",
    verdicts: ["happens", "snapshot", "snapshot"],
    after: ["1=10 2=20 3=30", "1=10 2=20 3=30", "1=10 2=20 3=30"],
    order: "T1 T2"
  },
  {
    name: "PMP: write predicates",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", "UPDATE test SET value = value + 10"],
      ["T2", "DELETE FROM test WHERE value = 20", waits, waitsAndFails],
      ["T1", "commit"],
      ["T2", `${all} WHERE value = 20`, "1=20", "over"],
      ["T2", "commit", "ok", "over"]
    ],
    // Its DELETE removed every row with the value 20, yet it reads one.
    happened: ({ reads }) => reads.T2?.[0] === "1=20",
    verdicts: ["happens", failure, failure],
    after: ["1=20 2=30", "1=20 2=30", "1=20 2=30"],
    order: "T1 T2"
  },
  {
    name: "P4: lost update",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", select(1), "1=10"],
      ["T2", select(1), "1=10"],
      ["T1", update(1, 11)],
      ["T2", update(1, 12), waits, waitsAndFails],
      ["T1", "commit"],
      ["T2", "commit", "ok", "over"]
    ],
    happened: (results) => committed(results, "T1", "T2") && results.reads.T1[0] === results.reads.T2[0],
    verdicts: ["happens", failure, failure],
    after: ["1=12 2=20", "1=11 2=20", "1=11 2=20"],
    order: "T1 T2"
  },
  {
    name: "G-single: read skew",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", select(1), "1=10"],
      ["T2", select(1), "1=10"],
      ["T2", select(2), "2=20"],
      ["T2", update(1, 12)],
      ["T2", update(2, 18)],
      ["T2", "commit"],
      ["T1", select(2), "2=18", "2=20"],
      ["T1", "commit"]
    ],
    happened: ({ reads }) => reads.T1[0] === "1=10" && reads.T1[1] === "2=18",
    verdicts: ["happens", "snapshot", "snapshot"],
    after: ["1=12 2=18", "1=12 2=18", "1=12 2=18"],
    order: "T1 T2"
  },
  {
    name: "G-single: predicates",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", `${all} WHERE value % 5 = 0`, both],
      ["T2", "UPDATE test SET value = 12 WHERE value = 10"],
      ["T2", "commit"],
      ["T1", `${all} WHERE value % 3 = 0`, "1=12", "nothing"],
      ["T1", "commit"]
    ],
    happened: ({ reads }) => reads.T1[0] === both && reads.T1[1] === "1=12",
    verdicts: ["happens", "snapshot", "snapshot"],
    after: ["1=12 2=20", "1=12 2=20", "1=12 2=20"],
    order: "T1 T2"
  },
  {
    name: "G-single: write predicates",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", select(1), "1=10"],
      ["T2", all, both],
      ["T2", update(1, 12)],
      ["T2", update(2, 18)],
      ["T2", "commit"],
      ["T1", "DELETE FROM test WHERE value = 20", "ok", failure],
      ["T1", "commit", "ok", "over"]
    ],
    // It read the first row as before T2, but its DELETE saw the second as after T2.
    happened: (results) => committed(results, "T1") && results.reads.T1[0] === "1=10" && results.after === "1=12 2=18",
    verdicts: ["happens", failure, failure],
    after: ["1=12 2=18", "1=12 2=18", "1=12 2=18"],
    order: "T1 T2"
  },
  {
    name: "G2-item: write skew",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", `${all} WHERE id IN (1, 2)`, both],
      ["T2", `${all} WHERE id IN (1, 2)`, both],
      ["T1", update(1, 11)],
      ["T2", update(2, 21)],
      ["T1", "commit"],
      ["T2", "commit", "ok", "ok", failure]
    ],
    happened: (results) =>
      committed(results, "T1", "T2") && results.reads.T1[0] === both && results.reads.T2[0] === both,
    verdicts: ["happens", "happens", failure],
    after: ["1=11 2=21", "1=11 2=21", "1=11 2=20"],
    order: "T1 T2"
  },
  {
    name: "G2: anti-dependency cycles",
    steps: [
      ["T1", "begin"],
      ["T2", "begin"],
      ["T1", `${all} WHERE value % 3 = 0`, "nothing"],
      ["T2", `${all} WHERE value % 3 = 0`, "nothing"],
      ["T1", insert(3, 30)],
      ["T2", insert(4, 42)],
      ["T1", "commit"],
      ["T2", "commit", "ok", "ok", failure]
    ],
    happened: (results) =>
      committed(results, "T1", "T2") && results.reads.T1[0] === "nothing" && results.reads.T2[0] === "nothing",
    verdicts: ["happens", "happens", failure],
    after: ["1=10 2=20 3=30 4=42", "1=10 2=20 3=30 4=42", "1=10 2=20 3=30"],
    order: "T1 T2"
  },
  {
    name: "G2: two anti-dependency edges",
    steps: [
      ["T1", "begin"],
      ["T1", all, both],
      ["T2", "begin"],
      ["T2", "UPDATE test SET value = value + 5 WHERE id = 2"],
      ["T2", "commit"],
      ["T3", "begin"],
      ["T3", all, "1=10 2=25"],
      ["T3", "commit"],
      ["T1", update(1, 0), "ok", "ok", failure],
      ["T1", "commit", "ok", "ok", "over"]
    ],
    happened: (results) =>
      committed(results, "T1", "T2", "T3") && results.reads.T1[0] === both && results.reads.T3[0] === "1=10 2=25",
    verdicts: ["happens", "happens", failure],
    after: ["1=0 2=25", "1=0 2=25", "1=10 2=25"],
    order: "T3 T1 T2"
  }
]
