/**
 * The journal of what the workers of the bank observed, and the check that compares it with the database.
 */

/**
 * An event of a transfer. A transfer moves money in one or several parts; either all of them are in the ledger, or none.
 * With `alternative`, these parts can be there in place of `parts`.
 * `requested` is recorded before its session starts, `committed` and `rolled back` by the session's hooks for one
 * attempt, and the others when the session ends: `acknowledged` if the transfer succeeded, `refused` if it failed or
 * was rolled back on purpose, `unknown` if the outcome of its COMMIT is unknown.
 */
export type Entry =
  | {
    readonly id: string
    readonly event: "requested"
    readonly kind: string
    readonly parts: ReadonlyArray<string>
    readonly alternative?: ReadonlyArray<string> | undefined
  }
  | { readonly id: string; readonly event: "committed" | "rolled back"; readonly attempt: number }
  | {
    readonly id: string
    readonly event: "acknowledged" | "refused" | "unknown" | "interrupted" | "defect"
    readonly reason?: string | undefined
  }

/** A row of the ledger. */
export interface Posting {
  readonly id: string
  readonly attempt: number
  readonly part: string
  readonly source: number
  readonly target: number
  readonly amount: number
}

/** The contents of the database. */
export interface Books {
  readonly accounts: ReadonlyArray<{ readonly id: number; readonly balance: number }>
  readonly ledger: ReadonlyArray<Posting>
}

/** The balance with which every account starts. */
export const initialBalance = 1_000

/** The errors that a session of the bank may fail with under faults. */
const expectedErrors: ReadonlySet<string> = new Set([
  "Refused",
  "ConnectionFailed",
  "ConnectionLost",
  "PoolTimeout",
  "SerializationFailure",
  "DeadlockDetected",
  "LockTimeout",
  "StatementTimeout",
  "StatementCanceled",
  "SessionTimeout",
  "TransactionAborted",
  "CommitOutcomeUnknown"
])

/** The events of one transfer. */
interface Transfer {
  kind: string
  parts: ReadonlyArray<string> | undefined
  alternative: ReadonlyArray<string> | undefined
  readonly committed: Array<number>
  readonly rolledBack: Array<number>
  outcome: Entry["event"] | undefined
}

const noEvents = (): Transfer => ({
  kind: "",
  parts: undefined,
  alternative: undefined,
  committed: [],
  rolledBack: [],
  outcome: undefined
})

const transfersOf = (journal: ReadonlyArray<Entry>): ReadonlyMap<string, Transfer> => {
  const transfers = new Map<string, Transfer>()
  for (const entry of journal) {
    let transfer = transfers.get(entry.id)
    if (transfer === undefined) {
      transfer = noEvents()
      transfers.set(entry.id, transfer)
    }
    switch (entry.event) {
      case "requested": {
        transfer.kind = entry.kind
        transfer.parts = entry.parts
        transfer.alternative = entry.alternative
        break
      }
      case "committed": {
        transfer.committed.push(entry.attempt)
        break
      }
      case "rolled back": {
        transfer.rolledBack.push(entry.attempt)
        break
      }
      default:
        transfer.outcome = entry.event
    }
  }
  return transfers
}

const partsByAttempt = (
  ledger: ReadonlyArray<Posting>
): ReadonlyMap<string, ReadonlyMap<number, ReadonlyArray<string>>> => {
  const all = new Map<string, Map<number, Array<string>>>()
  for (const { attempt, id, part } of ledger) {
    const attempts = all.get(id) ?? new Map<number, Array<string>>()
    all.set(id, attempts)
    attempts.set(attempt, [...attempts.get(attempt) ?? [], part])
  }
  return all
}

