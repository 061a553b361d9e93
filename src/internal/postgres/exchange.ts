/**
 * One exchange: what is sent in one round trip, and the server's messages up to the ReadyForQuery that ends it.
 */
import type { DatabaseError } from "../../DatabaseError.js"
import type { StatementGuard } from "../driver.js"
import type { Capability } from "./engine.js"
import { serverError } from "./pg.js"
import { isMalformed, MalformedMessage, type ServerError } from "./protocol/messages.js"
import { readTextRow, type RowDescription, type RowMode } from "./protocol/rowDescription.js"
import type { Encoded, Writer } from "./protocol/writer.js"
import type { TransactionStatus } from "./receive.js"
import type { CachedStatement, StatementCache } from "./statementCache.js"
import { unreadableValue } from "./types/unreadableValue.js"

/** How an exchange is treated, and what its errors include. */
export interface Options {
  readonly params?: ReadonlyArray<unknown> | undefined
  readonly rowMode?: RowMode
  /**
   * Whether this is a user's statement. Such a statement may run for long, so it is canceled when it is interrupted, and
   * it may leave session state on the connection. The driver's own commands end soon, or never if the server is silent.
   */
  readonly user: boolean
  /** Whether this is a COMMIT, so that losing the connection after it was sent leaves its outcome unknown. */
  readonly commit?: boolean
  /** Whether the statement may be prepared by name. */
  readonly prepare?: boolean
  /** What it needs that engines other than PostgreSQL may lack. */
  readonly needs?: Capability
}

/** A command that is sent ahead of another, in the same round trip. If it fails, the server skips what follows. */
export interface Step {
  readonly text: string
  readonly values?: ReadonlyArray<string>
  /** Whether it is never prepared by name. */
  readonly unnamed?: boolean
  readonly beginsTransaction?: boolean
  /** What it needs that engines other than PostgreSQL may lack. */
  readonly needs?: Capability
  readonly onRow?: (values: ReadonlyArray<string | null>) => void
  /** The error that the exchange fails with if the server rejects this step; undefined for the server's own. */
  readonly explain?: (error: ServerError) => DatabaseError | undefined
}

/** The result of one command. */
export interface CommandResult {
  readonly rows: Array<object>
  rowDescription: RowDescription | undefined
  /** Undefined until the command has completed. */
  commandTag: string | undefined
}

/** CREATE TABLE AS and SELECT INTO have the tag of SELECT, but no row description. */
const createTag = /^(?:CREATE|SELECT)\b/
const temporary = /temp/i
/** These always end a transaction. */
const endTag = /^(?:COMMIT|PREPARE TRANSACTION)$/
const gap = String.raw`(?:\s|/\*[\s\S]*?\*/|--[^\n]*(?:\n|$))+`
const rollbackAndChain = new RegExp(
  `\\b(?:ROLLBACK|ABORT)(?:${gap}(?:WORK|TRANSACTION))?${gap}AND${gap}CHAIN\\b`,
  "i"
)
const beginTag = /^(?:BEGIN|START TRANSACTION)$/
/** After these the server may have dropped prepared statements. */
const deallocateTag = /^(?:DISCARD ALL|DEALLOCATE)\b/
/** After these the transaction, or the connection, may see tables and types that no other one sees. */
const defineTag = /^(?:CREATE|ALTER|DROP|DO|CALL)\b/
/** After these the types that the server keeps of a prepared statement may be outdated. */
const alterTag = /^(?:ALTER (?:TABLE|TYPE|DOMAIN|VIEW|MATERIALIZED VIEW|FOREIGN TABLE)|DO)\b/

/** Why a statement of a user cannot copy. */
export const copyRefusal = "a statement cannot carry the data of COPY: use Database.copyFrom or Database.copyTo"

const noValues: ReadonlyArray<string> = []

const backendSql = "SELECT pg_catalog.pg_backend_pid()"

const emptyResult = (): CommandResult => ({ rows: [], rowDescription: undefined, commandTag: undefined })

/** The result of every exchange whose own result was released. */
const releasedResult: CommandResult = emptyResult()

