/**
 * What listens on a port of the loopback interface.
 */
import * as Effect from "effect/Effect"
import * as Net from "node:net"

/** The code of the error that connecting to a port ends with. Undefined if the connection is accepted. */
export const connectError = (port: number): Effect.Effect<string | undefined> =>
  Effect.async((resume) => {
    const socket = Net.connect(port, "127.0.0.1")
    const answer = (code: string | undefined) => {
      socket.destroy()
      resume(Effect.succeed(code))
    }
    socket.once("connect", () => answer(undefined))
    socket.once("error", ({ code, message }: NodeJS.ErrnoException) => answer(code ?? message))
  })
