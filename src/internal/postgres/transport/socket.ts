/**
 * Opens a socket to a server, with TLS where required: for connections and for cancel requests.
 *
 * Its timeout uses the system's clock and not Effect's, since it limits what happens outside of the program. Its errors
 * have the texts of `pg`, and are classified like those.
 */
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { Encryption } from "./tls.js"

export interface OpenOptions {
  /** A host name, an address, or the directory of a Unix socket. */
  readonly host: string
  readonly port: number
  readonly encryption: Encryption
  /** Called when TLS begins. What it throws is a failure of the stage `tls`. */
  readonly tls: () => Tls.ConnectionOptions
  /** Limits all of it: address lookup, connecting and the TLS handshake; in milliseconds. */
  readonly timeout: number
  /** Whether the process may exit before the socket is closed. */
  readonly background: boolean
}

/** How to reach the server of a connection once more. */
export type Route = Omit<OpenOptions, "timeout" | "background">

export interface OpenFailure {
  /** `tls` means that the two sides did not agree on encryption, which another attempt does not change. */
  readonly stage: "network" | "tls" | "timeout"
  readonly cause: Error
}

/** How long a connection is idle before the kernel sends TCP keep-alive probes, in milliseconds. */
const keepAliveDelay = 30_000

const sslRequest = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])
/** The server's answers to an SSLRequest: `S` and `N`. */
const sslAccepted = 0x53
const sslRejected = 0x4e

/** A listener for errors of a socket that is no longer in use. Without one, an error would end the process. */
export const ignoreErrors = (): void => undefined

/**
 * The buffer that all sockets read into. A listener of `data` must consume or copy the bytes before it returns. By default
 * Node allocates 64 KiB for each read.
 */
const readBuffer = Buffer.allocUnsafe(65_536)

const makeSocket = (): Net.Socket => {
  const options: Net.SocketConstructorOpts & Net.ConnectOpts = {
    onread: {
      buffer: readBuffer,
      callback: (length) => {
        socket.emit("data", readBuffer.subarray(0, length))
        return true
      }
    }
  }
  const socket = new Net.Socket(options)
  return socket
}

const connectOptions = ({ host, port }: OpenOptions): Net.NetConnectOpts =>
  host.startsWith("/")
    ? { path: `${host}/.s.PGSQL.${port}` }
    : {
      host,
      port,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveDelay
    }

/** Calls exactly one of the two callbacks, unless the function that it returns is called first, which gives up. */
export const open = (
  options: OpenOptions,
  onOpen: (socket: Net.Socket) => void,
  onFailure: (failure: OpenFailure) => void
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
  const destroy = (): void => {
    socket.destroy()
    raw.destroy()
  }
  const fail = (failure: OpenFailure): void => {
    if (settle()) {
      destroy()
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
  const startTls = (): void => {
    stage = "tls"
    try {
      socket = Tls.connect({ ...options.tls(), socket: raw })
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
    options.timeout
  )
  if (options.background) {
    timer.unref()
    raw.unref()
  }
  raw.on("error", ignoreErrors)
  raw.on("error", onError)
  raw.on("close", onClose)
  raw.once("connect", () => {
    if (options.encryption === "plain") {
      return succeed()
    }
    raw.write(sslRequest)
    raw.once("data", (answer) => {
      // More than one byte is rejected: bytes behind the answer were injected unencrypted (CVE-2021-23222).
      if (answer.length === 1 && answer[0] === sslAccepted) {
        return startTls()
      }
      if (answer.length === 1 && answer[0] === sslRejected) {
        return options.encryption === "offered"
          ? succeed()
          : fail({ stage: "tls", cause: new Error("The server does not support SSL connections") })
      }
      fail({ stage: "network", cause: new Error("received invalid response to the request for TLS") })
    })
  })
  try {
    raw.connect(connectOptions(options))
  } catch (cause) {
    // Node throws at an invalid port or path.
    process.nextTick(() => fail({ stage, cause: cause as Error }))
  }
  return () => {
    if (settle()) {
      destroy()
    }
  }
}
