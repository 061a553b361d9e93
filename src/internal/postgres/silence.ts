/**
 * Notices a server that has fallen silent: one that says nothing while an answer is awaited, and does not answer on a
 * connection of its own either. Without this, a statement would wait until the kernel gives up the connection, which
 * takes a quarter of an hour or never happens.
 */

/** An established connection that may be waiting for its server. */
export interface Watched {
  /** The server's address. Connections to the same one are checked together. */
  readonly address: string
  /** Whether an answer is awaited. */
  readonly isWaiting: boolean
  /** Changes with everything that the server sends, and when the connection begins to wait for an answer. */
  readonly activity: number
  /**
   * Finds out on a new connection, within a limited time, whether the server is alive. A busy event loop makes that
   * time longer, never shorter.
   */
  readonly probe: (onAnswer: (isAlive: boolean) => void) => void
  /** Ends the connection, and fails its exchanges. The server has said nothing for this many milliseconds. */
  readonly onSilence: (millis: number) => void
}

/**
 * How often a connection is checked within `silence`. Checks are counted instead of time: one that is late because the
 * event loop was busy counts once.
 */
const checks = 10

interface Entry {
  activity: number
  /** When the activity was last seen to change, or nothing was awaited. */
  since: number
  /** The number of checks since then. */
  silentChecks: number
}

export class SilenceMonitor {
  private readonly entries = new Map<Watched, Entry>()
  /** The addresses whose servers are being probed. */
  private readonly probing = new Set<string>()
  private timer: NodeJS.Timeout | undefined = undefined

  /** `silence`: how long a server may say nothing before it is asked, in milliseconds. */
  constructor(private readonly silence: number) {}

  /** Watches a connection until `unwatch`. */
  watch(connection: Watched): void {
    this.entries.set(connection, { activity: connection.activity, since: performance.now(), silentChecks: 0 })
    this.schedule()
  }

  unwatch(connection: Watched): void {
    this.entries.delete(connection)
    if (this.entries.size === 0) {
      clearTimeout(this.timer)
      this.timer = undefined
    }
  }

  private schedule(): void {
    if (this.timer === undefined && this.entries.size > 0) {
      this.timer = setTimeout(() => this.check(), this.silence / checks)
      // The socket of a connection that waits keeps the process alive.
      this.timer.unref()
    }
  }

  private check(): void {
    this.timer = undefined
    const silent = new Map<string, Array<Watched>>()
    for (const [connection, entry] of this.entries) {
      if (!connection.isWaiting || connection.activity !== entry.activity) {
        entry.activity = connection.activity
        entry.since = performance.now()
        entry.silentChecks = 0
      } else if (++entry.silentChecks >= checks) {
        const others = silent.get(connection.address)
        if (others === undefined) {
          silent.set(connection.address, [connection])
        } else {
          others.push(connection)
        }
      }
    }
    for (const [address, connections] of silent) {
      if (!this.probing.has(address)) {
        this.probe(address, connections)
      }
    }
    this.schedule()
  }

  /** Probes a server once, however many connections wait for it. */
  private probe(address: string, connections: ReadonlyArray<Watched>): void {
    const activities = connections.map(({ activity }) => activity)
    this.probing.add(address)
    connections[0].probe((isAlive) => {
      this.probing.delete(address)
      connections.forEach((connection, i) => {
        const entry = this.entries.get(connection)
        if (entry === undefined || !connection.isWaiting || connection.activity !== activities[i]) {
          return
        }
        if (isAlive) {
          entry.silentChecks = 0
        } else {
          connection.onSilence(performance.now() - entry.since)
        }
      })
    })
  }
}
