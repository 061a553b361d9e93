/**
 * The prepared statements of a connection: by name on the server, so that a statement is not parsed and planned again.
 *
 * A text is prepared when it is executed for the second time. Its name is a hash of the text, so that where a pooler lets
 * several clients share a server connection, a name never stands for another client's statement.
 */
import { createHash } from "node:crypto"
import type { PreparedStatements } from "../../DatabaseConfig.js"
import type { ServerError } from "./protocol/messages.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import { isStalePlan } from "./sqlState.js"

/** The most statements that a connection prepares, as in pgjdbc (preparedStatementCacheQueries). */
const capacity = 256
/**
 * A prepared statement is evicted only if it was not used by this many of the last lookups. Where more texts alternate
 * than the cache holds, evicting sooner would replace each statement before it is used again.
 */
const minUnusedLookups = 8 * capacity
/** A longer text is not prepared: it was probably generated for one execution. In UTF-16 code units. */
const maxTextLength = 16_384

const namePrefix = "sqlayer_"

/** A text begins like a statement that the server plans, or like BEGIN. None of these ends a transaction or copies. */
const preparable = /^\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|BEGIN)\b/i

/** invalid_sql_statement_name and duplicate_prepared_statement: a pooler has switched the server connection. */
const unknownName = "26000"
const duplicateName = "42P05"

/** Decides whether statements are prepared. Shared by all connections to one target. */
export class PreparePolicy {
  /** Incremented when a plan has become invalid. Statements prepared in an earlier epoch are prepared again. */
  epoch = 0

  constructor(private mode: PreparedStatements) {}

  /** `isDirect`: whether a connection leads to the server itself and not to a pooler; undefined if not known. */
  allows(isDirect: boolean | undefined): boolean {
    return this.mode === "on" || (this.mode === "auto" && isDirect === true)
  }

  /** Whether to find out if a connection leads to the server itself. */
  needsBackendCheck(isDirect: boolean | undefined): boolean {
    return this.mode === "auto" && isDirect === undefined
  }

  /** Behind a pooler no connection prepares any more, unless the configuration says `on`. */
  poolerDetected(): void {
    if (this.mode === "auto") {
      this.mode = "off"
    }
  }
}

/** A text that has a name, and what the server knows of it. */
export interface CachedStatement {
  readonly text: string
  readonly name: string
  /**
   * `new`: not prepared. `sent`: Parse is sent and not yet answered. `known`: prepared. `stale`: perhaps prepared, and to
   * be closed and parsed again.
   */
  state: "new" | "sent" | "known" | "stale"
  /** Null if it returns no rows, undefined if the server has not described it yet. */
  rowDescription: RowDescription | null | undefined
  epoch: number
  /** The number of the connection's lookup that used it last. */
  lastUsed: number
}

/** Which texts one connection has prepared. */
export class StatementCache {
  /** Names for which a Close is to be sent. */
  readonly namesToClose: Array<string> = []
  /** Whether a text would have been prepared if the connection were known to lead to the server itself. */
  needsBackendCheck = false
  private isDirect: boolean | undefined
  private readonly statements = new Map<string, CachedStatement>()
  /** The same statements, in a circle for the CLOCK eviction algorithm, and the position that was examined last. */
  private clock: Array<CachedStatement> = []
  private clockHand = 0
  /** Texts that were executed once: the most recent generation and the one before. */
  private recentTexts = new Set<string>()
  private olderTexts = new Set<string>()
  private lookups = 0

  /** `processId` is the one of BackendKeyData. */
  constructor(private readonly policy: PreparePolicy, private readonly processId: number | undefined) {
    // Without BackendKeyData there is nothing to compare `pg_backend_pid()` with.
    this.isDirect = processId === undefined ? false : undefined
  }

  /** `processId` is that of the process that executes statements. A pooler's BackendKeyData names another. */
  backendIdentified(processId: number): void {
    this.isDirect = processId === this.processId
    if (!this.isDirect) {
      this.policy.poolerDetected()
    }
  }

  /** The prepared statement, or the one to prepare now, with which to execute a text; undefined to execute it unnamed. */
  lookup(text: string): CachedStatement | undefined {
    const { isDirect, policy } = this
    const allowed = policy.allows(isDirect)
    if (!allowed && !policy.needsBackendCheck(isDirect)) {
      return undefined
    }
    this.lookups++
    const cached = this.statements.get(text)
    if (cached === undefined && !this.wasSeen(text)) {
      return undefined
    }
    if (!allowed) {
      this.needsBackendCheck = true
      return undefined
    }
    const statement = cached ?? this.add(text)
    if (statement === undefined) {
      return undefined
    }
    statement.lastUsed = this.lookups
    if (statement.state === "sent") {
      return undefined
    }
    if (statement.epoch !== policy.epoch) {
      statement.epoch = policy.epoch
      statement.rowDescription = undefined
      statement.state = statement.state === "known" ? "stale" : statement.state
    }
    return statement
  }

  /** Returns whether an error only says that a name or its plan is not valid any more, and if so invalidates them. */
  invalidateOnError(error: ServerError): boolean {
    if ((error.code === unknownName || error.code === duplicateName) && error.message.includes(namePrefix)) {
      this.policy.poolerDetected()
      this.clear()
      return true
    }
    if (isStalePlan(error)) {
      this.policy.epoch++
      return true
    }
    return false
  }

  /** Starts anew. The server may still know some of the names, and closing one that it does not know is no error. */
  clear(): void {
    for (const { name, state } of this.clock) {
      if (state !== "new") {
        this.namesToClose.push(name)
      }
    }
    this.clock = []
    this.statements.clear()
    this.recentTexts.clear()
    this.olderTexts.clear()
  }

  /** Whether a text was executed before. Remembers it if not. */
  private wasSeen(text: string): boolean {
    if (this.recentTexts.has(text) || this.olderTexts.has(text)) {
      return true
    }
    if (text.length <= maxTextLength && isPreparable(text)) {
      if (this.recentTexts.size >= capacity) {
        this.olderTexts = this.recentTexts
        this.recentTexts = new Set()
      }
      this.recentTexts.add(text)
    }
    return false
  }

  /** Adds a statement. In a full cache, evicts the next one of the clock if that was not used for long, or adds none. */
  private add(text: string): CachedStatement | undefined {
    let position = this.clock.length
    if (position >= capacity) {
      position = this.clockHand = (this.clockHand + 1) % capacity
      const { lastUsed, name, state, text } = this.clock[position]
      if (state === "sent" || this.lookups - lastUsed <= minUnusedLookups) {
        return undefined
      }
      this.statements.delete(text)
      if (state !== "new") {
        this.namesToClose.push(name)
      }
    }
    // After an eviction the text must be executed twice again. By then its name has been closed.
    this.recentTexts.delete(text)
    this.olderTexts.delete(text)
    const name = `${namePrefix}${createHash("sha256").update(text).digest("base64url").slice(0, 22)}`
    const { epoch } = this.policy
    const statement: CachedStatement = {
      text,
      name,
      state: "new",
      rowDescription: undefined,
      epoch,
      lastUsed: this.lookups
    }
    this.clock[position] = statement
    this.statements.set(text, statement)
    return statement
  }
}

/** Whether a text begins like one statement that can be prepared. It may still contain several. */
export const isPreparable = (text: string): boolean => preparable.test(text)
