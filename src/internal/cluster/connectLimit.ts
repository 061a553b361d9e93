/**
 * Limits how many connections are opened to one server at a time while it is recovering.
 */
import type { PoolClock } from "../pool/clock.js"
import type { Server } from "./servers.js"

/**
 * How many connections to one server are opened at a time. A server that was just promoted or started forks a process for
 * each, which reads the catalog anew. Four at a time open the 30 connections of a pool in eight steps, and ten processes of
 * an application together stay below the 100 connections that PostgreSQL accepts by default.
 */
export const maxStarting = 4

/** For how long a server counts as recovering after it has begun to answer, or was promoted, in milliseconds. */
export const recoveryTime = 10_000

/**
 * If a server answers no attempt for this many milliseconds, an attempt no longer counts towards the limit, and the
 * next one begins. The longer time applies after the server has accepted the connection: it may only be slow, and forks
 * a process for the connection in any case.
 */
const maxUnanswered = 1_000
const maxUnansweredAccepted = 10_000

/** These times are counted in ticks. A tick that is late because the event loop was busy counts once. */
const tickTime = 100

/** The attempts at one server. */
interface Starting {
  /** How many have begun and count towards the limit. */
  count: number
  /** Begin the attempts that wait, the first one first. */
  readonly waiting: Array<() => void>
}

/** An attempt to connect that may begin, or waits until it may. */
export interface Attempt {
  /** To be called when the server has accepted the connection. */
  readonly accepted: () => void
  /** Ends the attempt, or the wait for it. */
  readonly end: () => void
}

export class ConnectLimit {
  private readonly servers = new WeakMap<Server, Starting>()

  constructor(private readonly clock: PoolClock) {}

  /** A standby counts too: when it is promoted, all that wait for a primary connect to it at once. */
  private isRecovering({ role, roleSince, since, state }: Server): boolean {
    return state !== "up" || role === "standby" || this.clock.now() - Math.max(since, roleSince) <= recoveryTime
  }

  /** Calls `onGranted` when an attempt may begin, possibly before it returns. */
  take(server: Server, onGranted: () => void): Attempt {
    if (!this.isRecovering(server)) {
      onGranted()
      return unlimited
    }
    const starting = this.servers.get(server) ?? { count: 0, waiting: [] }
    this.servers.set(server, starting)
    let maxSilence = maxUnanswered
    let end = (): void => {
      const index = starting.waiting.indexOf(begin)
      if (index >= 0) {
        starting.waiting.splice(index, 1)
      }
    }
    const begin = (): void => {
      let isCounted = true
      const release = (): void => {
        timer.cancel()
        if (isCounted) {
          isCounted = false
          starting.count--
          starting.waiting.shift()?.()
        }
      }
      let answeredAt = server.answeredAt
      let silentTicks = 0
      const onTick = (): void => {
        silentTicks = server.answeredAt === answeredAt ? silentTicks + 1 : 1
        answeredAt = server.answeredAt
        if (silentTicks * tickTime < maxSilence) {
          timer = this.clock.schedule(onTick, tickTime)
        } else {
          release()
        }
      }
      let timer = this.clock.schedule(onTick, tickTime)
      starting.count++
      end = release
      onGranted()
    }
    if (starting.count < maxStarting) {
      begin()
    } else {
      starting.waiting.push(begin)
    }
    return {
      accepted: () => {
        maxSilence = maxUnansweredAccepted
      },
      end: () => end()
    }
  }
}

/** An attempt at a server that is up. */
const unlimited: Attempt = { accepted: () => undefined, end: () => undefined }
