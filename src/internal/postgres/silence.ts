/**
 * Notices a server that has fallen silent: one that says nothing while an answer is awaited, and does not answer on a
 * connection of its own either. Without this, whatever waits for it would wait until the kernel gives up, which takes a
 * quarter of an hour, or for ever.
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
   * Asks the server on a connection of its own. Answers within a limited time whether it lives. A busy event loop makes
   * that time longer, never shorter.
   */
  readonly probe: (onAnswer: (isAlive: boolean) => void) => void
  /** Ends the connection and everything that waits for it. The server has said nothing for this many milliseconds. */
  readonly onSilence: (millis: number) => void
}

/**
 * How often a connection is looked at within the silence. Looks are counted and not time: one that comes late, because the
 * event loop was busy, counts once.
 */
const looks = 10

interface Entry {
  activity: number
  /** When the activity was last seen to change, or nothing was awaited. */
  since: number
  /** The number of looks since then. */
  silentLooks: number
}

export class SilenceMonitor {
  private readonly entries = new Map<Watched, Entry>()
  /** The addresses whose servers are being asked. */
  private readonly probing = new Set<string>()
  private timer: NodeJS.Timeout | undefined = undefined

  /** `silence`: how long a server may say nothing before it is asked, in milliseconds. */
  constructor(private readonly silence: number) {}

  /** Watches a connection until `unwatch`. */
  watch(connection: Watched): void {
    this.entries.set(connection, { activity: connection.activity, since: performance.now(), silentLooks: 0 })
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
      this.timer = setTimeout(() => this.look(), this.silence / looks)
      // The socket of a connection that waits keeps the process alive.
      this.timer.unref()
    }
  }

  private look(): void {
    this.timer = undefined
    const silent = new Map<string, Array<Watched>>()
    for (const [connection, entry] of this.entries) {
      if (!connection.isWaiting || connection.activity !== entry.activity) {
        entry.activity = connection.activity
        entry.since = performance.now()
        entry.silentLooks = 0
      } else if (++entry.silentLooks >= looks) {
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

  /** Asks a server once, whatever the number of connections that wait for it. */
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
          entry.silentLooks = 0
        } else {
          connection.onSilence(performance.now() - entry.since)
        }
      })
    })
  }
}
