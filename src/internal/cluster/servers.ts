/**
 * The known state of the servers of one database. Its pools, its health check and its listening connection share it, so
 * that none of them finds out again what another one has found out.
 *
 * Everything here is synchronous. The timer runs in real time and not by the application's Clock, since servers are
 * outside of the program, and keeps no process alive.
 */
import type { PoolClock, Scheduled } from "../pool/clock.js"

/**
 * The state of a server:
 * - `unknown`: nothing was heard of it yet
 * - `up`: it answered when it was last asked, even if with an error
 * - `down`: the connection was refused, or it is starting up or shutting down
 * - `silent`: it did not answer in time
 */
export type ServerState = "unknown" | "up" | "down" | "silent"

/** `writer`: the primary. */
export type ServerRole = "writer" | "standby" | "unknown"

/** One server: an address of a host. The fields are up to date whenever they are read. Times are those of the clock. */
export interface Server {
  readonly host: string
  readonly port: number
  /** The IP address, the directory of a Unix socket, or the host's name where that was not looked up. */
  readonly address: string
  state: ServerState
  /** When the state changed last. */
  since: number
  /** When it last answered. */
  answeredAt: number
  /** Why it is down or silent. */
  reason: string | undefined
  role: ServerRole
  /** When its role was last reported to have changed. */
  roleSince: number
  /** Whether its transactions are read-only by default. A primary may be configured so too. */
  isReadOnly: boolean
  /** Identifies its cluster, given by initdb; undefined until the server has reported it. */
  systemIdentifier: string | undefined
  /** Undefined until the server has reported it. */
  timeline: number | undefined
  /** How far a standby is behind its primary, in milliseconds. */
  lag: number | undefined
}

/** The system of a server, and the timeline that it writes. A promotion begins a new timeline. */
export interface WriterIdentity {
  readonly systemIdentifier: string
  readonly timeline: number
}

/** An open connection. */
export interface Member {
  readonly server: Server
  /** The server's identity when the connection was opened; undefined if it was a standby, or was not asked. */
  readonly identity: WriterIdentity | undefined
  /** Whether it was opened for a server that accepts writes. */
  readonly needsWriter: boolean
  /**
   * Whether the connection should be to another server instead, once that is a standby. Undefined unless standbys are
   * preferred and none could be connected to.
   */
  readonly prefers?: ((server: Server) => boolean) | undefined
  /** Changes with everything that the server sends. */
  readonly activity: number
  /** Whether an answer of the server is awaited. */
  readonly isWaiting: boolean
  /** Takes the connection out of use: an idle one at once, one in use when it is returned. */
  readonly retire: (reason: string) => void
  /** Ends the connection at once. Everything in flight on it fails. */
  readonly end: (reason: string) => void
}

/** Records what happens to the servers. */
export interface Observer {
  /** A writer was found, this many milliseconds after the last one was lost. */
  readonly failover: (millis: number) => void
  /** How far a standby is behind: as measured, or at most, while it does not report it. 0 once it is no standby. */
  readonly lag: (server: Server, millis: number) => void
  /** A connection to one of several servers was opened. The result is called when it has closed. */
  readonly connected: (server: Server) => () => void
}

export interface Options {
  readonly clock: PoolClock
  /** How often a server that is down, or has not answered lately, is checked, in milliseconds. */
  readonly recheck: number
}

export class Servers {
  /** Connects to a server, and reports its state. Calls `onEnd` in any case. */
  probe: (server: Server, onEnd: () => void) => void = (_server, onEnd) => onEnd()
  /** Receives the changes, for the metrics. */
  observer: Observer | undefined = undefined

  /** Whether there are several servers. The addresses of the loopback interface count as one. */
  isCluster = false

  private readonly servers = new Map<string, Server>()
  private readonly members = new Set<Member>()
  /** Members that were retired in favor of a standby. */
  private readonly leaving = new WeakSet<Member>()
  /** The last measured lag of each standby. */
  private readonly measured = new Map<Server, { readonly lag: number; readonly at: number }>()
  /** Called when a connection that was counted closes. */
  private readonly disconnected = new Map<Member, () => void>()
  /** The highest timeline that was seen of each system. */
  private readonly timelines = new Map<string, number>()
  private readonly probing = new Set<Server>()
  private scheduled: Scheduled | undefined = undefined
  /** Whether a connection was opened since the last check. */
  private isUsed = false
  private activity = 0
  private writerLostAt: number | undefined = undefined

