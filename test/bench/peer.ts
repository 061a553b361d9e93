/**
 * A peer: one client library that runs the workloads in its own idiom.
 */
import { largeRows, mixedWork, readable, streamable } from "./workloads.js"

/** The kinds of work, described in workloads.ts. */
export type Work =
  | "select"
  | "promise"
  | "session"
  | "empty"
  | "mixed"
  | "read"
  | "stream"
  | "insert"
  | "copyIn"
  | "copyOut"
  | "wide"

export interface Options {
  /** The database's URL; for SQLite, the path of the file. */
  readonly url: string
  readonly pool: number
  /** The number of different texts among which the selects alternate. */
  readonly statements: number
  /** The number of columns that the work `wide` reads. */
  readonly columns: number
  /** The longest wait for a connection, in milliseconds. Default: the library's own. */
  readonly timeout?: number
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

/** What a peer can do beside its works. */
export interface Extras {
  /** Makes this number of sessions wait for a connection; resolves to a function that lets them finish. */
  readonly wait?: (sessions: number) => Promise<() => Promise<unknown>>
  /**
   * Runs one session that holds its connection for this number of milliseconds. Resolves to whether it was served: it is
   * not if no connection came free in time.
   */
  readonly hold?: (millis: number) => Promise<boolean>
}

export interface Peer extends Extras {
  readonly run: (task: Task) => Promise<Measurement>
}

export type Open = (options: Options) => Promise<Peer>

/** Times the operations of one worker. `start` comes before each operation, and returns whether to run it at all. */
export interface Clock {
  readonly start: () => boolean
  /** The number of the operation that was started last, counted from 0 over all workers of the run. */
  readonly number: () => number
  /** Records an operation that read this number of rows. */
  readonly end: (rows: number) => void
}

/** Runs an operation repeatedly, one at a time, until the clock says to stop. */
export type Worker = (clock: Clock) => Promise<unknown>

/** An operation: given its number in the run, results in the number of rows it has read. */
type Operation<A> = (number: number) => A

/** A worker from an operation that resolves to the number of rows it has read. */
export const worker = (operation: Operation<Promise<number>>): Worker => async (clock) => {
  while (clock.start()) {
    clock.end(await operation(clock.number()))
  }
}

/** The operations of a peer. `A` is what they return, such as a promise of the number of rows. */
export interface Operations<A> {
  readonly select?: () => A
  readonly session?: () => A
  readonly empty?: () => A
  /** Reads this number of rows. */
  readonly read?: (rows: number) => A
  readonly stream?: () => A
  readonly insert?: () => A
  readonly copyIn?: () => A
  readonly copyOut?: () => A
  readonly wide?: () => A
}

type Workers = { readonly [W in Work]?: Worker }

/** The workers that run these operations, including the work that consists of several operations. */
export const workersOf = <A>(
  { read, ...operations }: Operations<A>,
  toWorker: (operation: Operation<A>) => Worker
): Workers => {
  const workers = Object.entries(operations).map(([work, operation]) => [work, toWorker(operation)])
  const { select, session } = operations
  return {
    ...Object.fromEntries(workers),
    ...(read === undefined ? {} : { read: toWorker(() => read(readable)) }),
    ...(read === undefined || select === undefined || session === undefined ? {} : {
      mixed: toWorker((number) => {
        const work = mixedWork(number)
        return work === "large" ? read(largeRows) : work === "session" ? session() : select()
      })
    })
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
export class Latencies {
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

const rowsOf: { readonly [W in Work]: number | ((number: number) => number) } = {
  select: 1,
  promise: 1,
  session: 1,
  empty: 0,
  mixed: (number) => mixedWork(number) === "large" ? largeRows : 1,
  read: readable,
  stream: streamable,
  insert: 0,
  copyIn: 0,
  copyOut: 100_000,
  wide: 1_000
}

/** Makes the clocks of the workers of one run. */
const clocksOf = (work: Work, latencies: Latencies, deadline: number, minOperations: number) => {
  const rowsOfWork = rowsOf[work]
  let count = 0
  return (): Clock => {
    let started = 0
    let number = 0
    return {
      start: () => {
        started = performance.now()
        const runs = started < deadline || latencies.total < minOperations
        if (runs) {
          number = count++
        }
        return runs
      },
      number: () => number,
      end: (rows) => {
        const expectedRows = typeof rowsOfWork === "number" ? rowsOfWork : rowsOfWork(number)
        if (rows !== expectedRows) {
          throw new Error(`the operation read ${rows} rows instead of ${expectedRows}`)
        }
        latencies.add(performance.now() - started)
      }
    }
  }
}

/** A peer that runs its work with workers in this process. */
export const peerOf = (workers: Workers, extras: Extras = {}): Peer => ({
  ...extras,
  run: async ({ concurrency, millis, minOperations, work }) => {
    const worker = workers[work]
    if (worker === undefined) {
      throw new Error(`this peer does not support ${work}`)
    }
    globalThis.gc?.()
    const latencies = new Latencies()
    const cpu = process.cpuUsage()
    const started = performance.now()
    const makeClock = clocksOf(work, latencies, started + millis, minOperations)
    await Promise.all(Array.from({ length: concurrency }, () => worker(makeClock())))
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

/** A peer whose operations are promises, so that `promise` is what its `select` does anyway. */
export const peer = (operations: Operations<Promise<number>>, extras?: Extras): Peer => {
  const workers = workersOf(operations, worker)
  return peerOf(workers.select === undefined ? workers : { ...workers, promise: workers.select }, extras)
}
