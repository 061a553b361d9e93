/**
 * What shares one round trip: from what is written to the ReadyForQuery that answers it.
 */
import { type RowDescription, type RowMode, textsOf } from "./protocol/rowDescription.js"
import { Malformed, type ServerError } from "./protocol/messages.js"
import { serverError } from "./pg.js"
import type { Entry, StatementCache } from "./statementCache.js"
import type { Encoded, Writer } from "./protocol/writer.js"

/** What a flight's errors say of it, and how it may be treated. */
export interface Options {
  readonly params?: ReadonlyArray<unknown> | undefined
  readonly rowMode?: RowMode
  /**
   * A user's statement may run for long, so it is cancelled when it is interrupted, and it may leave something on the
   * connection. What is not a user's ends soon or never.
   */
  readonly user: boolean
  /** Whether losing the connection under way means that nobody knows whether it was committed. */
  readonly commit?: boolean
  /** Whether it may be prepared by a name. */
  readonly prepare?: boolean
}

/** A command that goes ahead of another: if it fails, the server leaves out what follows. */
export interface Step {
  readonly text: string
  /** Whether it begins a transaction. */
  readonly begins?: boolean
  readonly onRow?: (values: ReadonlyArray<string | null>) => void
}

/** What one command answered. */
export interface Answer {
  readonly rows: Array<object>
  columns: RowDescription | undefined
  /** Undefined until the command has completed. */
  tag: string | undefined
}

/** Commands, by the first word of their tags, that may leave something on the connection. */
const leaving = /^(?:SET|RESET|LISTEN|PREPARE|DECLARE|DO)\b/
/** CREATE TABLE AS and SELECT INTO answer as SELECT does, but without columns. */
const creating = /^(?:CREATE|SELECT)\b/
const temporary = /temp/i
/** These end a transaction whatever follows, and so does a rollback after which another begins. */
const ending = /^(?:COMMIT|PREPARE TRANSACTION)$/
const gap = String.raw`(?:\s|/\*[\s\S]*?\*/|--[^\n]*(?:\n|$))+`
const chaining = new RegExp(`\\b(?:ROLLBACK|ABORT)(?:${gap}(?:WORK|TRANSACTION))?${gap}AND${gap}CHAIN\\b`, "i")
const beginning = /^(?:BEGIN|START TRANSACTION)$/
/** After these the server may know nothing of what was prepared. */
const forgetting = /^(?:DISCARD ALL|DEALLOCATE)\b/

const backendStep = "SELECT pg_catalog.pg_backend_pid()"

const noAnswer = (): Answer => ({ rows: [], columns: undefined, tag: undefined })

/** In place of what was handed over. */
const gone: Answer = noAnswer()

/** One exchange. It lands once: when the server is ready again, or when the connection is lost. */
export abstract class Exchange {
  /** Called once, when it has landed; `lost` is why there is no answer. */
  land: (lost: Error | undefined) => void = () => undefined
  /** How many savepoints were open when it was given. */
  depth = 0
  /** What goes ahead of it. */
  steps: ReadonlyArray<Step> = []
  answer: Answer = noAnswer()
  /** All answers where there were several commands. */
  answers: Array<Answer> | undefined = undefined
  /** The first failure: the server's, or of turning a row's values into JavaScript's. */
  error: ServerError | undefined = undefined
  sent = false
  landed = false
  abandoned = false
  /** Whether it stopped at the number of rows that it asked for. */
  suspended = false
  /** Whether it may have left something on the connection that outlives its transaction. */
  dirties = false
  /** Whether what was prepared is not to be used any more: the server has forgotten it, or a table hides another. */
  forgets = false
  /** Whether the transaction that it was given in is over, also where another has begun since. */
  endsTransaction = false
  /** The rows' size on the wire. */
  bytes = 0
  /** Of the parameters, where they were asked for. */
  types: ReadonlyArray<number> = []
  /** Whether something of it runs by a name. */
  isNamed = false
  /** Whether the server has said anything of it: it is never ready without. */
  isAnswered = false
  /** How many of the steps have been answered. */
  private stepsDone = 0
  /** What the server is asked to parse, in this order; undefined is what gets no name. */
  private readonly parsing: Array<Entry | undefined> = []
  /** Waits for the columns that the server describes. */
  protected entry: Entry | undefined = undefined
  /** Whether what was sent last is in the simple protocol. */
  protected isSimple = false
  /** Whether a command of it was answered with ROLLBACK, which may also be to a savepoint. */
  private hasRolledBack = false
  /** Names have failed it once. */
  private unnamed = false

  constructor(readonly text: string, readonly options: Options) {}

  /** Whether a transaction begins with it. */
  get begins(): boolean {
    return this.steps.some(({ begins }) => begins === true)
  }

  /** Whether another may be sent before this one is answered, which then cannot depend on what becomes of it. */
  isPlain(): boolean {
    return false
  }

  write(out: Writer, prepared: StatementCache): void {
    this.sent = true
    prepared.wonders = false
    for (const name of prepared.closing.splice(0)) {
      out.closeStatement(name)
    }
    for (const step of this.steps) {
      this.writeStep(out, step, this.named(prepared, step.text))
    }
    this.writeMain(out, prepared)
  }

  /** Goes on if it has waited for the steps to succeed. */
  follow(_out: Writer): boolean {
    return false
  }

