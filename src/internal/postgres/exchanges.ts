/**
 * The kinds of exchanges.
 */
import { keepHiddenClass } from "../hiddenClass.js"
import { make as makeError } from "../makeError.js"
import { copyRefusal, Exchange, type Options } from "./exchange.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import type { Encoded, Writer } from "./protocol/writer.js"
import type { TransactionStatus } from "./receive.js"
import { isPreparable, type StatementCache } from "./statementCache.js"
import { isCopy } from "./statementText.js"
import { type BeginSettings, beginSteps } from "./transactionSql.js"

/** One or several statements without parameters. */
class Query extends Exchange {
  /**
   * Whether only the steps have been sent. Several statements need a simple Query, which follows the Sync of the steps.
   */
  private awaitsSteps = false

  override continueAfterSteps(out: Writer): boolean {
    if (!this.awaitsSteps || this.error !== undefined || this.isCanceled) {
      return false
    }
    this.awaitsSteps = false
    this.hasResponse = false
    this.writeSimpleQuery(out)
    return true
  }

  protected writeCommand(out: Writer): void {
    if (this.steps.length === 0) {
      this.writeSimpleQuery(out)
    } else if (this.text.includes(";")) {
      this.awaitsSteps = true
      out.sync()
    } else {
      this.writeBind(out, "", undefined, this.text, [])
      out.describePortal("").execute("", 0).sync()
    }
  }

  override get acceptsFollower(): boolean {
    return !this.awaitsSteps
  }

  private writeSimpleQuery(out: Writer): void {
    this.usesSimpleQuery = true
    out.query(this.text)
  }
}

/** One statement, with or without parameters. */
class Statement extends Exchange {
  constructor(text: string, private readonly values: ReadonlyArray<Encoded>, options: Options) {
    super(text, options)
  }

  override isPipelinable(): boolean {
    return this.steps.length === 0 && isPreparable(this.text)
  }

  override get acceptsFollower(): boolean {
    return true
  }

  override bindOnly(): Exchange {
    return new BindOnly(this.text, this.values, { user: true })
  }

  protected writeCommand(out: Writer, cache: StatementCache): void {
    const statement = this.options.prepare === true ? this.lookup(cache, this.text) : undefined
    if (cache.needsBackendCheck && isPreparable(this.text)) {
      this.writeBackendCheck(out, cache)
    }
    this.writeBind(out, "", statement, this.text, this.values)
    if (statement?.rowDescription === undefined || statement.rowDescription?.usesCurrentParsers() === false) {
      out.describePortal("")
      this.describedStatement = statement
    } else if (statement.rowDescription !== null) {
      this.result.rowDescription = statement.rowDescription
    }
    out.execute("", 0).sync()
  }
}

/** Parses a statement and binds its parameters without executing it. */
class BindOnly extends Exchange {
  constructor(text: string, private readonly values: ReadonlyArray<Encoded>, options: Options) {
    super(text, options)
  }

  override get executes(): boolean {
    return false
  }

  override bindComplete(): void {
    super.bindComplete()
    this.hasResponse = true
  }

  protected writeCommand(out: Writer): void {
    this.writeBind(out, "", undefined, this.text, this.values)
    out.sync()
  }
}

/** One statement whose parameter types are given, since the server cannot infer them. */
class TypedStatement extends Exchange {
  constructor(
    text: string,
    private readonly values: ReadonlyArray<Encoded>,
    parameterTypes: ReadonlyArray<number>,
    options: Options
  ) {
    super(text, options)
    this.parameterTypes = parameterTypes
  }

  override get acceptsFollower(): boolean {
    return true
  }

  protected writeCommand(out: Writer): void {
    out.parse("", this.text, this.parameterTypes).bind("", "", this.values).describePortal("").execute("", 0).sync()
  }
}

/** Describes the parameters of a statement without executing it. */
class DescribeParameters extends Exchange {
  override get executes(): boolean {
    return false
  }

