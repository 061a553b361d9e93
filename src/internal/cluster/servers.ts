/**
 * What is known of the servers of one database. Its pools, its health check and its listening connection share it, so that
 * what one of them has learnt costs the others nothing.
 *
 * Everything here is synchronous. Its timer is not the application's Clock, since it is about servers outside of the
 * program, and it keeps no process alive.
 */
import type { PoolClock, Scheduled } from "../pool/clock.js"

/**
 * The state of a server:
 * - `unknown`: nothing was heard of it yet
 * - `up`: it answered when it was last asked, be it with an error
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
  /** When it was last heard of. */
  answeredAt: number
  /** Why it is down or silent. */
  reason: string | undefined
  role: ServerRole
  /** When its role was last reported to have changed. */
  roleSince: number
  /** Whether its transactions are read-only unless they ask for something else, although it may be the primary. */
  isReadOnly: boolean
  systemIdentifier: string | undefined
  timeline: number | undefined
  /** How far a standby is behind its primary, in milliseconds. */
  lag: number | undefined
}

/** Which history of which system a server writes. A promotion begins a new timeline. */
export interface WriterIdentity {
  readonly systemIdentifier: string
  readonly timeline: number
}

/** An open connection. */
export interface Member {
  readonly server: Server
  /** What the server was when the connection was opened; undefined if it was a standby, or was not asked. */
  readonly identity: WriterIdentity | undefined
  /** Whether a server that only reads is of no use to it. */
  readonly needsWriter: boolean
  /**
   * Whether it was to lead to this server, if that is a standby. Undefined unless standbys are preferred, and none could be
   * connected to.
   */
  readonly prefers?: ((server: Server) => boolean) | undefined
  /** Changes with everything that the server sends. */
  readonly activity: number
  /** Whether the server is to answer something. */
  readonly isWaiting: boolean
  /** Takes the connection out of use: an idle one at once, one in use when it is returned. */
  readonly retire: (reason: string) => void
  /** Ends the connection, with everything that waits for it. */
  readonly end: (reason: string) => void
}

/** Records what happens to the servers. */
export interface Observer {
  /** A writer was found, this many milliseconds after the last one was lost. */
  readonly failover: (millis: number) => void
  /** How far a standby is behind: as it was measured, or at most, while it does not say. 0 once it is none. */
  readonly lag: (server: Server, millis: number) => void
  /** A connection to one of several servers was opened. Gives what is called when it has closed. */
  readonly connected: (server: Server) => () => void
}

export interface Options {
  readonly clock: PoolClock
  /** How often a server that is down, or was not heard of, is looked at, in milliseconds. */
  readonly recheck: number
}

export class Servers {
  /** Connects to a server, and reports what it was like. Calls `onEnd` in any case. */
  look: (server: Server, onEnd: () => void) => void = (_server, onEnd) => onEnd()
  /** Is told what changes, for the metrics. */
  observer: Observer | undefined = undefined

  /** Whether there are several servers. The addresses of the loopback interface are one. */
  isCluster = false

  private readonly servers = new Map<string, Server>()
  private readonly members = new Set<Member>()
  /** Those that were taken out of use in favor of a standby. */
  private readonly leaving = new WeakSet<Member>()
  /** How far each standby was behind when that was measured last. */
  private readonly measured = new Map<Server, { readonly lag: number; readonly at: number }>()
  /** Called when a connection that was counted closes. */
  private readonly disconnected = new Map<Member, () => void>()
  /** The highest timeline that was seen of each system. */
  private readonly timelines = new Map<string, number>()
  private readonly looking = new Set<Server>()
  private scheduled: Scheduled | undefined = undefined
  /** Whether something was connected since the last check. */
  private isUsed = false
  private activity = 0
  private writerLostAt: number | undefined = undefined

  constructor(private readonly options: Options) {}

  /** All servers, in the order in which they became known. */
  list(): ReadonlyArray<Server> {
    return Array.from(this.servers.values())
  }

