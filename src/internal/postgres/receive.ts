/**
 * Dispatches the server's messages to the exchange that they belong to.
 */
import type { Exchange } from "./exchange.js"
import { maxNotices } from "./notices.js"
import type { ReportedParameters } from "./parameters.js"
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
import type { RowDescriptions } from "./protocol/rowDescription.js"
import { ownTypes } from "./types/registry.js"

/** The transaction status of ReadyForQuery: I (idle), T (in a transaction), E (in a failed transaction). */
export type TransactionStatus = "I" | "T" | "E"

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
    /** The settings that the server reports, which are updated here. */
    private readonly parameters: ReportedParameters,
    private readonly rowDescriptions: RowDescriptions,
    private readonly handlers: Handlers
  ) {}

  /** Throws MalformedMessage if the message is invalid. */
  receive(type: number, bytes: Buffer, offset: number, end: number): void {
    switch (type) {
      case messageTypes.dataRow:
        return this.current("a row")?.dataRow(bytes, offset, end)
      case messageTypes.copyData:
        return this.current("data")?.copyData(bytes, offset, end)
      case messageTypes.copyOut:
        return this.current("data")?.copyOutResponse()
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
        return this.current("an answer")?.bindComplete()
      case messageTypes.copyDone:
        return
      case messageTypes.parseComplete:
        return this.current("an answer")?.parseComplete()
      case messageTypes.rowDescription:
        return this.rowDescription(bytes, offset, end)
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
        throw new MalformedMessage(`it sent a message of unknown type 0x${type.toString(16)}`)
    }
  }

  /** The exchange that a message belongs to. A message of this kind without one is a protocol violation. */
  private current(kind: string): Exchange | undefined {
    const exchange = this.inFlight.at(0)
    if (exchange === undefined) {
      this.handlers.onLost(serverError("08P01", `the server sent ${kind} without being asked`))
    }
    return exchange
  }

  private rowDescription(bytes: Buffer, offset: number, end: number): void {
    const exchange = this.current("columns")
    const descriptions = exchange?.options.user === true ? this.rowDescriptions : ownTypes.rowDescriptions
    exchange?.rowDescription(descriptions.get(bytes, offset, end))
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

  /**
   * Keeps the first notices of an exchange, and notes the warning that a commit's wait for its synchronous standby was
   * canceled.
   */
  private notice(bytes: Buffer, offset: number, end: number): void {
    const exchange = this.inFlight.at(0)
    if (exchange === undefined) {
      return
    }
    if (exchange.notices !== undefined && exchange.notices.length >= maxNotices) {
      exchange.omittedNotices++
      if (!bytes.subarray(offset, end).includes(replicationRoutine, 0, "latin1")) {
        return
      }
    }
    const notice = parseErrorFields(bytes, offset, end)
    if (notice.routine === replicationRoutine) {
      exchange.unconfirmed = notice
      this.handlers.onUnconfirmed()
    } else if (exchange.omittedNotices === 0) {
      exchange.notices ??= []
      exchange.notices.push(notice)
    }
  }

  private parameterStatus(reader: Reader): void {
    const exchange = this.inFlight.at(0)
    const isBorrowerState = this.parameters.report(reader.text(), reader.text(), exchange?.options.user === true)
    if (exchange !== undefined && isBorrowerState && exchange.cleaned !== undefined) {
      // It was cleaned in the same message, and the server reports only the last value: the statement has set it.
      exchange.makesDirty = true
    }
  }
}
