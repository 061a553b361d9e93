/**
 * What shares one round trip: from what is written to the ReadyForQuery that answers it.
 */
import type { CommandComplete, DataRow, Result, RowDescription, RowMode } from "./pg.js"
import { makeResult, serverError } from "./pg.js"
import type { Wire } from "./wire.js"

/** A parameter as it goes over the wire. */
export type Encoded = Buffer | string | null

/** What a flight's errors say of it, and how it may be treated. */
export interface Options {
  readonly statement?: string | undefined
  readonly params?: ReadonlyArray<unknown> | undefined
  readonly rowMode?: RowMode
  /**
   * A user's statement may run for long, so it is cancelled when it is interrupted, and it may leave something on the
   * connection. What is not a user's ends soon or never.
   */
  readonly user: boolean
  /** Whether losing the connection under way means that nobody knows whether it was committed. */
  readonly commit?: boolean
}

/** Commands, by the first word of their tags, that may leave something on the connection. */
const leaving: ReadonlySet<string> = new Set(["SET", "RESET", "LISTEN", "PREPARE", "DECLARE", "DO"])

const temporary = /temp/i

/** One exchange. It lands once: when the server is ready again, or when the connection is lost. */
export class Flight {
  readonly options: Options
  readonly write: (wire: Wire) => void
  /** Called once, when it has landed; `lost` is why there is no answer. */
  land: (lost: Error | undefined) => void = () => undefined
  result: Result
  /** All results where one simple query held several commands. */
  results: Array<Result> | undefined = undefined
  /** The first failure: the server's, or of turning a row's values into JavaScript's. */
  error: Error | undefined = undefined
  sent = false
  landed = false
  /** Whether it stopped at the number of rows that it asked for. */
  suspended = false
  /** Whether it may have left something on the connection that outlives its transaction. */
  dirties = false
  /** The rows' size on the wire. */
  bytes = 0
  private readonly extended: boolean
  /** Whether the columns of the command under way are known. */
  described = false
  private abandoned = false

  constructor(write: (wire: Wire) => void, extended: boolean, options: Options) {
    this.write = write
    this.extended = extended
    this.options = options
    this.result = makeResult(options.rowMode)
  }

  /** Nobody waits for the answer any more, so that it is read and forgotten. */
  abandon(): void {
    this.abandoned = true
    this.result = makeResult(undefined)
    this.results = undefined
  }

  rowDescription(message: RowDescription): void {
    this.nextCommand()
    this.described = true
    this.result.addFields(message.fields)
  }

  dataRow(message: DataRow): void {
    this.bytes += message.length
    if (this.abandoned || this.error !== undefined) {
      return
    }
    try {
      this.result.addRow(this.result.parseRow(message.fields))
    } catch (error) {
      // Its message may hold what could not be read.
      this.error = serverError("22000", `a value of a row cannot be read: ${(error as Error).name}`)
    }
  }

  commandComplete(message: CommandComplete): void {
    this.nextCommand()
    this.result.addCommandComplete(message)
    const command = this.result.command
    // CREATE TABLE AS and SELECT INTO answer as SELECT does, but without columns.
    const creates = command === "CREATE" || (command === "SELECT" && !this.described)
    if (leaving.has(command) || (creates && temporary.test(this.options.statement ?? ""))) {
      this.dirties = true
    }
    this.described = false
  }

  errorResponse(error: Error): void {
    this.error ??= error
  }

  copyIn(wire: Wire): void {
    wire.sendCopyFail("COPY FROM STDIN has nothing to read from here")
    if (this.extended) {
      // The server has taken the Sync that followed for a part of the data.
      wire.sync()
    }
  }

  private nextCommand(): void {
    if (this.result.command !== null) {
      this.results ??= [this.result]
      this.result = makeResult(this.options.rowMode)
      this.results.push(this.result)
    }
  }
}

const corked = (wire: Wire, write: () => void): void => {
  wire.stream.cork()
  write()
  wire.stream.uncork()
}

/** One or several statements without parameters. */
export const simple = (text: string, options: Options): Flight => new Flight((wire) => wire.query(text), false, options)

/** One statement with parameters. */
export const extended = (text: string, values: ReadonlyArray<Encoded>, options: Options): Flight =>
  new Flight(
    (wire) =>
      corked(wire, () => {
        wire.parse({ text })
        wire.bind({ values })
        wire.describe({ type: "P", name: "" })
        wire.execute({})
        wire.sync()
      }),
    true,
    options
  )

/** Opens a portal for a statement and reads its first rows. */
export const openPortal = (
  portal: string,
  text: string,
  values: ReadonlyArray<Encoded>,
  rows: number,
  options: Options
): Flight =>
  new Flight(
    (wire) =>
      corked(wire, () => {
        wire.parse({ text })
        wire.bind({ portal, values })
        wire.describe({ type: "P", name: portal })
        wire.execute({ portal, rows })
        wire.sync()
      }),
    true,
    options
  )

/** Reads a portal's next rows, whose columns the flight that opened it was told. */
export const readPortal = (portal: string, columns: RowDescription, rows: number, options: Options): Flight => {
  const flight = new Flight(
    (wire) =>
      corked(wire, () => {
        wire.execute({ portal, rows })
        wire.sync()
      }),
    true,
    options
  )
  flight.rowDescription(columns)
  return flight
}

/** Closes a portal; that it is gone already is no error. */
export const closePortal = (portal: string): Flight =>
  new Flight(
    (wire) =>
      corked(wire, () => {
        wire.close({ type: "P", name: portal })
        wire.sync()
      }),
    true,
    { user: false }
  )
