/**
 * What the server says, passed on to the flight that it answers.
 */
import { columnsOf } from "./protocol/rowDescription.js"
import type { Exchange } from "./exchange.js"
import { Reader, errorOf, kinds, Malformed, type ServerError, tagOf, typesOf } from "./protocol/messages.js"
import { serverError } from "./pg.js"

/** As ReadyForQuery says: in no transaction, in one, in one that failed. */
export type Transaction = "I" | "T" | "E"

/**
 * The settings that are kept: no more, since a server may report any number. They change when it is promoted or reloads
 * its configuration, not by what a borrower does.
 */
export const serversOwn: ReadonlySet<string> = new Set(["in_hot_standby", "default_transaction_read_only"])

/** What its connection makes of what is not for a flight alone. */
interface Line {
  readonly ready: (transaction: Transaction) => void
  readonly notified: (channel: string, payload: string) => void
  /** Asks for data that there are none of. */
  readonly copyIn: (flight: Exchange) => void
  readonly lose: (error: Error) => void
}

export class Receiver {
  constructor(
    /** What is under way; the first is being answered. */
    private readonly sent: ReadonlyArray<Exchange>,
    /** What the server says of its settings; kept up to date. */
    private readonly parameters: Map<string, string>,
    private readonly line: Line
  ) {}

  /** Throws Malformed where a message is none. */
  receive(kind: number, bytes: Buffer, at: number, end: number): void {
    switch (kind) {
      case kinds.dataRow:
        return this.during("a row")?.dataRow(bytes, at, end)
      case kinds.commandComplete:
        return this.during("an answer")?.completed(tagOf(bytes, at, end))
      case kinds.readyForQuery:
        return this.line.ready(String.fromCharCode(bytes[at]) as Transaction)
      case kinds.emptyQuery:
      case kinds.closeComplete:
        return this.during("an answer")?.done()
      case kinds.bindComplete:
      case kinds.notice:
      case kinds.copyOut:
      case kinds.copyData:
      case kinds.copyDone:
        return
      case kinds.parseComplete:
        return this.during("an answer")?.parseComplete()
      case kinds.rowDescription:
        return this.during("columns")?.described(columnsOf(bytes, at, end))
      case kinds.noData:
        return this.during("an answer")?.described(null)
      case kinds.portalSuspended:
        return this.during("an answer")?.suspends()
      case kinds.parameterDescription:
        return this.during("types")?.hasTypes(typesOf(new Reader(bytes, at, end)))
      case kinds.error:
        return this.failed(errorOf(bytes, at, end))
      case kinds.parameterStatus:
        return this.parameter(new Reader(bytes, at, end))
      case kinds.notification: {
        const cursor = new Reader(bytes, at + 4, end)
        return this.line.notified(cursor.text(), cursor.text())
      }
      case kinds.copyIn: {
        const flight = this.during("a request for data")
        return flight === undefined ? undefined : this.line.copyIn(flight)
      }
      default:
        throw new Malformed(`it sent a message of the unknown kind ${kind.toString(16)}`)
    }
  }

  /** The flight that is being answered; nothing may be said where there is none. */
  private during(kind: string): Exchange | undefined {
    const flight = this.sent.at(0)
    if (flight === undefined) {
      this.line.lose(serverError("08P01", `the server sent ${kind} without having been asked`))
    }
    return flight
  }

  /** An error that nobody asked for is the server's last word: it shuts down, or the transaction idled too long. */
  private failed(error: ServerError): void {
    const flight = this.sent.at(0)
    if (flight === undefined || error.code === undefined) {
      this.line.lose(error)
    } else {
      flight.failed(error)
    }
  }

  private parameter(cursor: Reader): void {
    const name = cursor.text()
    if (serversOwn.has(name)) {
      this.parameters.set(name, cursor.text())
    } else if (this.sent.at(0)?.options.user === true) {
      this.sent[0].dirties = true
    }
  }
}
