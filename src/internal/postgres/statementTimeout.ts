/**
 * The statement timeout on this side of the connection: ends a statement that the server should have ended at its
 * `statement_timeout`, and did not.
 */
import type { Exchange } from "./exchange.js"

/** How much longer than its timeout a statement may run, in milliseconds, so that the server is the first to end it. */
const tolerance = 2_000

/** The interval of the checks, in milliseconds. */
const interval = 100

const settingName = /statement_timeout/i
const localSetting = /\bset\s+local\b/i
const setCommand = /^\s*set\b/i

/** What is known of the server's `statement_timeout` for one connection. */
export class StatementTimeout {
  /** The timeout of the transaction's options, if it has one. */
  private transactionTimeout: number | undefined = undefined
  /** Whether a statement of a user has set another timeout, and for how long. */
  private override: "none" | "transaction" | "session" = "none"

  /** `sessionTimeout`: what was sent at start-up, in milliseconds. Zero is no limit; undefined is the server's setting. */
  constructor(private readonly sessionTimeout: number | undefined) {}

  /** The timeout of the next statement in milliseconds, or undefined if there is none or it is not known. */
  get current(): number | undefined {
    const timeout = this.transactionTimeout ?? this.sessionTimeout
    return this.override !== "none" || timeout === 0 ? undefined : timeout
  }

  /** Sets the timeout of a transaction, or of a nested level of it. Undefined stands for that of the session. */
  set(timeout: number | undefined): void {
    this.transactionTimeout = timeout
  }

  transactionEnded(): void {
    this.transactionTimeout = undefined
    if (this.override === "transaction") {
      this.override = "none"
    }
  }

  /** Notes that the settings of the session were reset to those of the start-up. */
  reset(): void {
    this.transactionTimeout = undefined
    this.override = "none"
  }

  /**
   * Notes that a statement of a user has completed, which may have changed the timeout to an unknown value.
   * `leavesState`: whether it may have left something on the connection.
   */
  statementCompleted({ options, text }: Exchange, leavesState: boolean): void {
    const maySet = leavesState || text.includes("set_config") || text.includes(";") || setCommand.test(text)
    if (maySet && mentionsSetting(text, options.params ?? [])) {
      this.override = localSetting.test(text) ? "transaction" : "session"
    }
  }
}

const mentionsSetting = (text: string, params: ReadonlyArray<unknown>): boolean =>
  settingName.test(text) || params.some((param) => typeof param === "string" && settingName.test(param))

/** A connection whose statements are timed. */
export interface Timed {
  /** The exchange that the server is executing. */
  readonly current: Exchange | undefined
  readonly statementTimeout: StatementTimeout
  /** Cancels an exchange that has run for too long: for this many milliseconds. */
  readonly timeOut: (exchange: Exchange, millis: number) => void
}

interface Entry {
  exchange: Exchange | undefined
  /** How long it has been seen to run, in milliseconds. */
  elapsed: number
}

/**
 * The maximum number of statements in a text. Each has the whole timeout, and the server answers them all at the end.
 */
const statementCount = (text: string): number => text.split(";").length

/** Checks with one timer what all connections execute, so that a statement needs no timer of its own. */
export class StatementTimeoutMonitor {
  private readonly entries = new Map<Timed, Entry>()
  private timer: NodeJS.Timeout | undefined = undefined
  private lastCheck = 0

  watch(connection: Timed): void {
    this.entries.set(connection, { exchange: undefined, elapsed: 0 })
  }

  unwatch(connection: Timed): void {
    this.entries.delete(connection)
  }

  /** To be called when a connection begins to execute something. */
  start(): void {
    if (this.timer === undefined) {
      this.lastCheck = performance.now()
      this.schedule()
    }
  }

  private schedule(): void {
    this.timer = setTimeout(() => this.check(), interval)
    // The socket of a connection that executes something keeps the process alive.
    this.timer.unref()
  }

  private check(): void {
    const now = performance.now()
    // While the event loop was blocked, answers may have arrived that are not read yet. So two intervals count at most.
    const passed = Math.min(now - this.lastCheck, 2 * interval)
    this.lastCheck = now
    let isExecuting = false
    for (const [connection, entry] of this.entries) {
      const exchange = connection.current
      isExecuting ||= exchange !== undefined
      if (exchange === undefined) {
        entry.exchange = undefined
      } else if (exchange !== entry.exchange) {
        entry.exchange = exchange
        entry.elapsed = 0
      } else {
        this.advance(connection, entry, exchange, passed)
      }
    }
    this.timer = undefined
    if (isExecuting) {
      this.schedule()
    }
  }

  private advance(connection: Timed, entry: Entry, exchange: Exchange, passed: number): void {
    const timeout = connection.statementTimeout.current
    entry.elapsed += passed
    if (
      timeout !== undefined && entry.elapsed >= timeout + tolerance &&
      entry.elapsed >= timeout * statementCount(exchange.text) + tolerance
    ) {
      connection.timeOut(exchange, entry.elapsed)
      // It is not canceled again before the same time has passed once more.
      entry.elapsed = 0
    }
  }
}
