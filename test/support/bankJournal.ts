/**
 * What the workers of the bank were told, and whether it is true.
 */

/**
 * A transfer moves money in one or several parts, all or none of which are in the ledger. `asked` comes before anything
 * is done; `committed` and `rolled back` are what its session's hooks said of one attempt at it; the others are what
 * the worker was told in the end.
 */
export type Entry =
  | { readonly id: string; readonly said: "asked"; readonly kind: string; readonly parts: ReadonlyArray<string> }
  | { readonly id: string; readonly said: "committed" | "rolled back"; readonly attempt: number }
  | {
    readonly id: string
    readonly said: "acknowledged" | "refused" | "unknown" | "interrupted" | "defect"
    readonly why?: string | undefined
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

/** What the database holds. */
export interface Books {
  readonly accounts: ReadonlyArray<{ readonly id: number; readonly balance: number }>
  readonly ledger: ReadonlyArray<Posting>
}

/** With what every account began. */
export const initialBalance = 1_000

/** What a session of the bank may fail with while things go wrong. */
const expected: ReadonlySet<string> = new Set([
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

interface Told {
  kind: string
  parts: ReadonlyArray<string> | undefined
  readonly committed: Array<number>
  readonly rolledBack: Array<number>
  end: Entry["said"] | undefined
}

const gathered = (journal: ReadonlyArray<Entry>): ReadonlyMap<string, Told> => {
  const transfers = new Map<string, Told>()
  for (const entry of journal) {
    let told = transfers.get(entry.id)
    if (told === undefined) {
      told = { kind: "", parts: undefined, committed: [], rolledBack: [], end: undefined }
      transfers.set(entry.id, told)
    }
    switch (entry.said) {
      case "asked": {
        told.kind = entry.kind
        told.parts = entry.parts
        break
      }
      case "committed": {
        told.committed.push(entry.attempt)
        break
      }
      case "rolled back": {
        told.rolledBack.push(entry.attempt)
        break
      }
      default:
        told.end = entry.said
    }
  }
  return transfers
}

const booked = (ledger: ReadonlyArray<Posting>): ReadonlyMap<string, ReadonlyMap<number, ReadonlyArray<string>>> => {
  const all = new Map<string, Map<number, Array<string>>>()
  for (const { attempt, id, part } of ledger) {
    const attempts = all.get(id) ?? new Map<number, Array<string>>()
    all.set(id, attempts)
    attempts.set(attempt, [...attempts.get(attempt) ?? [], part])
  }
  return all
}

const wrongBalances = ({ accounts, ledger }: Books): ReadonlyArray<string> => {
  const balances = new Map(accounts.map(({ id }) => [id, initialBalance]))
  for (const { amount, source, target } of ledger) {
    balances.set(source, (balances.get(source) ?? 0) - amount)
    balances.set(target, (balances.get(target) ?? 0) + amount)
  }
  const sum = accounts.reduce((total, { balance }) => total + balance, 0)
  return [
    ...(sum === accounts.length * initialBalance ? [] : [`the sum is ${sum}`]),
    ...accounts.flatMap(({ balance, id }) =>
      balance === balances.get(id) ? [] : [`account ${id} has ${balance}, and ${balances.get(id)} by the ledger`]
    )
  ]
}

/** What is wrong with one transfer, of which the ledger holds these parts by attempt. */
const wrongs = (told: Told, rows: ReadonlyMap<number, ReadonlyArray<string>>): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (told.parts === undefined) {
    return ["nobody asked for it"]
  }
  if (rows.size > 1) {
    found.push(`was done ${rows.size} times`)
  }
  const whole = [...told.parts].sort().join()
  for (const [attempt, parts] of rows) {
    if ([...parts].sort().join() !== whole) {
      found.push(`attempt ${attempt} left ${parts.join()} in place of ${whole}`)
    }
  }
  for (const attempt of told.committed) {
    if (!rows.has(attempt)) {
      found.push(`attempt ${attempt} was said to be committed, and is not there`)
    }
    if (told.rolledBack.includes(attempt)) {
      found.push(`attempt ${attempt} was said to be committed, and rolled back`)
    }
  }
  for (const attempt of told.rolledBack) {
    if (rows.has(attempt)) {
      found.push(`attempt ${attempt} was said to be rolled back, and is there`)
    }
  }
  const said = [...told.committed, ...told.rolledBack]
  if (new Set(said).size !== said.length) {
    found.push("an attempt's end was told twice")
  }
  if (told.end === "acknowledged") {
    if (rows.size === 0) {
      found.push("was acknowledged, and is lost")
    }
    if (told.committed.length !== 1) {
      found.push(`was acknowledged, and afterCommit ran ${told.committed.length} times`)
    }
  }
  if (told.end === "refused" && rows.size > 0) {
    found.push("was refused, and is there")
  }
  if (told.end === "unknown" && told.committed.length > 0) {
    found.push("was said to be committed, and to be unknown")
  }
  return found
}

/** Everything that should not be. Nothing, if the bank is in order. */
export const judge = (journal: ReadonlyArray<Entry>, books: Books): ReadonlyArray<string> => {
  const transfers = gathered(journal)
  const rows = booked(books.ledger)
  const ids = new Set([...transfers.keys(), ...rows.keys()])
  const nothing: Told = { kind: "", parts: undefined, committed: [], rolledBack: [], end: undefined }
  const ofTransfers = Array.from(ids).flatMap((id) => {
    const told = transfers.get(id) ?? nothing
    return wrongs(told, rows.get(id) ?? new Map()).map((wrong) => `${id} (${told.kind}, ${told.end}): ${wrong}`)
  })
  const unexpected = journal.flatMap((entry) =>
    entry.said === "defect"
      ? [`${entry.id}: a defect: ${entry.why}`]
      : "why" in entry && entry.why !== undefined && !expected.has(entry.why)
      ? [`${entry.id}: failed with ${entry.why}`]
      : []
  )
  return [...wrongBalances(books), ...ofTransfers, ...unexpected]
}

/** How often what was said, and why. */
export const tally = (journal: ReadonlyArray<Entry>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const entry of journal) {
    const name = "why" in entry && entry.why !== undefined ? `${entry.said} ${entry.why}` : entry.said
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}
