/**
 * Opens a socket to a server, with TLS where required: for connections and for cancel requests.
 *
 * Its timeout uses the system's clock and not Effect's, since it limits what happens outside of the program. Its errors
 * have the texts of `pg`, and are classified like those.
 */
import * as Dns from "node:dns"
import * as Net from "node:net"
import type { ConnectionOptions, TLSSocket } from "node:tls"
import { NodeTls } from "../../nodeTls.js"
import { staggered } from "./staggered.js"
import { type Encryption, protocolName } from "./tls.js"

export interface OpenOptions {
  /** A host name, an address, or the directory of a Unix socket. */
  readonly host: string
  readonly port: number
  readonly encryption: Encryption
  /** Whether TLS begins at once, without an SSLRequest (libpq's `sslnegotiation=direct`). Default: false. */
  readonly isDirect?: boolean
  /** Called when TLS begins. What it throws is a failure of the stage `tls`. */
  readonly tls: () => ConnectionOptions
  /** Limits all of it: address lookup, connecting and the TLS handshake; in milliseconds. */
  readonly timeout: number
  /** Whether the process may exit before the socket is closed. */
  readonly background: boolean
  /** Called when the server has accepted the connection, ahead of the TLS handshake. */
  readonly onAccepted?: (() => void) | undefined
}

/** How to reach the server of a connection once more. */
export type Route = Omit<OpenOptions, "timeout" | "background" | "onAccepted">

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
/**
 * The answer of a server that cannot start a process for a connection: `E`, a text without a length, a line feed, a
 * zero.
 */
const plainError = /^E[^\0]+\n\0$/

/** A listener for errors of a socket that is no longer in use. Without one, an error would end the process. */
export const ignoreErrors = (): void => undefined

/**
 * The buffer that all sockets read into. A listener of `data` must consume or copy the bytes before it returns. By default
 * Node allocates 64 KiB for each read.
 */
const readBuffer = Buffer.allocUnsafe(65_536)

/** On Deno, TLS on a socket that reads into such a buffer never ends its handshake. */
const isShared = (encryption: Encryption): boolean => encryption === "plain" || process.versions.deno === undefined

const makeSocket = (encryption: Encryption): Net.Socket => {
  const options: Net.SocketConstructorOpts & Net.ConnectOpts = {
    onread: {
      buffer: readBuffer,
      callback: (length) => {
        socket.emit("data", readBuffer.subarray(0, length))
        return true
      }
    }
  }
  const socket = new Net.Socket(isShared(encryption) ? options : undefined)
  return socket
}

/** Where a socket is connected to: an address, or the path of a Unix socket. */
export type Address = { readonly host: string } | { readonly path: string }

const connectOptions = (address: Address, port: number): Net.NetConnectOpts =>
  "path" in address
    ? address
    : {
      host: address.host,
      port,
      // `staggered` tries the addresses of a name. Node would abandon each of them after 250 milliseconds.
      autoSelectFamily: false,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveDelay
    }

/**
 * Orders addresses as in RFC 8305 (section 4): the families alternate, beginning with that of the first address, so
 * that a family that does not work delays the connection once and not for each of its addresses.
 */
export const interleaveFamilies = (addresses: ReadonlyArray<Dns.LookupAddress>): ReadonlyArray<string> => {
  const first = addresses.filter(({ family }) => family === addresses[0].family)
  const second = addresses.filter(({ family }) => family !== addresses[0].family)
  const ordered: Array<string> = []
  for (let i = 0; i < Math.max(first.length, second.length); i++) {
    ordered.push(...[first.at(i), second.at(i)].flatMap((each) => each === undefined ? [] : [each.address]))
  }
  return ordered
}

/** The addresses of a host, in the order in which they are tried. */
export const lookUp = (
  host: string,
  port: number,
  onAddresses: (addresses: ReadonlyArray<Address>) => void,
  onFailure: (cause: Error) => void
): void => {
  if (host.startsWith("/")) {
    return onAddresses([{ path: `${host}/.s.PGSQL.${port}` }])
  }
  if (Net.isIP(host) !== 0) {
    return onAddresses([{ host }])
  }
  Dns.lookup(
    host,
    { all: true, verbatim: true },
    (error, addresses) =>
      error === null ? onAddresses(interleaveFamilies(addresses).map((host) => ({ host }))) : onFailure(error)
  )
}

/** Connects to one address. Returns a function that gives up. */
const connectTo = (
  address: Address,
  { background, encryption, port }: OpenOptions,
  onConnect: (socket: Net.Socket) => void,
  onFailure: (cause: Error) => void
): () => void => {
  const socket = makeSocket(encryption)
  const onError = (error: Error): void => onFailure(error)
  if (background) {
    socket.unref()
  }
  socket.on("error", ignoreErrors)
  socket.once("error", onError)
  socket.once("connect", () => {
    socket.off("error", onError)
    onConnect(socket)
  })
  try {
    socket.connect(connectOptions(address, port))
  } catch (cause) {
    // Node throws at an invalid port or path.
    process.nextTick(() => onFailure(cause as Error))
  }
  return () => {
    socket.off("error", onError)
    socket.destroy()
  }
}

