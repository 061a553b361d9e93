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
 * After this many milliseconds in which a server has answered nobody, an attempt does not count any more, and the next one
 * begins: the server is not there. One that has accepted the connection is, and may only be slow: it forks a process for the
 * connection in any case.
 */
const startingTime = 1_000
const acceptedTime = 10_000

/** These times are counted in parts. One that takes longer, because the event loop was busy, counts once. */
const partTime = 100

interface Starting {
  count: number
  readonly waiting: Array<() => void>
}

/** An attempt that may begin, or waits for that. */
export interface Attempt {
  /** The server has accepted the connection. */
  readonly accepted: () => void
  /** Ends the attempt, or the wait for it. */
  readonly end: () => void
}

export class ConnectLimit {
  private readonly servers = new WeakMap<Server, Starting>()

  constructor(private readonly clock: PoolClock) {}

  /** A standby may be promoted at any moment, when all wait for a primary. */
  private isRecovering({ role, roleSince, since, state }: Server): boolean {
    return state !== "up" || role === "standby" || this.clock.now() - Math.max(since, roleSince) <= recoveryTime
  }

  /** Calls `onGranted` when an attempt may begin, maybe at once. */
  take(server: Server, onGranted: () => void): Attempt {
    if (!this.isRecovering(server)) {
      onGranted()
      return unlimited
    }
    const starting = this.servers.get(server) ?? { count: 0, waiting: [] }
    this.servers.set(server, starting)
    let maxSilence = startingTime
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
      let silentParts = 0
      const onPart = (): void => {
        silentParts = server.answeredAt === answeredAt ? silentParts + 1 : 1
        answeredAt = server.answeredAt
        if (silentParts * partTime < maxSilence) {
          timer = this.clock.schedule(onPart, partTime)
        } else {
          release()
        }
      }
      let timer = this.clock.schedule(onPart, partTime)
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
        maxSilence = acceptedTime
      },
      end: () => end()
    }
  }
}

/** An attempt at a server that is up. */
const unlimited: Attempt = { accepted: () => undefined, end: () => undefined }