  protected writeCommand(out: Writer): void {
    out.parse("", this.text, []).describeStatement("").sync()
  }
}

/** Opens a portal for a statement and fetches its first rows, in a transaction of its own where none is open. */
class OpenPortal extends Exchange {
  private ownsTransaction = false

  constructor(
    private readonly portal: string,
    text: string,
    private readonly values: ReadonlyArray<Encoded>,
    private readonly types: ReadonlyArray<number> | undefined,
    private readonly maxRows: number,
    options: Options,
    private readonly beginSettings: BeginSettings,
    private readonly onSend: (ownsTransaction: boolean) => void
  ) {
    super(text, options)
  }

  override get isPortal(): boolean {
    return true
  }

  override beforeSend(status: TransactionStatus): void {
    if (status === "I" && this.steps.length === 0) {
      this.steps = beginSteps({}, this.beginSettings)
      this.ownsTransaction = true
    }
    super.beforeSend(status)
    this.onSend(this.ownsTransaction)
  }

  protected writeCommand(out: Writer): void {
    if (this.types === undefined) {
      this.writeBind(out, this.portal, undefined, this.text, this.values)
    } else {
      out.parse("", this.text, this.types).bind(this.portal, "", this.values)
    }
    out.describePortal(this.portal).execute(this.portal, this.maxRows).sync()
  }
}

/** Fetches the next rows of a portal. The row description is that of the exchange that opened it. */
class ReadPortal extends Exchange {
  constructor(
    private readonly portal: string,
    private readonly description: RowDescription,
    text: string,
    private readonly maxRows: number,
    options: Options
  ) {
    super(text, options)
  }

  override get isPortal(): boolean {
    return true
  }

  protected writeCommand(out: Writer): void {
    this.result.rowDescription = this.description
    out.execute(this.portal, this.maxRows).sync()
  }
}

/** A command of the driver, or a user's text of one or several statements. */
export const query = (text: string, options: Options): Exchange => new Query(text, options)

/** A user's statement. Without parameters the text may contain several. Throws if one of them is a COPY of data. */
export const statement = (text: string, values: ReadonlyArray<Encoded>, options: Options): Exchange =>
  values.length === 0 && (text.includes(";") || !isPreparable(text))
    ? new Query(withoutCopy(text), options)
    : new Statement(text, values, options)

/** Refuses a COPY of data before it is sent, since a statement can neither send nor receive the data. */
const withoutCopy = (text: string): string => {
  if (isCopy(text)) {
    throw makeError("InvalidStatement", { dialect: "postgres", code: "0A000", reason: copyRefusal, statement: text })
  }
  return text
}

/** A user's statement with the types of its parameters; zero for one that the server infers. */
export const typedStatement = (
  text: string,
  values: ReadonlyArray<Encoded>,
  parameterTypes: ReadonlyArray<number>,
  options: Options
): Exchange => new TypedStatement(text, values, parameterTypes, options)

/** Its `parameterTypes` are those of the statement. */
export const describeParameters = (text: string, options: Options): Exchange => new DescribeParameters(text, options)

export const openPortal = (
  portal: string,
  text: string,
  values: ReadonlyArray<Encoded>,
  /** Zero for those that the server infers; undefined if it infers all. */
  types: ReadonlyArray<number> | undefined,
  maxRows: number,
  options: Options,
  beginSettings: BeginSettings,
  onSend: (ownsTransaction: boolean) => void
): Exchange =>
  new OpenPortal(
    portal,
    isPreparable(text) ? text : withoutCopy(text),
    values,
    types,
    maxRows,
    options,
    beginSettings,
    onSend
  )

export const readPortal = (
  portal: string,
  description: RowDescription,
  text: string,
  maxRows: number,
  options: Options
): Exchange => new ReadPortal(portal, description, text, maxRows, options)

keepHiddenClass(new Statement("", [], { params: [], user: true, prepare: true }))
keepHiddenClass(new Query("", { user: false, commit: true }))
