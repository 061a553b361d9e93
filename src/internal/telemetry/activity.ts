/**
 * The open sessions of a database, and counters of what its statements and sessions did. Updated as things happen and held
 * in bounded memory, so that a snapshot costs little.
 */
import * as Duration from "effect/Duration"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Activity, OpenSession, StatementFigures } from "../../Telemetry.js"
import { keepHiddenClass } from "../hiddenClass.js"
import type { OperationRecorder } from "./recorders.js"
import { RepeatedLogs } from "./repeatedLogs.js"

/** How many distinct statements are kept, and how many of them a snapshot holds. */
const maxStatements = 100
const maxShownStatements = 20

/** The number of characters of a statement's text that is kept. */
const maxTextLength = 2_000

/** An open session, until it has returned its connection. */
export class SessionActivity {
  readonly startedAt = performance.now()
  /** Set once, when the session is made. */
  identity: { readonly id: string } | undefined = undefined
  /** Whether its first statement waits for a connection. */
  isWaiting = false
  /** Its index among the open sessions, or -1. */
  index = -1
  private isEnding = false
  private runningStatements = 0
  private lastStatement: string | undefined = undefined

  constructor(readonly name: string) {}

  /** Statements of one session may run concurrently. */
  statementStarted(statement: string): void {
    this.runningStatements++
    this.lastStatement = statement
  }

  statementEnded(): void {
    this.runningStatements--
  }

  /** COMMIT or ROLLBACK starts. */
  endStarted(): void {
    this.isEnding = true
  }

  /** The time since it began, in seconds. */
  get age(): number {
    return (performance.now() - this.startedAt) / 1_000
  }

  get id(): string | undefined {
    return this.identity?.id
  }

  get state(): OpenSession["state"] {
    if (this.isWaiting) {
      return "waiting"
    }
    return this.isEnding ? "ending" : this.runningStatements > 0 ? "statement" : "idle"
  }

  snapshot(): OpenSession {
    return {
      id: this.id,
      name: this.name,
      age: Duration.millis(this.age * 1_000),
      state: this.state,
      statement: this.state === "statement" ? truncateText(this.lastStatement!) : undefined
    }
  }
}

/** Limits a text to `maxTextLength`. The result is a copy, because a slice would keep the whole text in memory. */
export const truncateText = (text: string): string =>
  text.length <= maxTextLength ? text : Buffer.from(`${text.slice(0, maxTextLength)}…`).toString()

/** Counters by name. */
class CounterMap {
  private readonly counts = new Map<string, number>()

  add(name: string): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
  }

  snapshot(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.counts)
  }
}

/** The statements with the longest single run. Once `maxStatements` are kept, a slower one replaces the fastest. */
class SlowestStatements {
  private readonly statements = new Map<string, { count: number; longest: number; total: number }>()
  /** A lower bound of the fastest kept statement, below which a new statement is not compared with them. */
  private floor = 0

  add(statement: string, seconds: number): void {
    const text = truncateText(statement)
    const stats = this.statements.get(text)
    if (stats !== undefined) {
      stats.count++
      stats.total += seconds
      stats.longest = Math.max(stats.longest, seconds)
    } else if (this.statements.size < maxStatements) {
      this.statements.set(text, { count: 1, longest: seconds, total: seconds })
    } else if (seconds > this.floor) {
      this.replaceFastest(text, seconds)
    }
  }

  snapshot(): ReadonlyArray<StatementFigures> {
    return Array.from(this.statements, ([text, stats]) => ({ text, ...stats }))
      .sort((one, other) => other.longest - one.longest)
      .slice(0, maxShownStatements)
  }

  private replaceFastest(text: string, seconds: number): void {
    const [[fastest, { longest }], [, secondFastest]] = Array.from(this.statements).sort(([, one], [, other]) =>
      one.longest - other.longest
    )
    this.floor = longest
    if (seconds > longest) {
      this.statements.delete(fastest)
      this.statements.set(text, { count: 1, longest: seconds, total: seconds })
      this.floor = Math.min(secondFastest.longest, seconds)
    }
  }
}

/** Tracks the activity of one database, and passes what the metrics need on to their recorder. */
export class ActivityTracker implements OperationRecorder {
  /** In no order, with constant-time removal. An array, because a Set keeps deleted items reachable until it is rehashed. */
  private readonly sessions: Array<SessionActivity> = []
  private readonly slowest = new SlowestStatements()
  private readonly errors = new CounterMap()
  private readonly rollbackReasons = new CounterMap()
  private readonly retries = new CounterMap()
  private commits = 0
  /** The lines of the log that may be many and equal. */
  readonly repeatedLogs = new RepeatedLogs()

  constructor(private readonly metrics: OperationRecorder) {}

  sessionOpened(name: string): SessionActivity {
    const session = new SessionActivity(name)
    session.index = this.sessions.push(session) - 1
    return session
  }

  /** Does nothing if the session is closed already. */
  sessionClosed(session: SessionActivity): void {
    const { index } = session
    if (index >= 0) {
      const last = this.sessions.pop()!
      if (last !== session) {
        this.sessions[index] = last
        last.index = index
      }
      session.index = -1
    }
  }

  operation(seconds: number, error?: string, code?: string): void {
    this.metrics.operation(seconds, error, code)
    // A statement that was interrupted has no code, and does not count as failed.
    if (error !== undefined && code !== undefined) {
      this.errors.add(error)
    }
  }

  statement(text: string, seconds: number): void {
    this.slowest.add(text, seconds)
  }

  committed(seconds: number): void {
    this.metrics.committed(seconds)
    this.commits++
  }

  rolledBack(seconds: number, reason: string): void {
    this.metrics.rolledBack(seconds, reason)
    this.rollbackReasons.add(reason)
  }

  retried(error: DatabaseError["_tag"]): void {
    this.metrics.retried(error)
    this.retries.add(error)
  }

  snapshot(): Activity {
    return {
      sessions: [...this.sessions].sort((one, other) => one.startedAt - other.startedAt).map((session) =>
        session.snapshot()
      ),
      statements: this.slowest.snapshot(),
      errors: this.errors.snapshot(),
      committed: this.commits,
      rolledBack: this.rollbackReasons.snapshot(),
      retried: this.retries.snapshot()
    }
  }
}

keepHiddenClass(new SessionActivity(""))
