/**
 * The durations of the slowest statements, and the sessions that run them, in bounded memory.
 */
import type { Activity, StatementFigures } from "../../Telemetry.js"
import { bucketCount, bucketOf, quantileOf } from "./durationBuckets.js"
import { foldLists } from "./foldLists.js"
import { isOwn } from "./ownStatements.js"
import { truncateText } from "./truncateText.js"

/** How many distinct statements are kept, and how many of them a snapshot holds. */
const maxStatements = 100
const maxShownStatements = 20

/** For how many texts the statement that they belong to is remembered. */
const maxTexts = 500

/** Longer texts are not folded, which would take long: those with the same beginning count as one statement. */
const maxFoldedLength = 200_000

/** How many names of sessions are kept for each statement. */
const maxSessions = 5

/** The name under which further sessions of a statement are counted. */
const otherSessions = "others"

class Entry {
  count = 0
  longest = 0
  total = 0
  isKept = true
  private readonly buckets = new Uint32Array(bucketCount)
  private readonly sessions = new Map<string, number>()
  private outside = 0

  constructor(readonly text: string) {}

  add(seconds: number, session: string | undefined): void {
    this.count++
    this.total += seconds
    if (seconds > this.longest) {
      this.longest = seconds
    }
    this.buckets[bucketOf(seconds)]++
    if (session === undefined) {
      this.outside++
      return
    }
    const runs = this.sessions.get(session)
    if (runs !== undefined) {
      this.sessions.set(session, runs + 1)
    } else if (this.sessions.size < maxSessions) {
      this.sessions.set(session, 1)
    } else {
      this.sessions.set(otherSessions, (this.sessions.get(otherSessions) ?? 0) + 1)
    }
  }

  snapshot(): StatementFigures {
    const { count, longest, outside, text, total } = this
    const sessions = Array.from(
      this.sessions,
      ([name, count]): StatementFigures["sessions"][number] => ({ name, count })
    )
    return {
      text,
      count,
      longest,
      // The middle of a bucket may be above all durations in it.
      p95: Math.min(longest, quantileOf(this.buckets, count, 0.95)),
      total,
      sessions: (outside === 0 ? sessions : [...sessions, { name: undefined, count: outside }])
        .sort((one, other) => other.count - one.count)
    }
  }
}

/** The statements with the longest single run. Once `maxStatements` are kept, a slower one replaces the fastest. */
class SlowestStatements {
  private readonly entries = new Map<string, Entry>()
  /** A lower bound of the fastest kept statement, below which a new statement is not compared with them. */
  private floor = 0

  /**
   * The entry of a text. If there is no free place, it replaces the fastest statement; undefined if that one is slower.
   */
  entryOf(text: string, seconds: number): Entry | undefined {
    const entry = this.entries.get(text)
    return entry ??
      (this.entries.size < maxStatements || this.removeFasterThan(seconds) ? this.makeEntry(text) : undefined)
  }

  snapshot(): ReadonlyArray<StatementFigures> {
    return Array.from(this.entries.values())
      .sort((one, other) => other.longest - one.longest)
      .slice(0, maxShownStatements)
      .map((entry) => entry.snapshot())
  }

  private makeEntry(text: string): Entry {
    const entry = new Entry(text)
    this.entries.set(text, entry)
    return entry
  }

  private removeFasterThan(seconds: number): boolean {
    if (seconds <= this.floor) {
      return false
    }
    const [fastest, secondFastest] = Array.from(this.entries.values()).sort((one, other) => one.longest - other.longest)
    this.floor = fastest.longest
    if (seconds <= fastest.longest) {
      return false
    }
    fastest.isKept = false
    this.entries.delete(fastest.text)
    this.floor = Math.min(secondFastest.longest, seconds)
    return true
  }
}

/** A text, and the statement that it belongs to. */
interface KnownText {
  readonly folded: string
  readonly slowest: SlowestStatements
  entry: Entry | undefined
}

/** The statistics of the application's statements, and of sqlayer's own. */
export class StatementStatistics {
  private readonly applications = new SlowestStatements()
  private readonly own = new SlowestStatements()
  private readonly texts = new Map<string, KnownText>()

  /** Must be called by the fiber that has run the statement. `session` is the name of the session that it ran in. */
  add(statement: string, seconds: number, session: string | undefined): void {
    const text = truncateText(statement)
    const known = this.texts.get(text) ?? this.learn(statement, text)
    if (known.entry?.isKept !== true) {
      known.entry = known.slowest.entryOf(known.folded, seconds)
    }
    known.entry?.add(seconds, session)
  }

  snapshot(): Pick<Activity, "statements" | "ownStatements"> {
    return { statements: this.applications.snapshot(), ownStatements: this.own.snapshot() }
  }

  private learn(statement: string, text: string): KnownText {
    if (this.texts.size >= maxTexts) {
      this.texts.clear()
    }
    const known: KnownText = {
      folded: statement.length <= maxFoldedLength ? truncateText(foldLists(statement)) : text,
      slowest: isOwn() ? this.own : this.applications,
      entry: undefined
    }
    this.texts.set(text, known)
    return known
  }
}