/** Completes once: when the server is ready for the next query, or when the connection is lost. */
export abstract class Exchange {
  /** Called once on completion. `lost` says why there is no result. */
  onComplete: (lost: Error | undefined) => void = () => undefined
  /** How many savepoints were open when it was submitted. */
  savepointDepth = 0
  /** What is sent ahead of it. */
  steps: ReadonlyArray<Step> = []
  /** The result of the last command. */
  result: CommandResult = emptyResult()
  /** The results of all commands if there are several. */
  results: Array<CommandResult> | undefined = undefined
  /** The first error: the server's, or that of decoding a row. */
  error: ServerError | undefined = undefined
  isSent = false
  /** Its `isSent` is set when the exchange is sent. */
  guard: StatementGuard | undefined = undefined
  isComplete = false
  isCanceled = false
  /** Whether a cancel request is sent for it, while its result is still delivered. */
  isCancelRequested = false
  /** Its error if the cancel request was sent because it ran for longer than the statement timeout. */
  timeoutError: ServerError | undefined = undefined
  /** The exchange that was sent after it in the same message. This one is handed over when both are complete. */
  follower: Exchange | undefined = undefined
  /** Called when it is sent. */
  onSent: (() => void) | undefined = undefined
  /** Asked when it is to be sent: if it is false, it completes without being sent. */
  isNeeded: (() => boolean) | undefined = undefined
  /** Whether it was sent inside a transaction, or begins one. */
  isInTransaction = false
  /** The server's warning that what it has committed was not confirmed by a synchronous standby. */
  unconfirmed: ServerError | undefined = undefined
  /** The first notices that the server has sent for it, and how many more there were. */
  notices: Array<ServerError> | undefined = undefined
  omittedNotices = 0
  /** Whether `error` is the server's. */
  isRejected = false
  /** Whether a portal was suspended because its row limit was reached. */
  isSuspended = false
  /** Whether it may have left session state on the connection. */
  makesDirty = false
  /** Whether prepared statements cannot be trusted any more: they were dropped, or a temporary table hides another. */
  invalidatesStatements = false
  /** Whether it may have created tables or types that no other connection sees yet, or will ever see. */
  definesObjects = false
  /** Whether it has altered tables or types. */
  altersSchema = false
  /** Whether it ended the transaction in which it was submitted, even if it began another. */
  endsTransaction = false
  /** The size of all rows as received, in bytes. */
  rowBytes = 0
  /** The types of the statement's parameters, if they were requested. */
  parameterTypes: ReadonlyArray<number> = []
  /** Whether a prepared statement is executed in it. */
  usesNamedStatement = false
  /** The prepared statement that it executes, if an earlier exchange has prepared it. */
  knownStatement: CachedStatement | undefined = undefined
  /** Whether it has failed, or would have, only because its prepared statement was outdated. */
  isOutdated = false
  /** Whether its completion waits for the check whether its prepared statement was outdated. */
  isBeingChecked = false
  /** Whether the server has sent a result or an error. ReadyForQuery without one is a protocol violation. */
  hasResponse = false
  /** How many steps, from the first one, remove the last borrower's state from the connection. */
  private cleaningSteps = 0
  /** How many steps have completed. */
  private completedSteps = 0
  /** How many portals were bound. */
  private bindings = 0
  /** For each Parse whose ParseComplete has not arrived, in order: its named statement, or undefined. */
  private readonly awaitingParse: Array<CachedStatement | undefined> = []
  /** The cached statement that takes the row description of this exchange. */
  protected describedStatement: CachedStatement | undefined = undefined
  /** Whether the command was sent as a simple Query. */
  protected usesSimpleQuery = false
  /** Whether one of its commands had the tag ROLLBACK, which is also that of ROLLBACK TO SAVEPOINT. */
  private hasRolledBack = false
  /** Whether to execute without prepared statements, since one has failed before. */
  private isRepeated = false
  /** The prepared statement that may have been outdated, if it was sent again without it. */
  repeatedFor: CachedStatement | undefined = undefined

  constructor(readonly text: string, readonly options: Options) {}

  get beginsTransaction(): boolean {
    return this.steps.some(({ beginsTransaction }) => beginsTransaction === true)
  }

  /** Whether it may be in flight together with others, since it does not end the transaction. */
  isPipelinable(): boolean {
    return false
  }

  /** Called right before it is written. `status` is that of the connection, where nothing else is in flight. */
  beforeSend(status: TransactionStatus): void {
    this.isInTransaction = status !== "I" || this.beginsTransaction
  }

  /** Whether it opens or reads the portal of a stream. */
  get isPortal(): boolean {
    return false
  }

  /** Whether it executes the statement. */
  get executes(): boolean {
    return true
  }

  /** Whether the server has begun to execute the command that failed, and not only to parse and bind it. */
  get isBound(): boolean {
    return this.usesSimpleQuery || this.bindings > this.completedSteps
  }

  /** The prepared statement that could not be bound, if an earlier exchange has prepared it. */
  get unboundStatement(): CachedStatement | undefined {
    return this.completedSteps === this.steps.length && !this.isBound ? this.knownStatement : undefined
  }