  constructor(private readonly options: Options) {}

  /** All servers, in the order in which they became known. */
  list(): ReadonlyArray<Server> {
    return Array.from(this.servers.values())
  }

  /** The servers of a host, by its addresses. Those of addresses that it no longer has are forgotten. */
  find(host: string, port: number, addresses: ReadonlyArray<string>): ReadonlyArray<Server> {
    const keyOf = (address: string) => JSON.stringify([host, port, address])
    const keys = new Set(addresses.map(keyOf))
    for (const [key, server] of this.servers) {
      if (server.host === host && server.port === port && !keys.has(key)) {
        this.servers.delete(key)
        this.forgetLag(server)
      }
    }
    const found = addresses.map((address) => {
      const known = this.servers.get(keyOf(address))
      if (known !== undefined) {
        return known
      }
      const server: Server = {
        host,
        port,
        address,
        state: "unknown",
        since: this.options.clock.now(),
        answeredAt: -Infinity,
        reason: undefined,
        role: "unknown",
        roleSince: this.options.clock.now(),
        isReadOnly: false,
        systemIdentifier: undefined,
        timeline: undefined,
        lag: undefined
      }
      this.servers.set(keyOf(address), server)
      return server
    })
    this.isCluster = new Set(this.list().map(({ address, port }) => `${port} ${addressKey(address)}`)).size > 1
    return found
  }

  /** To be called with every attempt to connect: servers are checked only while the database is used. */
  used(): void {
    this.isUsed = true
    this.schedule()
  }

  /** Notes that a server has answered. */
  answered(server: Server): void {
    server.answeredAt = this.options.clock.now()
    this.setState(server, "up", undefined)
  }

  /** Notes that a server cannot be used: it refuses connections, or does not answer. */
  failed(server: Server, state: "down" | "silent", reason: string): void {
    if (server.role === "writer") {
      this.writerLost()
    }
    server.role = "unknown"
    server.lag = undefined
    this.setState(server, state, reason)
    this.schedule()
  }

  /** Takes a server for silent that has not answered when others had, and checks it at once in the background. */
  markSilent(server: Server, reason: string): void {
    if (server.state !== "down" && server.state !== "silent") {
      this.failed(server, "silent", reason)
      this.probeServer(server)
    }
  }

  /** Notes the role of a server, which it has reported by itself or in an answer. */
  setRole(server: Server, role: "writer" | "standby", isReadOnly: boolean): void {
    if (server.role === "writer" && role === "standby") {
      this.writerLost()
    }
    if (server.role !== role) {
      server.role = role
      server.roleSince = this.options.clock.now()
    }
    server.isReadOnly = isReadOnly
    if (role === "writer") {
      server.lag = undefined
      this.forgetLag(server)
      if (this.writerLostAt !== undefined) {
        const millis = this.options.clock.now() - this.writerLostAt
        this.writerLostAt = undefined
        this.observer?.failover(millis)
      }
    }
  }

  /**
   * Notes the system and the timeline of a server. Returns whether it may be used: a writer may not if a higher
   * timeline of its system was seen, since what is written to it will be lost. Open connections to such writers are
   * ended.
   */
  setIdentity(server: Server, { systemIdentifier, timeline }: WriterIdentity, role: "writer" | "standby"): boolean {
    server.systemIdentifier = systemIdentifier
    server.timeline = timeline
    const highest = this.timelines.get(systemIdentifier)
    if (highest === undefined || timeline > highest) {
      this.timelines.set(systemIdentifier, timeline)
      for (const member of Array.from(this.members)) {
        const { identity } = member
        if (identity?.systemIdentifier === systemIdentifier && identity.timeline < timeline) {
          member.end(outdatedTimeline(identity.timeline, timeline))
        }
      }
      return true
    }
    return role === "standby" || timeline === highest
  }

  /** The highest timeline that was seen of a system. */
  highestTimeline(systemIdentifier: string): number | undefined {
    return this.timelines.get(systemIdentifier)
  }

  /** Notes that a server has refused to write in a transaction that was not to be read-only. */
  demoted(server: Server): void {
    this.setRole(server, "standby", true)
    for (const member of Array.from(this.members)) {
      if (member.server === server && member.needsWriter) {
        member.retire("the server has become read-only")
      }
    }
  }

  /** Notes that a connection was lost, and checks its server in the background. */
  lost(server: Server): void {
    if (this.isCluster) {
      this.probeServer(server)
    }
  }

