/**
 * A peer: one client library that runs the workloads in its own idiom.
 */

/** The kinds of work, described in workloads.ts. */
export type Work = "select" | "session" | "empty" | "read" | "stream" | "insert" | "copyIn" | "copyOut"

export interface Options {
  /** The database's URL; for SQLite, the path of the file. */
  readonly url: string
  readonly pool: number
  /** The number of different texts among which the selects alternate. */
  readonly statements: number
}

/** A request to a peer: run one kind of work for some time. */
export interface Task {
  readonly work: Work
  readonly concurrency: number
  readonly millis: number
  /** The run takes longer than `millis` if it has not completed this many operations by then. */
  readonly minOperations: number
}

/** The result of one run. Fields that an external program such as pgbench does not report are null. */
export interface Measurement {
  readonly operations: number
  readonly seconds: number
  readonly cpuMicros: number | null
  /** Percentiles of the latency, in milliseconds. */
  readonly p50: number | null
  readonly p99: number | null
  /** The peak resident memory of the process, in megabytes. */
  readonly peak: number | null
}

export interface Peer {
  readonly works: ReadonlyArray<Work>
  readonly run: (task: Task) => Promise<Measurement>
  /** Makes this number of sessions wait for a connection; resolves to a function that lets them finish. */
  readonly wait?: (sessions: number) => Promise<() => Promise<unknown>>
}

export type Open = (options: Options) => Promise<Peer>

/** Times the operations of one worker. `start` comes before each operation, and returns whether to run it at all. */
export interface Clock {
  readonly start: () => boolean
  /** Records an operation that read this number of rows. */
  readonly end: (rows: number) => void
}

/** Runs an operation repeatedly, one at a time, until the clock says to stop. */
export type Worker = (clock: Clock) => Promise<unknown>

/** A worker from an operation that resolves to the number of rows it has read. */
export const worker = (operation: () => Promise<number>): Worker => async (clock) => {
  while (clock.start()) {
    clock.end(await operation())
  }
}

/** The number of lines of a text. */
export const linesIn = (data: Uint8Array): number => {
  let lines = 0
  for (let at = data.indexOf(10); at >= 0; at = data.indexOf(10, at + 1)) {
    lines++
  }
  return lines
}

const bucketsPerDoubling = 32

/** A histogram of latencies with logarithmic buckets, each about 2 % wide. */
class Latencies {
  private readonly counts = new Float64Array(40 * bucketsPerDoubling)
  total = 0

  add(millis: number): void {
    this.counts[Math.floor(Math.log2(1 + millis * 1_000) * bucketsPerDoubling)]++
    this.total++
  }

  percentile(share: number): number {
    let remaining = this.total * share
    const bucket = this.counts.findIndex((count) => (remaining -= count) <= 0)
    return (2 ** ((bucket + 0.5) / bucketsPerDoubling) - 1) / 1_000
  }
}

const makeClock = (latencies: Latencies, deadline: number, minOperations: number, expectedRows: number): Clock => {
  let started = 0
  return {
    start: () => {
      started = performance.now()
      return started < deadline || latencies.total < minOperations
    },
    end: (rows) => {
      if (rows !== expectedRows) {
        throw new Error(`the operation read ${rows} rows instead of ${expectedRows}`)
      }
      latencies.add(performance.now() - started)
    }
  }
}

const rowsOf: { readonly [W in Work]: number } = {
  select: 1,
  session: 1,
  empty: 0,
  read: 10_000,
  stream: 1_000_000,
  insert: 0,
  copyIn: 0,
  copyOut: 100_000
}

/** A peer that runs its work with workers in this process. */
export const peer = (
  workers: { readonly [W in Work]?: Worker },
  rest: Pick<Peer, "wait"> = {}
): Peer => ({
  ...rest,
  works: Object.keys(workers) as Array<Work>,
  run: async ({ concurrency, millis, minOperations, work }) => {
    const worker = workers[work]
    if (worker === undefined) {
      throw new Error(`this peer does not support ${work}`)
    }
    globalThis.gc?.()
    const latencies = new Latencies()
    const cpu = process.cpuUsage()
    const started = performance.now()
    await Promise.all(
      Array.from(
        { length: concurrency },
        () => worker(makeClock(latencies, started + millis, minOperations, rowsOf[work]))
      )
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