  /** An exchange that binds the same parameters to the same text, and executes nothing; undefined where that is not useful. */
  bindOnly(): Exchange | undefined {
    return undefined
  }

  write(out: Writer, cache: StatementCache): void {
    this.isSent = true
    if (this.guard !== undefined) {
      this.guard.isSent = true
    }
    this.onSent?.()
    cache.needsBackendCheck = false
    for (const name of cache.namesToClose.splice(0)) {
      out.closeStatement(name)
    }
    for (const step of this.steps) {
      this.writeStep(out, step, step.unnamed === true ? undefined : this.lookup(cache, step.text))
    }
    this.knownStatement = undefined
    this.writeCommand(out, cache)
  }

  /** Sends the command if that had to wait for the steps. Returns whether it was sent. */
  continueAfterSteps(_out: Writer): boolean {
    return false
  }

  /** Whether the server is to answer next. While a COPY waits for the program, it is not. */
  get awaitsServer(): boolean {
    return true
  }

  /**
   * Called when another exchange has to wait until this one is complete. Returns an error if this one would never
   * complete.
   */
  othersWait(): ServerError | undefined {
    return undefined
  }

  /** Notes that a cancel request is sent for it. Its result is still delivered. */
  requestCancel(): void {
    this.isCancelRequested = true
  }

  /** Drops the result, and ignores what still arrives. */
  cancel(): void {
    this.isCanceled = true
    this.result = emptyResult()
    this.results = undefined
  }

  /**
   * Drops the result after it was handed over. The exchange and its `onComplete` refer to each other, and V8 keeps such a
   * cycle until the next full garbage collection: with it, all rows of a long stream.
   */
  releaseResult(): void {
    this.result = releasedResult
    this.results = undefined
  }

  /** Resets it, to be sent again without prepared statements. `outdated` is the one that may be the reason. */
  prepareRetry(outdated: CachedStatement | undefined): void {
    this.isRepeated = true
    this.repeatedFor = outdated
    this.usesNamedStatement = false
    this.bindings = 0
    this.result = emptyResult()
    this.results = undefined
    this.error = undefined
    this.isRejected = false
    this.hasResponse = false
    this.completedSteps = 0
    this.describedStatement = undefined
  }

  /** Marks the statements whose Parse was skipped after an error, so that it has no ParseComplete. */
  readyForQuery(): void {
    for (const statement of this.awaitingParse) {
      if (statement !== undefined) {
        statement.state = "stale"
      }
    }
    this.awaitingParse.length = 0
  }

  /** Sends steps ahead that remove the last borrower's state from the connection. */
  cleanFirst(steps: ReadonlyArray<Step>): void {
    if (this.cleaningSteps === 0) {
      this.cleaningSteps = steps.length
      this.steps = [...steps, ...this.steps]
    }
  }

  /** Whether it was to remove the last borrower's state first, and whether that was done. */
  get cleaned(): boolean | undefined {
    return this.cleaningSteps === 0 ? undefined : this.completedSteps >= this.cleaningSteps
  }

  /** Whether a step was rejected, so that the server has skipped the command. */
  get isSkipped(): boolean {
    return this.isRejected && this.completedSteps < this.steps.length
  }

  /** What the command needs that the server has rejected: a step, or the exchange's own. */
  get rejectedNeed(): Capability | undefined {
    return this.isSkipped ? this.steps[this.completedSteps].needs : this.options.needs
  }

  /** Whether some of its steps have not completed. */
  protected get hasSteps(): boolean {
    return this.completedSteps < this.steps.length
  }

  /** The step that the server has rejected. */
  get rejectedStep(): Step | undefined {
    return this.isSkipped ? this.steps[this.completedSteps] : undefined
  }

  /** Whether another exchange may follow it in the same message. Asked when it was written. */
  get acceptsFollower(): boolean {
    return false
  }

  /** Whether no command of its own has completed. */
  get didNothing(): boolean {
    return this.completedSteps <= this.cleaningSteps && this.result.commandTag === undefined &&
      this.results === undefined
  }

  parseComplete(): void {
    const statement = this.awaitingParse.shift()
    if (statement !== undefined) {
      statement.state = "known"
    }
  }

  bindComplete(): void {
    this.bindings++
  }

  /** RowDescription, or NoData as null. */
  rowDescription(description: RowDescription | null): void {
    if (description !== null) {
      this.startResult()
      this.result.rowDescription = description
    }
    if (this.describedStatement !== undefined) {
      this.describedStatement.rowDescription = description
    }
  }

