/**
 * Dispatches the server's messages to the exchange that they belong to.
 */
import type { Exchange } from "./exchange.js"
import { serverError } from "./pg.js"
import {
  MalformedMessage,
  messageTypes,
  parseCommandTag,
  parseErrorFields,
  parseParameterDescription,
  Reader,
  type ServerError
} from "./protocol/messages.js"
import { rowDescriptionOf } from "./protocol/rowDescription.js"

/** The transaction status of ReadyForQuery: I (idle), T (in a transaction), E (in a failed transaction). */
export type TransactionStatus = "I" | "T" | "E"

/**
 * The reported settings whose values are kept. A server may report any number of them. These change when it is promoted
 * or reloads its configuration; a change of any other is taken for session state that a statement left.
 */
export const trackedParameters: ReadonlySet<string> = new Set(["in_hot_standby", "default_transaction_read_only"])

/** The server's function that waits for the synchronous standby after a commit. */
const replicationRoutine = "SyncRepWaitForLSN"

/** Handles the messages that concern the whole connection. */
interface Handlers {
  readonly onReadyForQuery: (status: TransactionStatus) => void
  readonly onNotification: (channel: string, payload: string) => void
  readonly onCopyIn: (exchange: Exchange) => void
  /** A commit was not confirmed by a synchronous standby. */
  readonly onUnconfirmed: () => void
  /** The connection cannot be used any more. */
  readonly onLost: (error: Error) => void
}

export class Receiver {
  constructor(
    /** The exchanges that were sent and are not complete. Messages belong to the first. */
    private readonly inFlight: ReadonlyArray<Exchange>,
    /** The values of the tracked parameters, which are updated here. */
    private readonly parameters: Map<string, string>,
    private readonly handlers: Handlers
  ) {}

  /** Throws MalformedMessage if the message is invalid. */
  receive(type: number, bytes: Buffer, offset: number, end: number): void {
    switch (type) {
      case messageTypes.dataRow:
        return this.current("a row")?.dataRow(bytes, offset, end)
      case messageTypes.commandComplete:
        return this.current("an answer")?.commandComplete(parseCommandTag(bytes, offset, end))
      case messageTypes.readyForQuery:
        return this.handlers.onReadyForQuery(String.fromCharCode(bytes[offset]) as TransactionStatus)
      case messageTypes.emptyQuery:
      case messageTypes.closeComplete:
        return this.current("an answer")?.completeWithoutResult()
      case messageTypes.notice:
        return this.notice(bytes, offset, end)
      case messageTypes.bindComplete:
      case messageTypes.copyOut:
      case messageTypes.copyData:
      case messageTypes.copyDone:
        return
      case messageTypes.parseComplete:
        return this.current("an answer")?.parseComplete()
      case messageTypes.rowDescription:
        return this.current("columns")?.rowDescription(rowDescriptionOf(bytes, offset, end))
      case messageTypes.noData:
        return this.current("an answer")?.rowDescription(null)
      case messageTypes.portalSuspended:
        return this.current("an answer")?.portalSuspended()
      case messageTypes.parameterDescription:
        return this.current("types")?.parameterDescription(parseParameterDescription(new Reader(bytes, offset, end)))
      case messageTypes.error:
        return this.errorResponse(parseErrorFields(bytes, offset, end))
      case messageTypes.parameterStatus:
        return this.parameterStatus(new Reader(bytes, offset, end))
      case messageTypes.notification: {
        // It begins with the process id of the notifying backend.
        const reader = new Reader(bytes, offset + 4, end)
        return this.handlers.onNotification(reader.text(), reader.text())
      }
      case messageTypes.copyIn: {
        const exchange = this.current("a request for data")
        return exchange === undefined ? undefined : this.handlers.onCopyIn(exchange)
      }
      default:
        throw new MalformedMessage(`it sent a message of the unknown kind ${type.toString(16)}`)
    }
  }

  /** The exchange that a message belongs to. A message of this kind without one is a protocol violation. */
  private current(kind: string): Exchange | undefined {
    const exchange = this.inFlight.at(0)
    if (exchange === undefined) {
      this.handlers.onLost(serverError("08P01", `the server sent ${kind} without having been asked`))
    }
    return exchange
  }

  /** An error outside of an exchange ends the connection: a shutdown, or the timeout of an idle transaction. */
  private errorResponse(error: ServerError): void {
    const exchange = this.inFlight.at(0)
    if (exchange === undefined || error.code === undefined) {
      this.handlers.onLost(error)
    } else {
      exchange.errorResponse(error)
    }
  }

  /** Only one notice matters: the wait of a commit for its synchronous standby was canceled. */
  private notice(bytes: Buffer, offset: number, end: number): void {
    const exchange = this.inFlight.at(0)
    if (exchange !== undefined && bytes.subarray(offset, end).includes(replicationRoutine, 0, "latin1")) {
      const warning = parseErrorFields(bytes, offset, end)
      if (warning.routine === replicationRoutine) {
        exchange.unconfirmed = warning
        this.handlers.onUnconfirmed()
      }
    }
  }

  private parameterStatus(reader: Reader): void {
    const name = reader.text()
    if (trackedParameters.has(name)) {
      this.parameters.set(name, reader.text())
    } else if (this.inFlight.at(0)?.options.user === true) {
      this.inFlight[0].makesDirty = true
    }
  }
}
