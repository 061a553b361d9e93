/**
 * Start-up and authentication on a socket that is already open.
 *
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP
 */
import * as Crypto from "node:crypto"
import type { Socket } from "node:net"
import { textOf } from "../mask.js"
import { serverError } from "./pg.js"
import { isMalformed, MalformedMessage, messageTypes, parseErrorFields, Reader } from "./protocol/messages.js"
import { type MessageHandler, Parser } from "./protocol/parser.js"
import * as Messages from "./protocol/startupMessages.js"
import * as Scram from "./scram.js"
import type { BackendKey } from "./transport/cancelRequest.js"
import { ignoreErrors } from "./transport/socket.js"

/** The messages that a server sends during start-up only. */
const authenticationMessage = 0x52
const backendKeyData = 0x4b

/** What an authentication message asks for, or says. */
const authentication = {
  ok: 0,
  cleartextPassword: 3,
  md5Password: 5,
  sasl: 10,
  saslContinue: 11,
  saslFinal: 12
} as const

/** The requests for authentication that are not supported. */
const unsupported: { readonly [request: number]: string } = { 2: "Kerberos V5", 6: "SCM", 7: "GSSAPI", 9: "SSPI" }

const saltLength = 4

export interface StartupOptions {
  /** Only these are sent, and `client_encoding`. */
  readonly parameters: Readonly<Record<string, string>>
  readonly user: string
  /** Called when the server asks for the password. Throws if there is none. */
  readonly password: () => string
  /** Whether authentication is bound to the TLS connection where the server offers that (SCRAM-SHA-256-PLUS). */
  readonly bindsChannel: boolean
  /** Whether authentication fails unless it is bound to the TLS connection. */
  readonly requiresChannelBinding: boolean
  /** Called with each setting that the server reports. */
  readonly onParameter: (name: string, value: string) => void
  /** Called when the server is ready. It replaces the connection's listeners. */
  readonly onReady: (key: BackendKey | undefined) => void
}

/**
 * A connection's socket and the messages that arrive on it: those of start-up at first, then the pipeline's. Invalid messages
 * and messages out of order are errors for `onError`, since an exception in a socket's listener would end the process.
 */
export class StartupConnection {
  onMessage: MessageHandler = () => undefined
  onError: (error: Error) => void = ignoreErrors
  /** Called when the server has closed the connection, perhaps twice. */
  onEnd: () => void = () => undefined
  private isStarting = true

  constructor(readonly stream: Socket) {
    stream.on("error", (error) => this.onError(error))
    stream.on("end", () => this.onEnd())
    stream.on("close", () => this.onEnd())
    const parser = new Parser((type, bytes, offset, end) => this.onMessage(type, bytes, offset, end))
    stream.on("data", (chunk: Buffer) => {
      try {
        parser.parse(chunk)
      } catch (cause) {
        this.reject(cause)
      }
    })
  }

  /** Starts up. `onError` and `onEnd` have to be set. */
  start(options: StartupOptions): void {
    const startup = new Startup(this, {
      ...options,
      onReady: (key) => {
        this.isStarting = false
        options.onReady(key)
      }
    })
    this.onMessage = (type, bytes, offset, end) => startup.receive(type, bytes, offset, end)
    this.stream.write(Messages.startup(options.parameters))
  }

  /** Fails because of a message of the server. */
  reject(cause: unknown): void {
    // After start-up only malformed messages are shown: another exception may hold values.
    const isShown = isMalformed(cause) || this.isStarting
    const reason = isShown ? textOf(cause) : "it could not be handled"
    this.fail(new Error(`received invalid response: ${reason}`))
  }

  fail(error: Error): void {
    this.onError(error)
    this.stream.destroy()
  }
}

/** Answers the server's requests, and checks that it completes SCRAM, which proves that it knows the password. */
class Startup {
  private scram: Scram.Session | undefined
  private hasProof = false
  private isAuthenticated = false
  private backendKey: BackendKey | undefined

  constructor(private readonly connection: StartupConnection, private readonly options: StartupOptions) {}

  receive(type: number, bytes: Buffer, offset: number, end: number): void {
    // After a failure the other messages that have arrived are ignored.
    if (this.connection.stream.destroyed) {
      return
    }
    const reader = new Reader(bytes, offset, end)
    switch (type) {
      case authenticationMessage:
        return this.onAuthentication(reader.int32(), bytes.subarray(reader.offset, end))
      case messageTypes.parameterStatus:
        return this.options.onParameter(reader.text(), reader.text())
      case backendKeyData:
        this.backendKey = { processId: reader.int32(), secretKey: reader.int32() }
        return
      case messageTypes.notice:
      case messageTypes.notification:
        return
      case messageTypes.error:
        return this.connection.fail(parseErrorFields(bytes, offset, end))
      case messageTypes.readyForQuery:
        if (!this.isAuthenticated) {
          throw new MalformedMessage("it sent ReadyForQuery before authentication was complete")
        }
        return this.options.onReady(this.backendKey)
      default:
        throw new MalformedMessage(`it sent a message of type ${type} during the start-up`)
    }
  }

