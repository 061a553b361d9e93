/**
 * The prepared statements of a connection: by name on the server, so that a statement is not parsed and planned again.
 *
 * A text is prepared when it is executed for the second time. Its name is a hash of the text, so that where a pooler lets
 * several clients share a server connection, a name never stands for another client's statement.
 *
 * The server keeps the types of a prepared statement's parameters, and its columns, when tables and types change later. A
 * statement that fails before it was bound may fail because of that, and is prepared again. In a schema of its own, which
 * `search_path` names, a text has a prepared statement of its own.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import type { PreparedStatements } from "../../DatabaseConfig.js"
import type { ServerError } from "./protocol/messages.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import { isStalePlan } from "./sqlState.js"

/** How many statements are checked at once, each on a connection of its own; see `Pipeline.checkAndHandOver`. */
const maxChecks = 4

/** A text of which this many prepared statements became invalid within `instabilityWindow` is not prepared for a while. */
const maxInvalidations = 2
/** In milliseconds. */
const instabilityWindow = 600_000
/** How long such a text is not prepared; in milliseconds. */
const unpreparedTime = 3_600_000

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

/**
 * The errors of Bind that may come from what the server has kept of a prepared statement: values that do not fit its
 * parameters' types, operators that do not exist for them, and types that were dropped (XX000).
 */
const invalidBinding = /^(?:0A|22|23|26|3F|42|P0)|^XX000$/

const setsPath = /search_path|\bschema\b|\brole\b|\bsession(?:\s+|_)authorization\b|\breset\s+all\b|\bdiscard\s+all\b/i
const setsPathLocally = /\bset\s+local\b|\btrue\b/i
const resetsPath = /^\s*(?:reset|discard)\b/i

/** Identifies a command and its parameters. */
const pathKey = (text: string, params: ReadonlyArray<unknown> | undefined): string =>
  createHash("sha256").update([text, ...params ?? []].join("\0")).digest("base64url").slice(0, 22)

/** internal_error: the type of a parameter does not exist any more. */
const droppedType = "XX000"

/**
 * invalid_sql_statement_name and duplicate_prepared_statement: a pooler has switched the server connection, or the application
 * has dropped the statements in a way that no command tag tells of, such as DEALLOCATE ALL in a function.
 */
const unknownName = "26000"
const duplicateName = "42P05"

/** Decides whether statements are prepared. Shared by all connections to one target. */
export class PreparePolicy {
  /** Incremented when a plan has become invalid. Statements prepared in an earlier epoch are prepared again. */
  epoch = 0

  /** Limits the connections on which it is found out whether a statement is outdated. */
  readonly checks = Effect.unsafeMakeSemaphore(maxChecks)
  /** The texts of which a prepared statement became invalid: how often, and when last. */
  private readonly invalidations = new Map<string, { readonly count: number; readonly at: number }>()
  /** When a connection has lost its statements last, and until when none prepares for that. */
  private lostAt = -Infinity
  private suspendedUntil = -Infinity

  constructor(private mode: PreparedStatements) {}

  /** A prepared statement has turned out to be invalid. Others may be too, so all are prepared again. */
  invalidated({ epoch, text }: CachedStatement): void {
    if (epoch === this.epoch) {
      const now = performance.now()
      const last = this.invalidations.get(text)
      const count = last !== undefined && now - last.at < instabilityWindow ? last.count + 1 : 1
      this.invalidations.delete(text)
      this.invalidations.set(text, { count, at: now })
      if (this.invalidations.size > capacity) {
        this.invalidations.delete(this.invalidations.keys().next().value!)
      }
    }
    this.epoch++
  }

  /** Whether the prepared statements of a text become invalid again and again. */
  isUnstable(text: string): boolean {
    if (this.invalidations.size === 0) {
      return false
    }
    const last = this.invalidations.get(text)
    return last !== undefined && last.count >= maxInvalidations && performance.now() - last.at < unpreparedTime
  }

  /** `isDirect`: whether a connection leads to the server itself and not to a pooler; undefined if not known. */
  allows(isDirect: boolean | undefined): boolean {
    return this.mode === "on" || (isDirect === true && this.isAutomatic)
  }

  /** Whether to find out if a connection leads to the server itself. */
  needsBackendCheck(isDirect: boolean | undefined): boolean {
    return isDirect === undefined && this.isAutomatic
  }

  private get isAutomatic(): boolean {
    return this.mode === "auto" && (this.suspendedUntil === -Infinity || performance.now() >= this.suspendedUntil)
  }

