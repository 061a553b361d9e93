/**
 * Asks the server to stop what a connection runs, on a socket of its own.
 */
import * as Socket from "./socket.js"

/** Which connection, by what the server said at its start. */
export interface Key {
  readonly processId: number
  readonly secret: number
}

/** How long the request itself may take; a slow one goes on after nobody waits for it, so that the statement ends. */
const timeout = 5_000

const message = (key: Key): Buffer => {
  const buffer = Buffer.alloc(16)
  buffer.writeInt32BE(16, 0)
  buffer.writeInt32BE(80877102, 4)
  buffer.writeInt32BE(key.processId, 8)
  buffer.writeInt32BE(key.secret, 12)
  return buffer
}

/**
 * `onSent` is called when the request is sent, `onOver` when the server has closed the socket, which it does when it has
 * sent the signal, or when the request could not be sent. Returns how to give up, which works until it is sent.
 */
export const request = (
  to: Socket.Route,
  key: Key,
  onSent: () => void,
  onOver: () => void
): () => void =>
  Socket.open(
    { ...to, timeout, background: true },
    (socket) => {
      const timer = setTimeout(() => socket.destroy(), timeout)
      timer.unref()
      socket.once("close", () => {
        clearTimeout(timer)
        onOver()
      })
      // Without a reader the end would never be seen.
      socket.resume()
      onSent()
      socket.write(message(key))
    },
    onOver
  )
