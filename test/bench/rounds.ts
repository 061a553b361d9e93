/**
 * Peers in turn, so that the machine's moods meet all alike.
 */
import type { Database } from "./databases.js"
import type { Figures, Options, Work } from "./peer.js"
import type { Kind } from "./peers.js"
import { type Remote, remote } from "./remote.js"

export interface Plan {
  readonly rounds: number
  readonly millis: number
}

/** What each peer did in each round. */
export type Results = ReadonlyMap<string, ReadonlyArray<Figures>>

export const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((left, right) => left - right)[Math.floor(values.length / 2)]

/** A peer that fails is left out, which the command's exit code tells. */
const failed = (error: unknown): void => {
  console.error(error)
  process.exitCode = 1
}

/** The processes of those peers that do this work. */
export const open = async (
  kinds: ReadonlyArray<Kind>,
  work: Work,
  options: Options
): Promise<ReadonlyMap<string, Remote>> => {
  const remotes = new Map<string, Remote>()
  for (const kind of kinds) {
    try {
      const opened = await remote(kind, options)
      if (opened.works.includes(work)) {
        remotes.set(kind.name, opened)
      } else {
        await opened.end()
      }
    } catch (error) {
      failed(error)
    }
  }
  return remotes
}

export const close = (remotes: ReadonlyMap<string, Remote>): Promise<unknown> =>
  Promise.all([...remotes.values()].map((remote) => remote.end()))

/** So many operations compile what they run. */
const warm: { readonly [W in Work]: number } = {
  select: 3_000,
  session: 3_000,
  empty: 3_000,
  read: 20,
  stream: 1,
  insert: 10
}

const perOperation: { readonly [W in Work]?: number } = { session: 1, insert: 10_000 }

/** Whether what was done is what the peer says: a peer that loses updates would be quick. */
const check = async (database: Database, work: Work, peer: string, operations: number): Promise<void> => {
  const done: { readonly [W in Work]?: number } = await database.done()
  const expected = operations * (perOperation[work] ?? 0)
  if ((done[work] ?? 0) !== expected) {
    throw new Error(`${peer} says that it did ${expected} of ${work}, and did ${done[work]}`)
  }
}

/** One round to warm up, and then those that count, each begun by another peer. */
export const measure = async (
  remotes: ReadonlyMap<string, Remote>,
  database: Database,
  work: Work,
  concurrency: number,
  { millis, rounds }: Plan
): Promise<Results> => {
  const names = [...remotes.keys()]
  const results = new Map(names.map((name): [string, Array<Figures>] => [name, []]))
  for (let round = -1; round < rounds; round++) {
    const first = (round + 1) % names.length
    for (const name of [...names.slice(first), ...names.slice(0, first)].filter((name) => results.has(name))) {
      try {
        const least = round < 0 ? warm[work] : 1
        const figures = await remotes.get(name)!.run({ work, concurrency, millis, least })
        await check(database, work, name, figures.operations)
        if (round >= 0) {
          results.get(name)!.push(figures)
        }
      } catch (error) {
        failed(error)
        results.delete(name)
        await database.done()
      }
    }
  }
  return results
}