  /** A connection to the server itself has lost its statements. If that goes on, no connection prepares for a while. */
  statementsLost(): void {
    const now = performance.now()
    if (this.mode === "auto" && now - this.lostAt < instabilityWindow) {
      this.suspendedUntil = now + unpreparedTime
    }
    this.lostAt = now
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
  /** The text, preceded by the path if that is not the connection's own. */
  readonly key: string
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
  /** What has set `search_path` or the role, for the connection and for the transaction; empty if nothing has. */
  private path = ""
  private transactionPath = ""

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
    const path = this.transactionPath === "" ? this.path : this.transactionPath
    const key = path === "" ? text : `${path}\0${text}`
    const cached = this.statements.get(key)
    if (cached === undefined && !this.wasSeen(key, text)) {
      return undefined
    }
    if (!allowed) {
      this.needsBackendCheck = true
      return undefined
    }
    const statement = policy.isUnstable(text) ? undefined : cached ?? this.add(key, text)
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

  /**
   * Returns whether an error of Parse or Bind only says that a name or its plan is not valid any more, and if so invalidates
   * them. `statement` is the one that was to be bound, if it was prepared earlier.
   */
  invalidateOnError(error: ServerError, statement: CachedStatement | undefined): boolean {
    if ((error.code === unknownName || error.code === duplicateName) && error.message.includes(namePrefix)) {
      if (this.isDirect === true) {
        // It is found out again. Those that were sent meanwhile fail for the same loss.
        this.isDirect = undefined
        this.policy.statementsLost()
      }
      this.clear()
      return true
    }
    if (statement !== undefined && isStalePlan(error)) {
      this.invalidate(statement)
      return true
    }
    return false
  }

  /** Returns whether an error of Bind may come from what the server has kept of a statement, and if so forgets that. */
  forgetOnError(error: ServerError, statement: CachedStatement): boolean {
    if (!invalidBinding.test(error.code ?? "")) {
      return false
    }
    statement.state = "stale"
    statement.rowDescription = undefined
    return true
  }

  /** A statement has failed only because of what the server had kept of it. */
  invalidate(statement: CachedStatement): void {
    statement.state = "stale"
    statement.rowDescription = undefined
    this.policy.invalidated(statement)
  }

  /** Tables or types were changed on this connection, so that what the server keeps of any statement may be outdated. */
  schemaChanged(): void {
    this.policy.epoch++
  }

  /**
   * A command was executed after which names may mean other tables. Where it is not understood correctly, prepared statements
   * become invalid and are prepared again.
   */
  executed(text: string, params: ReadonlyArray<unknown> | undefined): void {
    if (!setsPath.test(text) && params?.some((param) => setsPath.test(String(param))) !== true) {
      return
    }
    if (resetsPath.test(text)) {
      this.path = ""
      this.transactionPath = ""
    } else if (setsPathLocally.test(text) || params?.includes(true) === true) {
      this.transactionPath = pathKey(text, params)
    } else {
      this.path = pathKey(text, params)
      this.transactionPath = ""
    }
  }

  /** What was set for the transaction ends with it. */
  transactionEnded(): void {
    this.transactionPath = ""
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
  private wasSeen(key: string, text: string): boolean {
    if (this.recentTexts.has(key) || this.olderTexts.has(key)) {
      return true
    }
    if (text.length <= maxTextLength && isPreparable(text)) {
      if (this.recentTexts.size >= capacity) {
        this.olderTexts = this.recentTexts
        this.recentTexts = new Set()
      }
      this.recentTexts.add(key)
    }
    return false
  }

  /** Adds a statement. In a full cache, evicts the next one of the clock if that was not used for long, or adds none. */
  private add(key: string, text: string): CachedStatement | undefined {
    let position = this.clock.length
    if (position >= capacity) {
      position = this.clockHand = (this.clockHand + 1) % capacity
      const { key, lastUsed, name, state } = this.clock[position]
      if (state === "sent" || this.lookups - lastUsed <= minUnusedLookups) {
        return undefined
      }
      this.statements.delete(key)
      if (state !== "new") {
        this.namesToClose.push(name)
      }
    }
    // After an eviction the text must be executed twice again. By then its name has been closed.
    this.recentTexts.delete(key)
    this.olderTexts.delete(key)
    const name = `${namePrefix}${createHash("sha256").update(key).digest("base64url").slice(0, 22)}`
    const { epoch } = this.policy
    const statement: CachedStatement = {
      text,
      key,
      name,
      state: "new",
      rowDescription: undefined,
      epoch,
      lastUsed: this.lookups
    }
    this.clock[position] = statement
    this.statements.set(key, statement)
    return statement
  }
}

/** Whether a text begins like one statement that can be prepared. It may still contain several. */
export const isPreparable = (text: string): boolean => preparable.test(text)

/**
 * Whether a statement that could not be bound was outdated, by the code of its error and what has become of the same text on
 * another connection: undefined if it could be bound, null if that is not known. A table that is not found there is one of
 * another `search_path`, unless `seesMore`: the transaction may have created it.
 */
export const isOutdated = (
  code: string | undefined,
  elsewhere: string | null | undefined,
  seesMore: boolean
): boolean =>
  elsewhere === undefined ||
  (elsewhere !== null && elsewhere !== code && (!seesMore || code === droppedType || /^2[23]/.test(elsewhere)))
