/**
 * What a database is doing now, and what it has done: kept as it happens, in a bounded space, for whoever asks.
 */
import * as Duration from "effect/Duration"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Activity, OpenSession, StatementFigures } from "../../Telemetry.js"
import { keep } from "../hiddenClass.js"
import type { OperationRecorder } from "./recorders.js"

/** How many statements are remembered, and how many of them are shown. */
const remembered = 100
const shown = 20

/** What is kept of a statement's text. */
const longestText = 2_000

/** A session that is open: from asking for a connection to giving it back. */
export class Watched {
  readonly since = performance.now()
  /** From when on it has its connection. */
  begun: { readonly id: string } | undefined = undefined
  /** Where it stands among those that are open. */
  place = -1
  private isEnding = false
  private running = 0
  private statement: string | undefined = undefined

  constructor(readonly name: string) {}

  /** A statement of it begins, perhaps beside another. */
  runs(statement: string): void {
    this.running++
    this.statement = statement
  }

  ran(): void {
    this.running--
  }

  ends(): void {
    this.isEnding = true
  }

  /** Since it asked for a connection, in seconds. */
  get age(): number {
    return (performance.now() - this.since) / 1_000
  }

  get id(): string | undefined {
    return this.begun?.id
  }

  get state(): OpenSession["state"] {
    return this.begun === undefined ? "waiting" : this.isEnding ? "ending" : this.running > 0 ? "statement" : "idle"
  }

  now(): OpenSession {
    return {
      id: this.id,
      name: this.name,
      age: Duration.millis(this.age * 1_000),
      state: this.state,
      statement: this.state === "statement" ? abridged(this.statement!) : undefined
    }
  }
}

/** A copy, since a part of a text keeps the whole of it in memory. */
export const abridged = (text: string): string =>
  text.length <= longestText ? text : Buffer.from(`${text.slice(0, longestText)}…`).toString()

/** Counts by name. */
class Tally {
  private readonly counts = new Map<string, number>()

  add(name: string): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
  }

  now(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.counts)
  }
}

/** The statements that took longest. */
class Slowest {
  private readonly figures = new Map<string, { count: number; longest: number; total: number }>()
  /** What a statement that is new must exceed once there is no place left. */
  private floor = 0

  add(statement: string, seconds: number): void {
    const text = abridged(statement)
    const known = this.figures.get(text)
    if (known !== undefined) {
      known.count++
      known.total += seconds
      known.longest = Math.max(known.longest, seconds)
    } else if (this.figures.size < remembered) {
      this.figures.set(text, { count: 1, longest: seconds, total: seconds })
    } else if (seconds > this.floor) {
      this.replaceQuickest(text, seconds)
    }
  }

  now(): ReadonlyArray<StatementFigures> {
    return Array.from(this.figures, ([text, figures]) => ({ text, ...figures }))
      .sort((one, other) => other.longest - one.longest)
      .slice(0, shown)
  }

  private replaceQuickest(text: string, seconds: number): void {
    const [[quickest, { longest }], [, next]] = Array.from(this.figures).sort(([, one], [, other]) =>
      one.longest - other.longest
    )
    this.floor = longest
    if (seconds > longest) {
      this.figures.delete(quickest)
      this.figures.set(text, { count: 1, longest: seconds, total: seconds })
      this.floor = Math.min(next.longest, seconds)
    }
  }
}

/** Passes on to the metrics what it is told, and remembers it. */
export class Tracker implements OperationRecorder {
  /** In no order. A Set's tables, thrown away one after the other, would keep what was in them for long. */
  private readonly sessions: Array<Watched> = []
  private readonly slowest = new Slowest()
  private readonly errors = new Tally()
  private readonly reasons = new Tally()
  private readonly retries = new Tally()
  private commits = 0

  constructor(private readonly metrics: OperationRecorder) {}

  opened(name: string): Watched {
    const session = new Watched(name)
    session.place = this.sessions.push(session) - 1
    return session
  }

  /** May be told twice. */
  closed(session: Watched): void {
    const { place } = session
    if (place >= 0) {
      const last = this.sessions.pop()!
      if (last !== session) {
        this.sessions[place] = last
        last.place = place
      }
      session.place = -1
    }
  }

  operation(seconds: number, error?: string, code?: string): void {
    this.metrics.operation(seconds, error, code)
    // One that was interrupted has not failed.
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
    this.reasons.add(reason)
  }

  retried(error: DatabaseError["_tag"]): void {
    this.metrics.retried(error)
    this.retries.add(error)
  }

  now(): Activity {
    return {
      sessions: [...this.sessions].sort((one, other) => one.since - other.since).map((session) => session.now()),
      statements: this.slowest.now(),
      errors: this.errors.now(),
      committed: this.commits,
      rolledBack: this.reasons.now(),
      retried: this.retries.now()
    }
  }
}

keep(new Watched(""))
