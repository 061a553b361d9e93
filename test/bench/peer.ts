/**
 * What is compared: a client library at work, in its own idiom.
 */

/** Each is described in workloads.ts. */
export type Work = "select" | "session" | "empty" | "read" | "stream" | "insert"

export interface Options {
  /** A SQLite peer's is its file. */
  readonly url: string
  readonly pool: number
  /** How many different texts the select has. */
  readonly statements: number
}

/** What is asked of a peer. */
export interface Task {
  readonly work: Work
  readonly concurrency: number
  readonly millis: number
  /** It goes on for longer where it has done fewer operations than this. */
  readonly least: number
}

/** What one run found. A peer that is no program of ours says nothing of itself. */
export interface Figures {
  readonly operations: number
  readonly seconds: number
  readonly cpuMicros: number | null
  /** Milliseconds. */
  readonly p50: number | null
  readonly p99: number | null
  /** The most memory that the process ever had, in megabytes. */
  readonly peak: number | null
}

export interface Peer {
  readonly works: ReadonlyArray<Work>
  readonly run: (task: Task) => Promise<Figures>
  /** Lets so many sessions wait for a connection; answers how to let them go. */
  readonly wait?: (sessions: number) => Promise<() => Promise<unknown>>
}

export type Open = (options: Options) => Promise<Peer>

/** One worker's: `start` before each operation, which says whether there is time for it, and `end` after it. */
export interface Clock {
  readonly start: () => boolean
  /** `rows` is what the operation saw. */
  readonly end: (rows: number) => void
}

/** Does an operation again and again, one at a time. */
export type Worker = (clock: Clock) => Promise<unknown>

/** A promise's worker: `operation` answers how many rows it saw. */
export const worker = (operation: () => Promise<number>): Worker => async (clock) => {
  while (clock.start()) {
    clock.end(await operation())
  }
}

const bucketsPerDoubling = 32

/** Latencies in buckets that are 2 % wide. */
class Latencies {
  private readonly counts = new Float64Array(40 * bucketsPerDoubling)
  total = 0

  add(millis: number): void {
    this.counts[Math.floor(Math.log2(1 + millis * 1_000) * bucketsPerDoubling)]++
    this.total++
  }

  percentile(share: number): number {
    let left = this.total * share
    const bucket = this.counts.findIndex((count) => (left -= count) <= 0)
    return (2 ** ((bucket + 0.5) / bucketsPerDoubling) - 1) / 1_000
  }
}

const clockOf = (latencies: Latencies, deadline: number, least: number, rows: number): Clock => {
  let started = 0
  return {
    start: () => {
      started = performance.now()
      return started < deadline || latencies.total < least
    },
    end: (seen) => {
      if (seen !== rows) {
        throw new Error(`the operation saw ${seen} rows and not ${rows}`)
      }
      latencies.add(performance.now() - started)
    }
  }
}

const expectedRows: { readonly [W in Work]: number } = {
  select: 1,
  session: 1,
  empty: 0,
  read: 10_000,
  stream: 1_000_000,
  insert: 0
}

/** A peer whose work is done by workers in this process. */
export const peer = (
  workers: { readonly [W in Work]?: Worker },
  rest: Pick<Peer, "wait"> = {}
): Peer => ({
  ...rest,
  works: Object.keys(workers) as Array<Work>,
  run: async ({ concurrency, least, millis, work }) => {
    const doIt = workers[work]
    if (doIt === undefined) {
      throw new Error(`it does not do ${work}`)
    }
    globalThis.gc?.()
    const latencies = new Latencies()
    const cpu = process.cpuUsage()
    const started = performance.now()
    await Promise.all(
      Array.from({ length: concurrency }, () => doIt(clockOf(latencies, started + millis, least, expectedRows[work])))
    )
    const seconds = (performance.now() - started) / 1_000
    const { system, user } = process.cpuUsage(cpu)
    return {
      operations: latencies.total,
      seconds,
      cpuMicros: system + user,
      p50: latencies.percentile(0.5),
      p99: latencies.percentile(0.99),
      peak: process.resourceUsage().maxRSS / 1_024
    }
  }
})