  /**
   * Notes that a server does not answer, and checks the others in the background. If one of them was promoted, the
   * connections to the first one are ended.
   */
  checkOthers(server: Server): void {
    if (this.isCluster) {
      for (const other of this.servers.values()) {
        if (other !== server) {
          this.probeServer(other)
        }
      }
    }
  }

  /** Notes how far a standby is behind; undefined if it does not report it, or is no standby. */
  setLag(server: Server, lag: number | undefined): void {
    server.lag = lag
    if (lag !== undefined) {
      this.measured.set(server, { lag, at: this.options.clock.now() })
      this.observer?.lag(server, this.maxLagAt(server))
    }
  }

  /** The database is closed: nothing is measured any more. */
  close(): void {
    Array.from(this.measured.keys()).forEach((server) => this.forgetLag(server))
  }

  join(member: Member): void {
    this.members.add(member)
    if (member.server.role === "standby") {
      this.moveToStandby()
    }
    if (this.isCluster && this.observer !== undefined) {
      this.disconnected.set(member, this.observer.connected(member.server))
    }
  }

  leave(member: Member): void {
    this.members.delete(member)
    this.disconnected.get(member)?.()
    this.disconnected.delete(member)
  }

  /**
   * How far the standbys of a host are behind, in milliseconds. One that does not report its lag is behind by the lag
   * that was measured last and the time since then, at most.
   */
  private maxLagAt({ host, port }: Server): number {
    let maxLag = 0
    for (const [server, { at, lag }] of this.measured) {
      if (server.host === host && server.port === port) {
        maxLag = Math.max(maxLag, server.lag ?? lag + this.options.clock.now() - at)
      }
    }
    return maxLag
  }

  private forgetLag(server: Server): void {
    if (this.measured.delete(server)) {
      this.observer?.lag(server, this.maxLagAt(server))
    }
  }

  /**
   * Retires a connection that prefers a standby and is connected to another server, if a standby is up by now. It
   * retires one at each check, and one more for each connection that a standby accepts: if standbys accept none, few
   * connections are replaced needlessly.
   */
  private moveToStandby(): void {
    for (const member of this.members) {
      const { prefers, server } = member
      if (prefers !== undefined && server.role !== "standby" && !this.leaving.has(member)) {
        const standby = this.list().find((other) => other.state === "up" && other.role === "standby" && prefers(other))
        if (standby !== undefined) {
          this.leaving.add(member)
          return member.retire(`the server is not a standby, but ${standby.host}:${standby.port} is`)
        }
      }
    }
  }

  private writerLost(): void {
    this.writerLostAt ??= this.options.clock.now()
  }

  private setState(server: Server, state: ServerState, reason: string | undefined): void {
    server.reason = reason
    if (server.state !== state) {
      server.state = state
      server.since = this.options.clock.now()
    }
  }

  private probeServer(server: Server): void {
    if (!this.probing.has(server)) {
      this.probing.add(server)
      this.probe(server, () => this.probing.delete(server))
    }
  }

  private schedule(): void {
    if (this.scheduled === undefined && this.isCluster) {
      this.scheduled = this.options.clock.schedule(() => this.check(), this.options.recheck)
    }
  }

  /** Checks the servers that have not answered lately, and schedules the next check while the database is used. */
  private check(): void {
    this.scheduled = undefined
    for (const server of this.measured.keys()) {
      if (server.lag === undefined) {
        this.observer?.lag(server, this.maxLagAt(server))
      }
    }
    this.moveToStandby()
    let activity = 0
    let isUsed = this.isUsed
    for (const member of this.members) {
      activity += member.activity
      isUsed ||= member.isWaiting
    }
    isUsed ||= activity !== this.activity
    this.activity = activity
    this.isUsed = false
    if (isUsed) {
      const before = this.options.clock.now() - this.options.recheck
      for (const server of this.servers.values()) {
        if (server.state !== "up" || server.answeredAt <= before) {
          this.probeServer(server)
        }
      }
    }
    if (isUsed || this.members.size > 0) {
      this.schedule()
    }
  }
}

/** Identifies an address. Those of the loopback interface are the same: a name such as localhost has several. */
const addressKey = (address: string): string => /^(?:127\.|::1$)/.test(address) ? "loopback" : address

/** Why a writer is not used. */
export const outdatedTimeline = (timeline: number, highest: number): string =>
  `the server is on timeline ${timeline}, but timeline ${highest} of its system was seen: it was replaced by a ` +
  "promoted server, and what is written to it is lost"
