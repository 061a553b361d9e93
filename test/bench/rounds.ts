/**
 * Runs the peers in interleaved rounds, so that changes in the machine's load affect all of them alike.
 */
import type { Database, Written } from "./databases.js"
import type { Measurement, Options, Work } from "./peer.js"
import type { Kind } from "./peers.js"
import { type Remote, remote } from "./remote.js"
import { sessionsIn } from "./workloads.js"

export interface Plan {
  readonly rounds: number
  readonly millis: number
}

/** The measurements of each peer, one per round. */
export type Results = ReadonlyMap<string, ReadonlyArray<Measurement>>

export const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((left, right) => left - right)[Math.floor(values.length / 2)]

/** Reports a failed peer, which is left out of the results, and makes the command exit with 1. */
const reportFailure = (error: unknown): void => {
  console.error(error)
  process.exitCode = 1
}

/** Starts the processes of the peers that do this work, in the order of the kinds. */
export const open = async (
  kinds: ReadonlyArray<Kind>,
  work: Work,
  options: Options
): Promise<ReadonlyMap<string, Remote>> => {
  const able = kinds.filter(({ without }) => without?.[work] === undefined)
  const remotes = await Promise.all(able.map(async (kind): Promise<ReadonlyArray<[string, Remote]>> => {
    try {
      const opened = await remote(kind, options)
      return [[kind.name, opened]]
    } catch (error) {
      reportFailure(error)
    }
    return []
  }))
  return new Map(remotes.flat())
}

export const close = (remotes: ReadonlyMap<string, Remote>): Promise<unknown> =>
  Promise.all([...remotes.values()].map((remote) => remote.end()))

/** The number of operations after which V8 has compiled the code they run. Rounds that are too short to measure have fewer. */
const warmUp: { readonly [W in Work]: number } = {
  select: 3_000,
  promise: 3_000,
  session: 3_000,
  empty: 3_000,
  mixed: 1_000,
  read: 20,
  stream: 1,
  insert: 10,
  copyIn: 2,
  copyOut: 3,
  wide: 200
}

/** The rows that this number of operations writes. */
const writtenBy = (work: Work, operations: number): Written => ({
  updated: work === "session" ? operations : work === "mixed" ? sessionsIn(operations) : 0,
  inserted: work === "insert" ? 10_000 * operations : work === "copyIn" ? 100_000 * operations : 0
})

/** Compares the rows written with the operations that the peer reports: a peer that loses updates would seem fast. */
const checkWritten = async (database: Database, work: Work, peer: string, operations: number): Promise<void> => {
  const written = await database.takeWritten()
  const expected = writtenBy(work, operations)
  if (written.updated !== expected.updated || written.inserted !== expected.inserted) {
    const counts = `${JSON.stringify(expected)}, but the database has ${JSON.stringify(written)}`
    throw new Error(`${peer} reports writes of ${work} that come to ${counts}`)
  }
}

/** One round to warm up, then the measured rounds, each starting with a different peer. */
export const measure = async (
  remotes: ReadonlyMap<string, Remote>,
  database: Database,
  work: Work,
  concurrency: number,
  { millis, rounds }: Plan
): Promise<Results> => {
  const names = [...remotes.keys()]
  const results = new Map(names.map((name): [string, Array<Measurement>] => [name, []]))
  for (let round = -1; round < rounds; round++) {
    const first = (round + 1) % names.length
    for (const name of [...names.slice(first), ...names.slice(0, first)].filter((name) => results.has(name))) {
      try {
        const minOperations = round < 0 ? Math.ceil(warmUp[work] * Math.min(1, millis / 300)) : 1
        const measurement = await remotes.get(name)!.run({ work, concurrency, millis, minOperations })
        await checkWritten(database, work, name, measurement.operations)
        if (round >= 0) {
          results.get(name)!.push(measurement)
        }
      } catch (error) {
        reportFailure(error)
        results.delete(name)
        await database.takeWritten()
      }
    }
  }
  return results
}