const balanceProblems = ({ accounts, ledger }: Books): ReadonlyArray<string> => {
  const balances = new Map(accounts.map(({ id }) => [id, initialBalance]))
  for (const { amount, source, target } of ledger) {
    balances.set(source, (balances.get(source) ?? 0) - amount)
    balances.set(target, (balances.get(target) ?? 0) + amount)
  }
  const sum = accounts.reduce((total, { balance }) => total + balance, 0)
  return [
    ...(sum === accounts.length * initialBalance ? [] : [`the sum of the balances is ${sum}`]),
    ...accounts.flatMap(({ balance, id }) =>
      balance === balances.get(id)
        ? []
        : [`account ${id} has ${balance}, but ${balances.get(id)} according to the ledger`]
    )
  ]
}

/** The problems of one transfer. `rows` are its parts in the ledger by attempt. */
const transferProblems = (
  transfer: Transfer,
  rows: ReadonlyMap<number, ReadonlyArray<string>>
): ReadonlyArray<string> => {
  const problems: Array<string> = []
  if (transfer.parts === undefined) {
    return ["was never requested"]
  }
  if (rows.size > 1) {
    problems.push(`was executed ${rows.size} times`)
  }
  const allowed = [transfer.parts, ...transfer.alternative === undefined ? [] : [transfer.alternative]]
    .map((parts) => [...parts].sort().join())
  for (const [attempt, parts] of rows) {
    if (!allowed.includes([...parts].sort().join())) {
      problems.push(`attempt ${attempt} left ${parts.join()} instead of ${allowed.join(" or ")}`)
    }
  }
  for (const attempt of transfer.committed) {
    if (!rows.has(attempt)) {
      problems.push(`attempt ${attempt} was reported as committed, but is not in the ledger`)
    }
    if (transfer.rolledBack.includes(attempt)) {
      problems.push(`attempt ${attempt} was reported both as committed and as rolled back`)
    }
  }
  for (const attempt of transfer.rolledBack) {
    if (rows.has(attempt)) {
      problems.push(`attempt ${attempt} was reported as rolled back, but is in the ledger`)
    }
  }
  const reported = [...transfer.committed, ...transfer.rolledBack]
  if (new Set(reported).size !== reported.length) {
    problems.push("an attempt was reported twice")
  }
  if (transfer.outcome === "acknowledged") {
    if (rows.size === 0) {
      problems.push("was acknowledged, but is not in the ledger")
    }
    if (transfer.committed.length !== 1) {
      problems.push(`was acknowledged, but afterCommit ran ${transfer.committed.length} times`)
    }
  }
  if (transfer.outcome === "refused" && rows.size > 0) {
    problems.push("was refused, but is in the ledger")
  }
  if (transfer.outcome === "unknown" && transfer.committed.length > 0) {
    problems.push("was reported as committed, but its outcome is unknown")
  }
  return problems
}

/** The problems found: every difference between the journal and the database, and every unexpected error. */
export const verify = (journal: ReadonlyArray<Entry>, books: Books): ReadonlyArray<string> => {
  const transfers = transfersOf(journal)
  const rows = partsByAttempt(books.ledger)
  const ids = new Set([...transfers.keys(), ...rows.keys()])
  const ofTransfers = Array.from(ids).flatMap((id) => {
    const transfer = transfers.get(id) ?? noEvents()
    return transferProblems(transfer, rows.get(id) ?? new Map()).map((problem) =>
      `${id} (${transfer.kind}, ${transfer.outcome}): ${problem}`
    )
  })
  const unexpected = journal.flatMap((entry) =>
    entry.event === "defect"
      ? [`${entry.id}: a defect: ${entry.reason}`]
      : "reason" in entry && entry.reason !== undefined && !expectedErrors.has(entry.reason)
      ? [`${entry.id}: failed with ${entry.reason}`]
      : []
  )
  return [...balanceProblems(books), ...ofTransfers, ...unexpected]
}

/** The number of events of each type and reason. */
export const countEvents = (journal: ReadonlyArray<Entry>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const entry of journal) {
    const name = "reason" in entry && entry.reason !== undefined ? `${entry.event} ${entry.reason}` : entry.event
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}
