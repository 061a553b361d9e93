/**
 * Sends a CancelRequest: asks the server, on a socket of its own, to cancel what another connection is executing.
 *
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
 */
import * as Socket from "./socket.js"

/** Identifies a connection to the server: the contents of BackendKeyData. */
export interface BackendKey {
  readonly processId: number
  readonly secretKey: number
}

/** Limits opening the socket, and then waiting for the server to close it; in milliseconds. */
const timeout = 5_000

const message = (key: BackendKey): Buffer => {
  const buffer = Buffer.alloc(16)
  buffer.writeInt32BE(16, 0)
  buffer.writeInt32BE(80877102, 4)
  buffer.writeInt32BE(key.processId, 8)
  buffer.writeInt32BE(key.secretKey, 12)
  return buffer
}

/**
 * Calls `onSent` when the request is sent, and `onComplete` when the server has closed the socket, which it does after it
 * has signalled the other connection's process, or when the request could not be sent.
 *
 * Returns a function that gives up. It has no effect once the request is sent, so that the statement still ends. Neither
 * the socket nor its timer keeps the process alive.
 */
export const send = (
  route: Socket.Route,
  key: BackendKey,
  onSent: () => void,
  onComplete: () => void
): () => void =>
  Socket.open(
    { ...route, timeout, background: true },
    (socket) => {
      const timer = setTimeout(() => socket.destroy(), timeout)
      timer.unref()
      socket.once("close", () => {
        clearTimeout(timer)
        onComplete()
      })
      // A socket that is not read from does not report its end.
      socket.resume()
      onSent()
      socket.write(message(key))
    },
    onComplete
  )