  /** Throws MalformedMessage if it does not fit the row description. */
  dataRow(bytes: Buffer, offset: number, end: number): void {
    this.rowBytes += end - offset
    if (this.completedSteps < this.steps.length) {
      this.steps[this.completedSteps].onRow?.(readTextRow(bytes, offset, end))
      return
    }
    const { rowDescription, rows } = this.result
    if (this.isCanceled || this.error !== undefined) {
      return
    }
    if (rowDescription === undefined) {
      throw new MalformedMessage("it sent a row without a description of its columns")
    }
    try {
      rows.push(rowDescription.readRow(this.options.rowMode, bytes, offset, end))
    } catch (error) {
      if (isMalformed(error)) {
        throw error
      }
      this.error = unreadableValue(error)
    }
  }

  commandComplete(tag: string): void {
    this.hasResponse = true
    if (this.completedSteps < this.steps.length) {
      this.completedSteps++
      return
    }
    this.startResult()
    this.result.commandTag = tag
    const createsTemporary = this.result.rowDescription === undefined && createTag.test(tag) &&
      temporary.test(this.text)
    this.invalidatesStatements ||= createsTemporary || deallocateTag.test(tag)
    if (createsTemporary || defineTag.test(tag)) {
      this.definesObjects = true
      this.altersSchema ||= alterTag.test(tag)
    }
    this.endsTransaction ||= endTag.test(tag) || (tag === "ROLLBACK" && rollbackAndChain.test(this.text)) ||
      (this.hasRolledBack && beginTag.test(tag))
    this.hasRolledBack ||= tag === "ROLLBACK"
  }

  /** EmptyQueryResponse or CloseComplete. */
  completeWithoutResult(): void {
    this.hasResponse = true
  }

  portalSuspended(): void {
    this.hasResponse = true
    this.isSuspended = true
  }

  parameterDescription(types: ReadonlyArray<number>): void {
    this.hasResponse = true
    this.parameterTypes = types
  }

  /** CopyOutResponse. Fails, since a statement has no place for the data. */
  copyOutResponse(): void {
    this.error ??= serverError("0A000", copyRefusal)
  }

  /** CopyData: data of a COPY TO STDOUT. */
  copyData(_bytes: Buffer, _offset: number, _end: number): void {
    // The exchange has failed at CopyOutResponse.
  }

  errorResponse(error: ServerError): void {
    this.hasResponse = true
    this.isRejected = true
    this.error ??= error
  }

  /** Makes a COPY FROM STDIN fail, since there is no data. */
  copyInResponse(out: Writer): void {
    this.error ??= serverError("0A000", copyRefusal)
    out.copyFail("a statement has no data for COPY FROM STDIN")
    if (!this.usesSimpleQuery) {
      // While copying the server ignores Sync, and has ignored the one that was sent.
      out.sync()
    }
  }

  protected abstract writeCommand(out: Writer, cache: StatementCache): void

  /** Writes Bind, preceded by Parse unless the statement is prepared already. */
  protected writeBind(
    out: Writer,
    portal: string,
    statement: CachedStatement | undefined,
    text: string,
    values: ReadonlyArray<Encoded>
  ): void {
    if (statement === undefined) {
      out.parse("", text, []).bind(portal, "", values)
      this.awaitingParse.push(undefined)
      return
    }
    this.usesNamedStatement = true
    if (statement.state === "stale") {
      out.closeStatement(statement.name)
    }
    if (statement.state === "known") {
      this.knownStatement = statement
    } else {
      out.parse(statement.name, text, [])
      statement.state = "sent"
      this.awaitingParse.push(statement)
    }
    out.bind(portal, statement.name, values)
  }

  /** The prepared statement for a text, unless this exchange is to do without. */
  protected lookup(cache: StatementCache, text: string): CachedStatement | undefined {
    return this.isRepeated ? undefined : cache.lookup(text)
  }

  private writeStep(out: Writer, step: Step, statement: CachedStatement | undefined): void {
    this.writeBind(out, "", statement, step.text, step.values ?? noValues)
    out.execute("", 0)
  }

  /** Adds a step that asks for the backend's process id, which shows whether there is a pooler in between. */
  protected writeBackendCheck(out: Writer, cache: StatementCache): void {
    const step: Step = { text: backendSql, onRow: ([processId]) => cache.backendIdentified(Number(processId)) }
    this.steps = [...this.steps, step]
    this.writeStep(out, step, undefined)
  }

  private startResult(): void {
    if (this.result.commandTag !== undefined) {
      this.results ??= [this.result]
      this.result = emptyResult()
      this.results.push(this.result)
    }
  }
}