  /** The servers of a host. Addresses that it does not have any more are forgotten. */
  find(host: string, port: number, addresses: ReadonlyArray<string>): ReadonlyArray<Server> {
    const keyOf = (address: string) => JSON.stringify([host, port, address])
    const keys = new Set(addresses.map(keyOf))
    for (const [key, server] of this.servers) {
      if (server.host === host && server.port === port && !keys.has(key)) {
        this.servers.delete(key)
        this.notBehind(server)
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
    this.isCluster = new Set(this.list().map(({ address, port }) => `${port} ${placeOf(address)}`)).size > 1
    return found
  }

  /** To be called with every connection that is opened: servers are looked at only while the database is used. */
  used(): void {
    this.isUsed = true
    this.schedule()
  }

  /** The server has answered. */
  answered(server: Server): void {
    server.answeredAt = this.options.clock.now()
    this.setState(server, "up", undefined)
  }

  /** The server is not to be used: it refuses connections, or does not answer. */
  failed(server: Server, state: "down" | "silent", reason: string): void {
    if (server.role === "writer") {
      this.writerLost()
    }
    server.role = "unknown"
    server.lag = undefined
    this.setState(server, state, reason)
    this.schedule()
  }

  /** The server has not answered when another one had. Finds out at once, in the background, whether it is silent. */
  suspect(server: Server, reason: string): void {
    if (server.state !== "down" && server.state !== "silent") {
      this.failed(server, "silent", reason)
      this.lookAt(server)
    }
  }

  /** The server's role was reported, by itself or in an answer. */
  learnt(server: Server, role: "writer" | "standby", isReadOnly: boolean): void {
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
      this.notBehind(server)
      if (this.writerLostAt !== undefined) {
        const millis = this.options.clock.now() - this.writerLostAt
        this.writerLostAt = undefined
        this.observer?.failover(millis)
      }
    }
  }

  /**
   * The server has said which history it has. Returns whether a writer may be used: not if a higher timeline of its system
   * was seen, since what is written to it will be lost. Connections to such a writer are ended.
   */
  identified(server: Server, { systemIdentifier, timeline }: WriterIdentity, role: "writer" | "standby"): boolean {
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

  /** The server has refused to write, although nobody has asked it for that. */
  demoted(server: Server): void {
    this.learnt(server, "standby", true)
    for (const member of Array.from(this.members)) {
      if (member.server === server && member.needsWriter) {
        member.retire("the server has become read-only")
      }
    }
  }

  /** A connection has broken. Finds out in the background whether the server has. */
  lost(server: Server): void {
    if (this.isCluster) {
      this.lookAt(server)
    }
  }

  /** A server does not answer. Finds out in the background whether another one was promoted, which ends the wait for it. */
  doubted(server: Server): void {
    if (this.isCluster) {
      for (const other of this.servers.values()) {
        if (other !== server) {
          this.lookAt(other)
        }
      }
    }
  }

  /** How far a standby is behind; undefined if it does not say, or is none. */
  lags(server: Server, lag: number | undefined): void {
    server.lag = lag
    if (lag !== undefined) {
      this.measured.set(server, { lag, at: this.options.clock.now() })
      this.observer?.lag(server, this.maxLagAt(server))
    }
  }

  /** The database is closed: nothing is measured any more. */
  close(): void {
    Array.from(this.measured.keys()).forEach((server) => this.notBehind(server))
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
   * How far the standbys of a host are behind. One that does not say is behind by what was measured last and the time since
   * then, at most.
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

  private notBehind(server: Server): void {
    if (this.measured.delete(server)) {
      this.observer?.lag(server, this.maxLagAt(server))
    }
  }

  /**
   * Takes a connection out of use that was to lead to a standby and does not, if one can be connected to by now. One at each
   * check, and one more for each connection that a standby accepts: if it accepts none, few are opened for nothing.
   */
  private moveToStandby(): void {
    for (const member of this.members) {
      const { prefers, server } = member
      if (prefers !== undefined && server.role !== "standby" && !this.leaving.has(member)) {
        const standby = this.list().find((other) => other.state === "up" && other.role === "standby" && prefers(other))
        if (standby !== undefined) {
          this.leaving.add(member)
          return member.retire(`the server is no standby, and ${standby.host}:${standby.port} is one`)
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

  private lookAt(server: Server): void {
    if (!this.looking.has(server)) {
      this.looking.add(server)
      this.look(server, () => this.looking.delete(server))
    }
  }

  private schedule(): void {
    if (this.scheduled === undefined && this.isCluster) {
      this.scheduled = this.options.clock.schedule(() => this.check(), this.options.recheck)
    }
  }

  /** Looks at the servers that were not heard of lately. Goes on while there are connections, or some were opened. */
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
          this.lookAt(server)
        }
      }
    }
    if (isUsed || this.members.size > 0) {
      this.schedule()
    }
  }
}

/** The same for all addresses of the loopback interface, which a name such as localhost has. */
const placeOf = (address: string): string => /^(?:127\.|::1$)/.test(address) ? "loopback" : address

/** Why a writer is not used. */
export const outdatedTimeline = (timeline: number, highest: number): string =>
  `the server writes timeline ${timeline} of its system, of which timeline ${highest} was seen: it was replaced by a ` +
  "promoted one, and what is written to it is lost"