  private onAuthentication(request: number, data: Buffer): void {
    if (this.isAuthenticated) {
      throw new MalformedMessage("it sent an authentication message after authentication was complete")
    }
    switch (request) {
      case authentication.ok:
        return this.onOk()
      case authentication.cleartextPassword:
        return this.answerUnbound("the password in cleartext", (password) => password)
      case authentication.md5Password: {
        if (data.length !== saltLength) {
          throw new MalformedMessage("it sent a salt of the wrong length")
        }
        const salt = Buffer.from(data)
        return this.answerUnbound("an MD5 hash of the password", (password) => {
          const hash = md5(password + this.options.user)
          return `md5${md5(hash, salt)}`
        })
      }
      case authentication.sasl:
        return this.onSasl(mechanismsOf(data))
      case authentication.saslContinue:
        return this.onSaslContinue(data.toString())
      case authentication.saslFinal:
        return this.onSaslFinal(data.toString())
      default:
        throw new MalformedMessage(
          request in unsupported
            ? `it asked for authentication with ${unsupported[request]}, which is not supported`
            : `it asked for authentication of type ${request}`
        )
    }
  }

  private onOk(): void {
    if (this.options.requiresChannelBinding && !this.hasProof) {
      return this.rejectUnbound("let the user in without proving that it knows the password")
    }
    if (this.scram !== undefined && !this.hasProof) {
      throw new MalformedMessage("it did not prove that it knows the password")
    }
    this.isAuthenticated = true
  }

  /** Answers a request without channel binding: a man in the middle could use the answer elsewhere. */
  private answerUnbound(asked: string, answer: (password: string) => string): void {
    if (this.options.requiresChannelBinding) {
      return this.rejectUnbound(`asks for ${asked}`)
    }
    this.attempt(() => this.write(Messages.password(answer(this.options.password()))))
  }

  private onSasl(mechanisms: ReadonlyArray<string>): void {
    const { bindsChannel, password, requiresChannelBinding } = this.options
    if (this.scram !== undefined) {
      throw new MalformedMessage("it began SCRAM twice")
    }
    if (requiresChannelBinding && !mechanisms.includes("SCRAM-SHA-256-PLUS")) {
      return this.rejectUnbound("does not offer SCRAM-SHA-256-PLUS")
    }
    this.attempt(() => {
      // Fails at once if there is no password.
      password()
      this.scram = Scram.begin(mechanisms, bindsChannel)
      this.write(Messages.saslInitialResponse(this.scram.mechanism, Scram.firstMessage(this.scram)))
    })
  }

  private onSaslContinue(message: string): void {
    const { scram } = this
    if (scram === undefined) {
      throw new MalformedMessage("it sent AuthenticationSASLContinue before SCRAM had begun")
    }
    this.attempt(() => {
      Scram.answer(scram, this.options.password(), message, this.connection.stream).then(
        (answer) => this.write(Messages.saslResponse(answer)),
        (error) => this.connection.fail(error)
      )
    })
  }

  private onSaslFinal(message: string): void {
    const { scram } = this
    if (scram === undefined) {
      throw new MalformedMessage("it sent AuthenticationSASLFinal before SCRAM had begun")
    }
    this.attempt(() => {
      Scram.verify(scram, message)
      this.hasProof = true
    })
  }

  private rejectUnbound(reason: string): void {
    this.connection.fail(serverError("28000", `channel_binding is require, but the server ${reason}`))
  }

  private attempt(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.connection.fail(error as Error)
    }
  }

  private write(message: Buffer): void {
    if (this.connection.stream.writable) {
      this.connection.stream.write(message)
    }
  }
}

/** OpenSSL has no MD5 where it is restricted to FIPS 140. */
const makeMd5 = (): Crypto.Hash => {
  try {
    return Crypto.createHash("md5")
  } catch (cause) {
    throw serverError(
      "28000",
      `the server asks for an MD5 hash of the password, but MD5 is not available: ${textOf(cause)}`
    )
  }
}

const md5 = (...parts: ReadonlyArray<string | Buffer>): string => {
  const hash = makeMd5()
  parts.forEach((part) => hash.update(part))
  return hash.digest("hex")
}

/** The names of the mechanisms, each followed by a zero byte; another zero byte ends the list. */
const mechanismsOf = (data: Buffer): ReadonlyArray<string> => {
  const reader = new Reader(data, 0, data.length)
  const mechanisms: Array<string> = []
  for (let name = reader.text(); name !== ""; name = reader.text()) {
    mechanisms.push(name)
  }
  return mechanisms
}
