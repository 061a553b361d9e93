/**
 * Runs sessions of a peer as they arrive, whether or not the pool keeps up with them.
 */
import { Latencies, type Peer } from "./peer.js"

export interface Arrivals {
  /** Clients that come back as soon as they are served or refused, or sessions that arrive independently of each other. */
  readonly arrivals: "closed" | "open"
  /** The number of clients, or of sessions that arrive per second. */
  readonly count: number
  /** How long each session holds its connection, in milliseconds. */
  readonly hold: number
  /** The pool's own limit of a wait, in milliseconds. */
  readonly timeout: number
  /** The duration of the run, in seconds. The second half is measured. */
  readonly seconds: number
}

/** What became of the sessions that ended in the measured half. Numbers are per second. */
export interface Served {
  readonly served: number
  readonly refused: number
  /** The refused that had not waited for 95 % of the timeout. */
  readonly early: number
  /** Percentiles of how long the served have waited, in milliseconds. */
  readonly p50: number
  readonly p99: number
  /** The share of one processor that the client's process used. */
  readonly cpu: number
}

/** The interval at which sessions arrive that are due, in milliseconds. */
const tick = 5

export const arrive = async (peer: Peer, { arrivals, count, hold, seconds, timeout }: Arrivals): Promise<Served> => {
  const { hold: holdConnection } = peer
  if (holdConnection === undefined) {
    throw new Error("this peer does not support overload")
  }
  const waits = new Latencies()
  const run = { isMeasured: false, hasEnded: false }
  let refused = 0
  let early = 0
  let failure: unknown = undefined

  const session = async (): Promise<void> => {
    const started = performance.now()
    const served = await holdConnection(hold)
    const elapsed = performance.now() - started
    if (!run.isMeasured) {
      return
    }
    if (served) {
      waits.add(Math.max(0, elapsed - hold))
    } else {
      refused++
      early += elapsed < 0.95 * timeout ? 1 : 0
    }
  }

  const fail = (error: unknown): void => {
    failure = error
  }
  let interval: NodeJS.Timeout | undefined = undefined
  if (arrivals === "closed") {
    const client = async (): Promise<void> => {
      while (!run.hasEnded) {
        await session()
      }
    }
    for (let i = 0; i < count; i++) {
      client().catch(fail)
    }
  } else {
    const started = performance.now()
    let arrived = 0
    interval = setInterval(() => {
      for (const due = (performance.now() - started) / 1_000 * count; arrived < due; arrived++) {
        session().catch(fail)
      }
    }, tick)
  }

  const half = () => new Promise((resolve) => setTimeout(resolve, seconds * 500))
  await half()
  run.isMeasured = true
  const started = performance.now()
  const cpu = process.cpuUsage()
  await half()
  run.isMeasured = false
  run.hasEnded = true
  clearInterval(interval)
  if (failure !== undefined) {
    throw failure
  }
  const { system, user } = process.cpuUsage(cpu)
  const millis = performance.now() - started
  const perSecond = (number: number) => number / millis * 1_000
  return {
    served: perSecond(waits.total),
    refused: perSecond(refused),
    early: perSecond(early),
    p50: waits.percentile(0.5),
    p99: waits.percentile(0.99),
    cpu: (system + user) / 1_000 / millis
  }
}
