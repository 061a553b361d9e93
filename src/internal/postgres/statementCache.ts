/**
 * The statements that a connection has prepared on the server by name, so that it neither parses nor plans them again.
 *
 * A text is prepared when it comes for the second time. Its name is made of the text: where a pooler lets several
 * clients share a server's connection, a name can never stand for another's statement.
 */
import { createHash } from "node:crypto"
import type { PreparedStatements } from "../../DatabaseConfig.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import type { ServerError } from "./protocol/messages.js"
import { isStalePlan } from "./sqlState.js"

/** How many texts a connection prepares: as many as pgjdbc (preparedStatementCacheQueries). */
const capacity = 256
/**
 * For how many statements one that is prepared must not have been used to make room for another. Where more take turns
 * than there is room for, preparing each of them would be in vain: it went before it came again.
 */
const patience = 8 * capacity
/** What a text may measure to be remembered: a longer one was written for one occasion. */
const longestText = 16_384

const prefix = "sqlayer_"

/** What is planned, and what begins a transaction. None of these ends one, and none speaks COPY. */
const plannable = /^\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|BEGIN)\b/i

/** The server does not know a name, or knows it already: somebody in between chooses the server's connection. */
const unknownName = "26000"
const knownName = "42P05"

/** What the connections to one target share. */
export class Preparing {
  /** How often a table has changed the columns of a statement that was prepared: what is older is not trusted. */
  epoch = 0

  constructor(private mode: PreparedStatements) {}

  /** Whether to prepare on a connection that leads to the server itself, or does not, or of which that is not known. */
  allows(direct: boolean | undefined): boolean {
    return this.mode === "on" || (this.mode === "auto" && direct === true)
  }

  /** Whether to find out if a connection leads to the server itself. */
  wonders(direct: boolean | undefined): boolean {
    return this.mode === "auto" && direct === undefined
  }

  /** A pooler was seen: nobody prepares any more, unless that was asked for expressly. */
  pooled(): void {
    if (this.mode === "auto") {
      this.mode = "off"
    }
  }
}

/** A text that came again, and is prepared. */
export interface Entry {
  readonly text: string
  readonly name: string
  /** What the server knows of the name: nothing, perhaps (it is being told), all, or what is out of date. */
  state: "new" | "sent" | "known" | "stale"
  /** What the server said of its rows: null where there are none, undefined where it has not said it yet. */
  columns: RowDescription | null | undefined
  epoch: number
  /** Which of the connection's statements it last was. */
  used: number
}

/** The texts of one connection. */
export class StatementCache {
  /** Names that the server is to forget. */
  readonly closing: Array<string> = []
  /** Whether a statement would be prepared, if only it were known where the connection leads. */
  wonders = false
  private direct: boolean | undefined
  private readonly entries = new Map<string, Entry>()
  /** The same, in the order in which they are asked to make room, and who is asked next. */
  private ring: Array<Entry> = []
  private hand = 0
  /** Texts that came, the last of them and those before. */
  private lately = new Set<string>()
  private before = new Set<string>()
  private count = 0

  /** `backend` is the process that the server said it is. */
  constructor(private readonly preparing: Preparing, private readonly backend: number | undefined) {
    // Without it there is nothing to compare.
    this.direct = backend === undefined ? false : undefined
  }

  /** A process of the server's own answers, or another than the one that let us in. */
  answeredBy(backend: number): void {
    this.direct = backend === this.backend
    if (!this.direct) {
      this.preparing.pooled()
    }
  }

  /** What to run a text by that is about to be sent, if it is to be run by a name. */
  use(text: string): Entry | undefined {
    const { direct, preparing } = this
    const allowed = preparing.allows(direct)
    if (!allowed && !preparing.wonders(direct)) {
      return undefined
    }
    this.count++
    const known = this.entries.get(text)
    if (known === undefined && !this.came(text)) {
      return undefined
    }
    if (!allowed) {
      this.wonders = true
      return undefined
    }
    const entry = known ?? this.admit(text)
    if (entry === undefined) {
      return undefined
    }
    entry.used = this.count
    if (entry.state === "sent") {
      return undefined
    }
    if (entry.epoch !== preparing.epoch) {
      entry.epoch = preparing.epoch
      entry.columns = undefined
      entry.state = entry.state === "known" ? "stale" : entry.state
    }
    return entry
  }

  /** Whether an error says only that a name of ours, or its plan, is not what we believed. */
  mistaken(error: ServerError): boolean {
    if ((error.code === unknownName || error.code === knownName) && error.message.includes(prefix)) {
      this.preparing.pooled()
      this.clear()
      return true
    }
    if (isStalePlan(error)) {
      this.preparing.epoch++
      return true
    }
    return false
  }

  /** Begins anew. The server may know all names, some or none; that one is closed which it does not know is no error. */
  clear(): void {
    for (const { name, state } of this.ring) {
      if (state !== "new") {
        this.closing.push(name)
      }
    }
    this.ring = []
    this.entries.clear()
    this.lately.clear()
    this.before.clear()
  }

  /** Whether a text came before, which from now on it did. */
  private came(text: string): boolean {
    if (this.lately.has(text) || this.before.has(text)) {
      return true
    }
    if (text.length <= longestText && isPlannable(text)) {
      if (this.lately.size >= capacity) {
        this.before = this.lately
        this.lately = new Set()
      }
      this.lately.add(text)
    }
    return false
  }

  /** A text that came again, if there is place for it or one has not been used for long. Asks but one. */
  private admit(text: string): Entry | undefined {
    let place = this.ring.length
    if (place >= capacity) {
      place = this.hand = (this.hand + 1) % capacity
      const { name, state, text, used } = this.ring[place]
      if (state === "sent" || this.count - used <= patience) {
        return undefined
      }
      this.entries.delete(text)
      if (state !== "new") {
        this.closing.push(name)
      }
    }
    // Once it has made room it must come twice again: by then its name is closed.
    this.lately.delete(text)
    this.before.delete(text)
    const name = `${prefix}${createHash("sha256").update(text).digest("base64url").slice(0, 22)}`
    const { epoch } = this.preparing
    const entry: Entry = { text, name, state: "new", columns: undefined, epoch, used: this.count }
    this.ring[place] = entry
    this.entries.set(text, entry)
    return entry
  }
}

/** Whether a text is one statement that is planned, or begins a transaction. */
export const isPlannable = (text: string): boolean => plannable.test(text)
