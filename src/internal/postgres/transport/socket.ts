/**
 * Opens the socket to a server, encrypted where asked: the same for connections and for cancel requests.
 *
 * Times out on the machine's clock, not on Effect's: what it limits is real. The texts of its errors are `pg`'s, so that
 * they are classified as those are.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { Encryption } from "./tls.js"

/** Where to, and how. */
export interface Request {
  readonly host: string
  readonly port: number
  readonly encryption: Encryption
  readonly tls: () => Tls.ConnectionOptions
  /** In milliseconds. */
  readonly timeout: number
  /** Whether the process may end before this does. */
  readonly background: boolean
}

/** Where a connection leads, for requests about it. */
export type Route = Omit<Request, "timeout" | "background">

/** Why no socket could be opened. */
export interface Failure {
  /** `tls` is a failure to agree on encryption: never one that passes by itself. */
  readonly stage: "network" | "tls" | "timeout"
  readonly cause: Error
}

/** How long an idle connection is silent before the kernel asks the other side whether it is still there. */
const keepAliveDelay = 30_000

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
const offered = 0x53
const notOffered = 0x4e

/** A late error of a socket that nobody uses any more has no one to tell. */
export const ignoreErrors = (): void => undefined

/**
 * What all sockets read into, one after the other: who listens has taken what it needs when the next one reads. Node would
 * set aside 64 KiB for each piece.
 */
const pieces = Buffer.allocUnsafe(65_536)

const makeSocket = (): Net.Socket => {
  const options: Net.SocketConstructorOpts & Net.ConnectOpts = {
    onread: {
      buffer: pieces,
      callback: (length) => {
        socket.emit("data", pieces.subarray(0, length))
        return true
      }
    }
  }
  const socket = new Net.Socket(options)
  return socket
}

const address = (request: Request): Net.NetConnectOpts =>
  request.host.startsWith("/")
    ? { path: `${request.host}/.s.PGSQL.${request.port}` }
    : {
      host: request.host,
      port: request.port,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveDelay
    }

/** Calls back once, and returns how to give up, after which it never calls back. */
export const open = (
  request: Request,
  onOpen: (socket: Net.Socket) => void,
  onFailure: (failure: Failure) => void
): () => void => {
  let settled = false
  let stage: "network" | "tls" = "network"
  const raw = makeSocket()
  let socket = raw

  const settle = (): boolean => {
    if (settled) {
      return false
    }
    settled = true
    clearTimeout(timer)
    return true
  }
  const abandon = (): void => {
    socket.destroy()
    raw.destroy()
  }
  const fail = (failure: Failure): void => {
    if (settle()) {
      abandon()
      onFailure(failure)
    }
  }
  const onError = (error: Error): void => fail({ stage, cause: error })
  const onClose = (): void => fail({ stage, cause: new Error("Connection terminated unexpectedly") })
  const succeed = (): void => {
    if (settle()) {
      raw.off("close", onClose)
      socket.off("close", onClose)
      onOpen(socket)
    }
  }
  const encrypt = (): void => {
    stage = "tls"
    try {
      socket = Tls.connect({ ...request.tls(), socket: raw })
    } catch (cause) {
      return fail({ stage, cause: cause as Error })
    }
    socket.on("error", ignoreErrors)
    socket.on("error", onError)
    socket.on("close", onClose)
    socket.once("secureConnect", succeed)
  }

  const timer = setTimeout(
    () => fail({ stage: "timeout", cause: new Error("timeout expired") }),
    request.timeout
  )
  if (request.background) {
    timer.unref()
    raw.unref()
  }
  raw.on("error", ignoreErrors)
  raw.on("error", onError)
  raw.on("close", onClose)
  raw.once("connect", () => {
    if (request.encryption === "plain") {
      return succeed()
    }
    raw.write(sslRequest)
    raw.once("data", (answer) => {
      // Whatever follows the answer unencrypted was put there by someone in between.
      if (answer.length === 1 && answer[0] === offered) {
        return encrypt()
      }
      if (answer.length === 1 && answer[0] === notOffered) {
        return request.encryption === "offered"
          ? succeed()
          : fail({ stage: "tls", cause: new Error("The server does not support SSL connections") })
      }
      fail({ stage: "network", cause: new Error("received invalid response to the request for TLS") })
    })
  })
  try {
    raw.connect(address(request))
  } catch (cause) {
    // An address that cannot be one.
    process.nextTick(() => fail({ stage, cause: cause as Error }))
  }
  return () => {
    if (settle()) {
      abandon()
    }
  }
}
