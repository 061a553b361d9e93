/**
 * The open sessions of a database, and counters of what its statements and sessions did. Updated as things happen and held
 * in bounded memory, so that a snapshot costs little.
 */
import * as Duration from "effect/Duration"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Activity, OpenSession } from "../../Telemetry.js"
import { keepHiddenClass } from "../hiddenClass.js"
import { QuerySummaries } from "./querySummaries.js"
import type { QuerySummary } from "./querySummary.js"
import { RecentErrors } from "./recentErrors.js"
import type { OperationRecorder } from "./recorders.js"
import { RepeatedLogs } from "./repeatedLogs.js"
import { StatementStatistics } from "./statementStatistics.js"
import { truncateText } from "./truncateText.js"

/** How an open session is identified. */
interface Identity {
  readonly id: string
  /** The connection that it holds. */
  readonly connection?: { readonly id: number; readonly server?: object | undefined } | undefined
}

/** An open session, until it has returned its connection. */
export class SessionActivity {
  readonly startedAt = performance.now()
  /** Set once, when the session is made. */
  identity: Identity | undefined = undefined
  /** Whether its first statement waits for a connection. */
  isWaiting = false
  /** Its index among the open sessions, or -1. */
  index = -1
  /** Whether it commits. Otherwise it rolls back when it ends. */
  isCommitting = false
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

  get connection(): Identity["connection"] {
    return this.identity?.connection
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
      connectionId: this.connection?.id,
      statement: this.state === "statement" ? truncateText(this.lastStatement!) : undefined
    }
  }
}

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

/** Tracks the activity of one database, and passes what the metrics need on to their recorder. */
export class ActivityTracker implements OperationRecorder {
  /** In no order, with constant-time removal. An array, because a Set keeps deleted items reachable until it is rehashed. */
  private readonly sessions: Array<SessionActivity> = []
  private readonly statements = new StatementStatistics()
  private readonly recentErrors = new RecentErrors()
  private readonly errors = new CounterMap()
  private readonly rollbackReasons = new CounterMap()
  private readonly retries = new CounterMap()
  private commits = 0
  /** The summaries of the statements. */
  readonly queries = new QuerySummaries()
  /** Limits the log lines that repeat. */
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

  operation(seconds: number, query: QuerySummary, error?: string, code?: string): void {
    this.metrics.operation(seconds, query, error, code)
    // A statement that was interrupted has no code, and does not count as failed.
    if (error !== undefined && code !== undefined) {
      this.errors.add(error)
    }
  }

  /** Must be called by the fiber that has run the statement. `session` is undefined outside of one. */
  statement(text: string, seconds: number, session: SessionActivity | undefined): void {
    this.statements.add(text, seconds, session?.name)
  }

  /** A statement has failed, or the session itself. */
  failed(error: DatabaseError, session: SessionActivity | undefined, statement: string | undefined): void {
    this.recentErrors.add(error, { session, statement })
  }

  /** The ids of the open sessions that commit. */
  committing(): ReadonlySet<string> {
    return new Set(this.sessions.flatMap(({ id, isCommitting }) => isCommitting && id !== undefined ? [id] : []))
  }

  /** Whether an open session runs a statement, commits or rolls back. */
  hasBusySessions(): boolean {
    return this.sessions.some(({ state }) => state === "statement" || state === "ending")
  }

  /** The open sessions whose connection leads to a server, by the id of the connection. */
  sessionsOn(server: object | undefined): ReadonlyMap<number, SessionActivity> {
    return new Map(
      this.sessions.flatMap((session) =>
        session.connection === undefined || session.connection.server !== server
          ? []
          : [[session.connection.id, session] as const]
      )
    )
  }

  committed(seconds: number): void {
    this.metrics.committed(seconds)
    this.commits++
  }

  rolledBack(seconds: number, reason: string): void {
    this.metrics.rolledBack(seconds, reason)
    this.rollbackReasons.add(reason)
  }

  readInterrupted(seconds: number): void {
    this.metrics.readInterrupted(seconds)
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
      ...this.statements.snapshot(),
      recentErrors: this.recentErrors.snapshot(),
      errors: this.errors.snapshot(),
      committed: this.commits,
      rolledBack: this.rollbackReasons.snapshot(),
      retried: this.retries.snapshot()
    }
  }
}

keepHiddenClass(new SessionActivity(""))
