/**
 * What a connection can ask for in one round trip.
 */
import { keep } from "../hiddenClass.js"
import type { RowDescription } from "./protocol/rowDescription.js"
import { Exchange, type Options } from "./exchange.js"
import { isPlannable, type StatementCache } from "./statementCache.js"
import type { Encoded, Writer } from "./protocol/writer.js"

/** One or several statements without parameters. */
class Query extends Exchange {
  /** Whether only the steps have been sent: several statements cannot share their round trip. */
  private isLeading = false

  override follow(out: Writer): boolean {
    if (!this.isLeading || this.error !== undefined || this.abandoned) {
      return false
    }
    this.isLeading = false
    this.isAnswered = false
    this.writeSimply(out)
    return true
  }

  protected writeMain(out: Writer): void {
    if (this.steps.length === 0) {
      this.writeSimply(out)
    } else if (this.text.includes(";")) {
      this.isLeading = true
      out.sync()
    } else {
      this.writeBind(out, "", undefined, this.text, [])
      out.describePortal("").execute("", 0).sync()
    }
  }

  private writeSimply(out: Writer): void {
    this.isSimple = true
    out.query(this.text)
  }
}

/** One statement, with or without parameters. */
class Statement extends Exchange {
  constructor(text: string, private readonly values: ReadonlyArray<Encoded>, options: Options) {
    super(text, options)
  }

  override isPlain(): boolean {
    return this.steps.length === 0 && isPlannable(this.text)
  }

  protected writeMain(out: Writer, prepared: StatementCache): void {
    const entry = this.options.prepare === true ? this.named(prepared, this.text) : undefined
    if (prepared.wonders && isPlannable(this.text)) {
      this.ask(out, prepared)
    }
    this.writeBind(out, "", entry, this.text, this.values)
    if (entry?.columns === undefined || entry.columns?.isCurrent() === false) {
      out.describePortal("")
      this.entry = entry
    } else if (entry.columns !== null) {
      this.answer.columns = entry.columns
    }
    out.execute("", 0).sync()
  }
}

/** One statement whose parameters have types that the server could not find by itself. */
class TypedStatement extends Exchange {
  constructor(
    text: string,
    private readonly values: ReadonlyArray<Encoded>,
    types: ReadonlyArray<number>,
    options: Options
  ) {
    super(text, options)
    this.types = types
  }

  protected writeMain(out: Writer): void {
    out.parse("", this.text, this.types).bind("", "", this.values).describePortal("").execute("", 0).sync()
  }
}

/** Asks which types the parameters of a statement have, and does not run it. */
class DescribeParameters extends Exchange {
  protected writeMain(out: Writer): void {
    out.parse("", this.text, []).describeStatement("").sync()
  }
}

/** Opens a portal for a statement and reads its first rows. */
class OpenPortal extends Exchange {
  constructor(
    private readonly portal: string,
    text: string,
    private readonly values: ReadonlyArray<Encoded>,
    private readonly rows: number,
    options: Options
  ) {
    super(text, options)
  }

  protected writeMain(out: Writer): void {
    this.writeBind(out, this.portal, undefined, this.text, this.values)
    out.describePortal(this.portal).execute(this.portal, this.rows).sync()
  }
}

/** Reads a portal's next rows, whose columns the flight that opened it was told. */
class ReadPortal extends Exchange {
  constructor(
    private readonly portal: string,
    private readonly columns: RowDescription,
    text: string,
    private readonly rows: number,
    options: Options
  ) {
    super(text, options)
  }

  protected writeMain(out: Writer): void {
    this.answer.columns = this.columns
    out.execute(this.portal, this.rows).sync()
  }
}

/** Closes a portal; that it is gone already is no error. */
class ClosePortal extends Exchange {
  constructor(private readonly portal: string) {
    super("", { user: false })
  }

  protected writeMain(out: Writer): void {
    out.closePortal(this.portal).sync()
  }
}

/** Commands of our own, or a user's statements whose number is not known. */
export const query = (text: string, options: Options): Exchange => new Query(text, options)

/** One statement of a user; without parameters it may be several. */
export const statement = (text: string, values: ReadonlyArray<Encoded>, options: Options): Exchange =>
  values.length === 0 && (text.includes(";") || !isPlannable(text))
    ? new Query(text, options)
    : new Statement(text, values, options)

/** As `statement`, with the types of its parameters; zero where the server finds one. */
export const typedStatement = (
  text: string,
  values: ReadonlyArray<Encoded>,
  types: ReadonlyArray<number>,
  options: Options
): Exchange => new TypedStatement(text, values, types, options)

/** Learns the `types` of a statement's parameters. */
export const describeParameters = (text: string, options: Options): Exchange => new DescribeParameters(text, options)

export const openPortal = (
  portal: string,
  text: string,
  values: ReadonlyArray<Encoded>,
  rows: number,
  options: Options
): Exchange => new OpenPortal(portal, text, values, rows, options)

export const readPortal = (portal: string, columns: RowDescription, text: string, rows: number, options: Options): Exchange =>
  new ReadPortal(portal, columns, text, rows, options)

export const closePortal = (portal: string): Exchange => new ClosePortal(portal)

keep(new Statement("", [], { params: [], user: true, prepare: true }))
keep(new Query("", { user: false, commit: true }))
