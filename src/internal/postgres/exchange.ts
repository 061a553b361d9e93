/**
 * One exchange: what is sent in one round trip, and the server's messages up to the ReadyForQuery that ends it.
 */
import type { StatementGuard } from "../driver.js"
import { serverError } from "./pg.js"
import { isMalformed, MalformedMessage, type ServerError } from "./protocol/messages.js"
import { readTextRow, type RowDescription, type RowMode } from "./protocol/rowDescription.js"
import type { Encoded, Writer } from "./protocol/writer.js"
import type { TransactionStatus } from "./receive.js"
import type { CachedStatement, StatementCache } from "./statementCache.js"

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
}

/** A command that is sent ahead of another, in the same round trip. If it fails, the server skips what follows. */
export interface Step {
  readonly text: string
  readonly beginsTransaction?: boolean
  readonly onRow?: (values: ReadonlyArray<string | null>) => void
}

/** The result of one command. */
export interface CommandResult {
  readonly rows: Array<object>
  rowDescription: RowDescription | undefined
  /** Undefined until the command has completed. */
  commandTag: string | undefined
}

/** The first words of the command tags of commands that may leave session state on the connection. */
const leavesStateTag = /^(?:SET|RESET|LISTEN|PREPARE|DECLARE|DO)\b/
/** The tags of CREATE, and of CREATE TABLE AS and SELECT INTO, which is that of a SELECT without columns. */
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

const backendSql = "SELECT pg_catalog.pg_backend_pid()"

/** The name of an error's class. Anything may have been thrown. */
const nameOf = (error: unknown): string => {
  try {
    const { name } = error as Error
    return typeof name === "string" && /^\w{1,64}$/.test(name) ? name : "Error"
  } catch {
    return "Error"
  }
}

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
  /** Is told when it is sent. */
  guard: StatementGuard | undefined = undefined
  isComplete = false
  isCanceled = false
  /** Whether a cancel request is sent for it, while its result is still delivered. */
  isCancelRequested = false
  /** Its error if the cancel request was sent because it ran for longer than the statement timeout. */
  timeoutError: ServerError | undefined = undefined
  /** Called when it is sent. */
  onSent: (() => void) | undefined = undefined
  /** Asked when it is to be sent: if it is false, it completes without being sent. */
  isNeeded: (() => boolean) | undefined = undefined
  /** Whether it was sent inside a transaction, or begins one. */
  isInTransaction = false
  /** The server's warning that what it has committed was not confirmed by a synchronous standby. */
  unconfirmed: ServerError | undefined = undefined
  /** Whether `error` is the server's. */
  isRejected = false
  /** Whether a portal was suspended because its row limit was reached. */
  isSuspended = false
  /** Whether it may have left session state on the connection. */
  makesDirty = false
  /** Whether prepared statements cannot be trusted any more: they were dropped, or a temporary table hides another. */
  invalidatesStatements = false
  /** Whether it ended the transaction in which it was submitted, even if it began another. */
  endsTransaction = false
  /** The size of all rows as received, in bytes. */
  rowBytes = 0
  /** The types of the statement's parameters, if they were requested. */
  parameterTypes: ReadonlyArray<number> = []
  /** Whether a prepared statement is executed in it. */
  usesNamedStatement = false
  /** Whether the server has sent a result or an error. ReadyForQuery without one is a protocol violation. */
  hasResponse = false
  /** How many steps have completed. */
  private completedSteps = 0
  /** For each Parse whose ParseComplete has not arrived, in order: its named statement, or undefined. */
  private readonly awaitingParse: Array<CachedStatement | undefined> = []
  /** The cached statement that takes the row description of this exchange. */
  protected describedStatement: CachedStatement | undefined = undefined
  /** Whether the command was sent as a simple Query. */
  protected usesSimpleQuery = false
  /** Whether one of its commands had the tag ROLLBACK, which is also that of ROLLBACK TO SAVEPOINT. */
  private hasRolledBack = false
  /** Whether to execute without prepared statements, since one has failed before. */
  private isUnnamed = false

  constructor(readonly text: string, readonly options: Options) {}

  get beginsTransaction(): boolean {
    return this.steps.some(({ beginsTransaction }) => beginsTransaction === true)
  }

  /** Whether others may be sent before it completes, and it before others complete: none ends the transaction. */
  isPipelinable(): boolean {
    return false
  }

  /** Called right before it is written. `status` is that of the connection, where nothing else is in flight. */
  beforeSend(status: TransactionStatus): void {
    this.isInTransaction = status !== "I" || this.beginsTransaction
  }

  /** Whether it is one of a stream's. */
  get isPortal(): boolean {
    return false
  }

  /** Whether it executes the statement. */
  get executes(): boolean {
    return true
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
      this.writeStep(out, step, this.lookup(cache, step.text))
    }
    this.writeCommand(out, cache)
  }

  /** Sends the command if that had to wait for the steps. Returns whether it was sent. */
  continueAfterSteps(_out: Writer): boolean {
    return false
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

  /** Resets it, to be sent again without prepared statements. */
  prepareRetry(): void {
    this.isUnnamed = true
    this.usesNamedStatement = false
    this.result = emptyResult()
    this.results = undefined
    this.error = undefined
    this.isRejected = false
    this.hasResponse = false
    this.completedSteps = 0
    this.describedStatement = undefined
  }

  /** A Parse without ParseComplete was skipped after an error. */
  readyForQuery(): void {
    for (const statement of this.awaitingParse) {
      if (statement !== undefined) {
        statement.state = "stale"
      }
    }
    this.awaitingParse.length = 0
  }

  /** Whether no command has completed. */
  get didNothing(): boolean {
    return this.completedSteps === 0 && this.result.commandTag === undefined && this.results === undefined
  }

  parseComplete(): void {
    const statement = this.awaitingParse.shift()
    if (statement !== undefined) {
      statement.state = "known"
    }
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
      throw new MalformedMessage("it sent a row without a word of its columns")
    }
    try {
      rows.push(rowDescription.readRow(this.options.rowMode, bytes, offset, end))
    } catch (error) {
      if (isMalformed(error)) {
        throw error
      }
      // The message of a type parser's error may contain the value.
      this.error = serverError("22000", `a value of a row cannot be read: ${nameOf(error)}`)
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
    this.makesDirty ||= createsTemporary || leavesStateTag.test(tag)
    this.invalidatesStatements ||= createsTemporary || deallocateTag.test(tag)
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

  errorResponse(error: ServerError): void {
    this.hasResponse = true
    this.isRejected = true
    this.error ??= error
  }

  /** Makes a COPY FROM STDIN fail, since there is no data. */
  copyInResponse(out: Writer): void {
    out.copyFail("COPY FROM STDIN has nothing to read from here")
    if (!this.usesSimpleQuery) {
      // While copying, the server ignores a Sync, as it did with the one that was sent.
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
    if (statement.state !== "known") {
      out.parse(statement.name, text, [])
      statement.state = "sent"
      this.awaitingParse.push(statement)
    }
    out.bind(portal, statement.name, values)
  }

  /** The prepared statement for a text, unless this exchange is to do without. */
  protected lookup(cache: StatementCache, text: string): CachedStatement | undefined {
    return this.isUnnamed ? undefined : cache.lookup(text)
  }

  private writeStep(out: Writer, step: Step, statement: CachedStatement | undefined): void {
    this.writeBind(out, "", statement, step.text, [])
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