const timeoutOf = (address: Address, port: number): Error => {
  const to = "path" in address ? address.path : `${address.host}:${port}`
  return Object.assign(new Error(`connect ETIMEDOUT ${to}`), { code: "ETIMEDOUT" })
}

/** One error for the addresses of a host. */
const combine = (errors: ReadonlyArray<Error>): Error => errors.length === 1 ? errors[0] : new AggregateError(errors)

/**
 * Calls exactly one of the two callbacks, unless the function that it returns is called first, which gives up.
 *
 * A name with several addresses is connected to through the first one that accepts, with attempts that overlap (RFC 8305).
 */
export const open = (
  options: OpenOptions,
  onOpen: (socket: Net.Socket) => void,
  onFailure: (failure: OpenFailure) => void
): () => void => {
  let settled = false
  let stage: "network" | "tls" = "network"
  /** The addresses that are tried, and the errors of those that have failed. Both are empty once one is connected. */
  let addresses: ReadonlyArray<Address> = []
  let errors: Array<Error | undefined> = []
  /** Destroys every socket that was opened. */
  let destroy = (): void => undefined

  const settle = (): boolean => {
    if (settled) {
      return false
    }
    settled = true
    clearTimeout(timer)
    return true
  }
  const fail = (failure: OpenFailure): void => {
    if (settle()) {
      destroy()
      onFailure(failure)
    }
  }
  const onTimeout = (): void => {
    const cause = addresses.length > 1
      ? combine(addresses.map((address, i) => errors[i] ?? timeoutOf(address, options.port)))
      : new Error("timeout expired")
    fail({ stage: "timeout", cause })
  }
  const onError = (error: Error): void => fail({ stage, cause: error })
  const onClose = (): void => fail({ stage, cause: new Error("Connection terminated unexpectedly") })

  const negotiate = (raw: Net.Socket): void => {
    let socket = raw
    options.onAccepted?.()
    addresses = []
    errors = []
    destroy = () => {
      socket.destroy()
      raw.destroy()
    }
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
        socket = NodeTls.connect({ ...options.tls(), socket: raw })
      } catch (cause) {
        return fail({ stage, cause: cause as Error })
      }
      socket.on("error", ignoreErrors)
      socket.on("error", onError)
      socket.on("close", onClose)
      socket.once("secureConnect", () => {
        // Without this check, the messages could be redirected to a server of another protocol.
        if (options.isDirect === true && (socket as TLSSocket).alpnProtocol !== protocolName) {
          const cause = new Error(
            `the server did not select ${protocolName} by ALPN, as sslnegotiation=direct requires`
          )
          return fail({ stage, cause: Object.assign(cause, { code: "ERR_SSL_NO_APPLICATION_PROTOCOL" }) })
        }
        succeed()
      })
    }
    raw.on("error", onError)
    raw.on("close", onClose)
    if (options.encryption === "plain") {
      return succeed()
    }
    if (options.isDirect === true) {
      return startTls()
    }
    raw.write(sslRequest)
    raw.once("data", (answer) => {
      // More than one byte is rejected: bytes after the answer were injected unencrypted (CVE-2021-23222).
      if (answer.length === 1 && answer[0] === sslAccepted) {
        return startTls()
      }
      if (answer.length === 1 && answer[0] === sslRejected) {
        return options.encryption === "offered"
          ? succeed()
          : fail({ stage: "tls", cause: new Error("The server does not support SSL connections") })
      }
      if (plainError.test(answer.toString())) {
        // The text is not shown, since its sender is not authenticated (CVE-2024-10977).
        const cause = new Error("the server cannot start a process for the connection")
        return fail({ stage: "network", cause: Object.assign(cause, { code: "57P03", severity: "FATAL" }) })
      }
      fail({ stage: "network", cause: new Error("received invalid response to the request for TLS") })
    })
  }

  const timer = setTimeout(onTimeout, options.timeout)
  if (options.background) {
    timer.unref()
  }
  lookUp(
    options.host,
    options.port,
    (found) => {
      if (settled) {
        return
      }
      addresses = found
      destroy = staggered<Net.Socket, Error>({
        count: found.length,
        start: (index, onConnect, onFailure) =>
          connectTo(found[index], options, onConnect, (error) => {
            errors[index] = error
            onFailure(error)
          }),
        isFinal: () => false,
        onSuccess: negotiate,
        onFailure: (causes) => fail({ stage, cause: combine(causes) })
      })
    },
    (cause) => fail({ stage, cause })
  )
  return () => {
    if (settle()) {
      destroy()
    }
  }
}
