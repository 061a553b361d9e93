/**
 * A TCP server that speaks PostgreSQL's protocol as badly as it is told to.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"

/** One message of the server: its letter, its length (the true one unless told), and the rest. */
export const message = (kind: string, body: string | Buffer = "", length?: number): Buffer => {
  const bytes = typeof body === "string" ? Buffer.from(body, "utf8") : body
  const header = Buffer.alloc(5)
  header.write(kind, 0, "latin1")
  header.writeUInt32BE(length ?? bytes.length + 4, 1)
  return Buffer.concat([header, bytes])
}

const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

/** The answer to the start-up: what is asked of the client, or that it is in. */
export const authentication = (code: number, rest: string | Buffer = ""): Buffer =>
  message("R", Buffer.concat([int32(code), Buffer.from(rest)]))

export const authenticationOk = authentication(0)
export const cleartext = authentication(3)
export const md5 = authentication(5, "salt")
export const sasl = authentication(10, "SCRAM-SHA-256\0\0")
export const parameterStatus = (name: string, value: string): Buffer => message("S", `${name}\0${value}\0`)
export const backendKey = message("K", Buffer.concat([int32(4242), int32(4711)]))
export const ready = (status = "I"): Buffer => message("Z", status)

/** An error, or a notice, of the fields given. */
export const problem = (fields: Readonly<Record<string, string>>, kind = "E"): Buffer =>
  message(kind, `${Object.entries(fields).map(([letter, text]) => `${letter}${text}\0`).join("")}\0`)

export const commandComplete = (tag: string): Buffer => message("C", `${tag}\0`)

/** One column of text, with this name. */
export const rowDescription = (name: string): Buffer =>
  message(
    "T",
    Buffer.concat([
      Buffer.from([0, 1]),
      Buffer.from(`${name}\0`),
      Buffer.from([...int32(0), 0, 0, 0, 0, 0, 25]),
      Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
    ])
  )

export const dataRow = (value: string): Buffer =>
  message("D", Buffer.concat([Buffer.from([0, 1]), int32(Buffer.byteLength(value)), Buffer.from(value)]))

/** All of a start-up that needs no password. */
export const welcome = Buffer.concat([
  authenticationOk,
  parameterStatus("server_version", "18.0"),
  backendKey,
  ready()
])

/** What it does with what one client sends; `nth` counts the pieces from 0. */
export type Script = (socket: Net.Socket, piece: Buffer, nth: number) => void

/** It listens on 127.0.0.1. */
export interface HostileServer {
  readonly url: string
  readonly port: number
  /** The connections that are open. */
  readonly sockets: ReadonlySet<Net.Socket>
}

/** The password in its URL. */
export const canary = "hunter2-canary-Pässwörd"

const asksForTls = (piece: Buffer): boolean => piece.length === 8 && piece.readUInt32BE(4) === 80877103

/**
 * A server that does as the script says; it closes with the scope. A client that asks for TLS is told that there is none,
 * unless `raw` leaves that too to the script.
 */
export const hostileServer = (script: Script, raw = false): Effect.Effect<HostileServer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      const listener = Net.createServer((socket) => {
        sockets.add(socket)
        socket.on("error", () => undefined)
        socket.on("close", () => sockets.delete(socket))
        let nth = 0
        socket.on("data", (piece) => {
          if (!raw && asksForTls(piece)) {
            socket.write("N")
          } else {
            script(socket, piece, nth++)
          }
        })
      })
      listener.listen(0, "127.0.0.1")
      await once(listener, "listening")
      const { port } = listener.address() as Net.AddressInfo
      const url = `postgres://someone:${encodeURIComponent(canary)}@127.0.0.1:${port}/db`
      return { listener, sockets, port, url }
    }),
    ({ listener, sockets }) =>
      Effect.sync(() => {
        listener.close()
        sockets.forEach((socket) => socket.destroy())
      })
  )