  /** Nobody waits for the answer any more, so that it is read and forgotten. */
  abandon(): void {
    this.abandoned = true
    this.answer = noAnswer()
    this.answers = undefined
  }

  /**
   * Lets go of its answer, which has been handed over. It and what is called when it lands know of each other, and V8 was
   * seen to keep those until it goes through the whole heap, with all rows of a long stream.
   */
  release(): void {
    this.answer = gone
    this.answers = undefined
  }

  /** Begins anew, without names. */
  renew(): void {
    this.unnamed = true
    this.isNamed = false
    this.answer = noAnswer()
    this.answers = undefined
    this.error = undefined
    this.isAnswered = false
    this.stepsDone = 0
    this.entry = undefined
  }

  /** The server is ready: what it was to parse and has not is not known to it. */
  ended(): void {
    for (const entry of this.parsing) {
      if (entry !== undefined) {
        entry.state = "stale"
      }
    }
    this.parsing.length = 0
  }

  /** Whether nothing of it was done. */
  get isUntouched(): boolean {
    return this.stepsDone === 0 && this.answer.tag === undefined && this.answers === undefined
  }

  parseComplete(): void {
    const entry = this.parsing.shift()
    if (entry !== undefined) {
      entry.state = "known"
    }
  }

  /** Null says that there are no rows. */
  described(columns: RowDescription | null): void {
    if (columns !== null) {
      this.nextAnswer()
      this.answer.columns = columns
    }
    if (this.entry !== undefined) {
      this.entry.columns = columns
    }
  }

  /** Throws Malformed at what is no row. */
  dataRow(bytes: Buffer, at: number, end: number): void {
    this.bytes += end - at
    if (this.stepsDone < this.steps.length) {
      this.steps[this.stepsDone].onRow?.(textsOf(bytes, at, end))
      return
    }
    const { columns, rows } = this.answer
    if (this.abandoned || this.error !== undefined) {
      return
    }
    if (columns === undefined) {
      throw new Malformed("it sent a row without a word of its columns")
    }
    try {
      rows.push(columns.read(this.options.rowMode, bytes, at, end))
    } catch (error) {
      if (error instanceof Malformed) {
        throw error
      }
      // Its message may hold what could not be read.
      this.error = serverError("22000", `a value of a row cannot be read: ${(error as Error).name}`)
    }
  }

  completed(tag: string): void {
    this.isAnswered = true
    if (this.stepsDone < this.steps.length) {
      this.stepsDone++
      return
    }
    this.nextAnswer()
    this.answer.tag = tag
    const shadows = this.answer.columns === undefined && creating.test(tag) && temporary.test(this.text)
    this.dirties ||= shadows || leaving.test(tag)
    this.forgets ||= shadows || forgetting.test(tag)
    this.endsTransaction ||= ending.test(tag) || (tag === "ROLLBACK" && chaining.test(this.text)) ||
      (this.hasRolledBack && beginning.test(tag))
    this.hasRolledBack ||= tag === "ROLLBACK"
  }

  /** It has done what it was asked for, and there is no more to say of that. */
  done(): void {
    this.isAnswered = true
  }

  /** It stopped at the number of rows that it asked for. */
  suspends(): void {
    this.isAnswered = true
    this.suspended = true
  }

  hasTypes(types: ReadonlyArray<number>): void {
    this.isAnswered = true
    this.types = types
  }

  failed(error: ServerError): void {
    this.isAnswered = true
    this.error ??= error
  }

  /** There is nothing to copy from here. */
  copyIn(out: Writer): void {
    out.copyFail("COPY FROM STDIN has nothing to read from here")
    if (!this.isSimple) {
      // The server has taken the Sync that followed for a part of the data.
      out.sync()
    }
  }

  protected abstract writeMain(out: Writer, prepared: StatementCache): void

  /** Asks for a statement to be run, by its name if there is one. */
  protected writeBind(
    out: Writer,
    portal: string,
    entry: Entry | undefined,
    text: string,
    values: ReadonlyArray<Encoded>
  ): void {
    if (entry === undefined) {
      out.parse("", text, []).bind(portal, "", values)
      this.parsing.push(undefined)
      return
    }
    this.isNamed = true
    if (entry.state === "stale") {
      out.closeStatement(entry.name)
    }
    if (entry.state !== "known") {
      out.parse(entry.name, text, [])
      entry.state = "sent"
      this.parsing.push(entry)
    }
    out.bind(portal, entry.name, values)
  }

  /** What a text is to be run by, if names may be used. */
  protected named(prepared: StatementCache, text: string): Entry | undefined {
    return this.unnamed ? undefined : prepared.use(text)
  }

  private writeStep(out: Writer, step: Step, entry: Entry | undefined): void {
    this.writeBind(out, "", entry, step.text, [])
    out.execute("", 0)
  }

  /** Finds out with this flight where the connection leads. */
  protected ask(out: Writer, prepared: StatementCache): void {
    const step: Step = { text: backendStep, onRow: ([backend]) => prepared.answeredBy(Number(backend)) }
    this.steps = [...this.steps, step]
    this.writeStep(out, step, undefined)
  }

  private nextAnswer(): void {
    if (this.answer.tag !== undefined) {
      this.answers ??= [this.answer]
      this.answer = noAnswer()
      this.answers.push(this.answer)
    }
  }
}
