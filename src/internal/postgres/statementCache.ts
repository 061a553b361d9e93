/**
 * The named prepared statements of a connection, which the server does not parse and plan again.
 *
 * A text is prepared when it is executed for the second time. Its name is a hash of the text, so that where a pooler lets
 * several clients share a server connection, a name never stands for another client's statement.
 *
 * When tables or types change, a prepared statement keeps the types of its parameters, and its columns. A statement
 * that cannot be bound may have failed because of that, and is prepared again. For another `search_path` or role that
 * was set, a text has another prepared statement.
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
/** In milliseconds. See `maxInvalidations`. */
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

/**
 * Texts that begin like a statement that the server plans, or like BEGIN. None of these ends a transaction or copies.
 */
const preparable = /^\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|BEGIN)\b/i

/**
 * The errors of Bind that an outdated prepared statement may cause: values that do not fit the types of its parameters,
 * operators that do not exist for these types, and types that were dropped (XX000).
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
 * invalid_sql_statement_name and duplicate_prepared_statement: a pooler has switched the server connection, or the
 * application has dropped the statements in a way that no command tag shows, such as DEALLOCATE ALL in a function.
 */
const unknownName = "26000"
const duplicateName = "42P05"

/** Decides whether statements are prepared. Shared by all connections to one target. */
export class PreparePolicy {
  /** Incremented when a plan has become invalid. Statements prepared in an earlier epoch are prepared again. */
  epoch = 0

  /** Limits the connections that check whether a statement is outdated. */
  readonly checks = Effect.unsafeMakeSemaphore(maxChecks)
  /** The texts of which a prepared statement became invalid: how often, and when last. */
  private readonly invalidations = new Map<string, { readonly count: number; readonly at: number }>()
  /** When a connection last lost its statements, and until when no connection prepares because of that. */
  private lostAt = -Infinity
  private suspendedUntil = -Infinity

  constructor(private mode: PreparedStatements) {}

  /** Notes that a prepared statement was invalid. Others may be too, so all are prepared again. */
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

  /** `isDirect`: whether the connection is to the server itself and not to a pooler; undefined if that is not known. */
  allows(isDirect: boolean | undefined): boolean {
    return this.mode === "on" || (isDirect === true && this.isAutomatic)
  }

  /** Whether to check if a connection is to the server itself. */
  needsBackendCheck(isDirect: boolean | undefined): boolean {
    return isDirect === undefined && this.isAutomatic
  }

  private get isAutomatic(): boolean {
    return this.mode === "auto" && (this.suspendedUntil === -Infinity || performance.now() >= this.suspendedUntil)
  }

  /**
   * Notes that a connection to the server itself has lost its statements. If that happens twice within
   * `instabilityWindow`, no connection prepares for `unpreparedTime`.
   */
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

/** A text with the name of its prepared statement, and the state of that on the server. */
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
  /** Whether a text would have been prepared if the connection were known to be to the server itself. */
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
  /**
   * Identify what has set `search_path` or the role, for the connection and for the transaction; empty if nothing has.
   */
  private path = ""
  private transactionPath = ""

  /** `processId` is the one of BackendKeyData. */
  constructor(private readonly policy: PreparePolicy, private readonly processId: number | undefined) {
    // Without BackendKeyData there is nothing to compare `pg_backend_pid()` with.
    this.isDirect = processId === undefined ? false : undefined
  }

  /** `processId` is that of the process that executes statements. A pooler's BackendKeyData has another one. */
  backendIdentified(processId: number): void {
    this.isDirect = processId === this.processId
    if (!this.isDirect) {
      this.policy.poolerDetected()
    }
  }

  /** The statement to execute a text with, prepared or to be prepared now; undefined to execute the text unnamed. */
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
        // That is checked again. Exchanges that were sent already fail for the same loss, which counts once.
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

  /** Returns whether an outdated prepared statement may have caused an error of Bind. If so, it is prepared again. */
  forgetOnError(error: ServerError, statement: CachedStatement): boolean {
    if (!invalidBinding.test(error.code ?? "")) {
      return false
    }
    statement.state = "stale"
    statement.rowDescription = undefined
    return true
  }

  /** Notes that a statement has failed only because its prepared statement was outdated. */
  invalidate(statement: CachedStatement): void {
    statement.state = "stale"
    statement.rowDescription = undefined
    this.policy.invalidated(statement)
  }

  /** Notes that tables or types were changed on this connection, so that any prepared statement may be outdated. */
  schemaChanged(): void {
    this.policy.epoch++
  }

  /**
   * Notes a command after which names may refer to other tables. If it is not understood correctly, prepared statements
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

  /** Forgets what was set for the transaction. */
  transactionEnded(): void {
    this.transactionPath = ""
  }

  /**
   * Forgets all statements. The server may still know some of the names, and closing one that it does not know is no
   * error.
   */
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
 * Whether a statement that could not be bound was outdated. `code` is that of its error, `elsewhere` that of the same
 * text on another connection, undefined if it could be bound there, null if that is not known. A table that is not
 * found there is one of another `search_path`, unless `seesOwnObjects`: the transaction may have created it.
 */
export const isOutdated = (
  code: string | undefined,
  elsewhere: string | null | undefined,
  seesOwnObjects: boolean
): boolean =>
  elsewhere === undefined ||
  (elsewhere !== null && elsewhere !== code && (!seesOwnObjects || code === droppedType || /^2[23]/.test(elsewhere)))
