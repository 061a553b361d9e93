import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import Crypto from "node:crypto"
import { once } from "node:events"
import type { Socket } from "node:net"
import { Duplex } from "node:stream"
import type { ServerError } from "../../../src/internal/postgres/protocol/messages.js"
import { fromPostgres } from "../../../src/internal/postgres/sqlState.js"
import { StartupConnection, type StartupOptions } from "../../../src/internal/postgres/startup.js"
import { replaceBuiltin } from "../../support/builtins.js"
import * as Hostile from "../../support/hostileServer.js"

const password = "pässword"

/** A start-up on a socket whose other end is the test. */
const startUp = (options: Partial<StartupOptions> = {}) => {
  const sent: Array<Buffer> = []
  const socket = new Duplex({
    read: () => undefined,
    write: (chunk, _encoding, callback) => {
      sent.push(chunk)
      socket.emit("sent")
      callback()
    }
  })
  const errors: Array<ServerError> = []
  const keys: Array<unknown> = []
  const parameters: Array<readonly [string, string]> = []
  const connection = new StartupConnection(socket as unknown as Socket)
  connection.onError = (error) => errors.push(error)
  connection.start({
    parameters: { user: "alice", database: "bank" },
    user: "alice",
    password: () => password,
    bindsChannel: false,
    requiresChannelBinding: false,
    onParameter: (name, value) => void parameters.push([name, value]),
    onReady: (key) => void keys.push(key),
    ...options
  })
  return {
    sent,
    socket,
    errors,
    keys,
    parameters,
    /** What the server sends, in one piece. */
    receives: (...messages: ReadonlyArray<Buffer>) => void socket.emit("data", Buffer.concat(messages)),
    /** The next message of the client: its text behind the header. */
    next: async (): Promise<string> => {
      if (sent.length < 2) {
        await once(socket, "sent")
      }
      const [message] = sent.splice(1, 1)
      assert.strictEqual(String.fromCharCode(message[0]), "p")
      assert.strictEqual(message.readInt32BE(1), message.length - 1)
      return message.toString("utf8", 5)
    }
  }
}

const hmac = (key: Buffer, text: string) => Crypto.createHmac("sha256", key).update(text).digest()

const salt = Buffer.from("0123456789abcdef")
const iterations = 4_096

/** A server's side of SCRAM-SHA-256, as RFC 5802 has it. */
const scramServer = (initial: string) => {
  const [mechanism] = initial.split("\0", 1)
  const message = Buffer.from(initial).subarray(mechanism.length + 5).toString()
  const [, header, bare, clientNonce] = /^(.*?,,)(n=\*,r=(.+))$/.exec(message)!
  const nonce = `${clientNonce}server`
  const first = `r=${nonce},s=${salt.toString("base64")},i=${iterations}`
  return {
    mechanism,
    header,
    challenge: Hostile.authentication(11, first),
    /** The server's proof, or an error if that of the client is wrong. */
    final: (answer: string): Buffer => {
      const [, withoutProof, binding, proof] = /^(c=(.*),r=[^,]*),p=(.*)$/.exec(answer)!
      assert.strictEqual(Buffer.from(binding, "base64").toString(), header)
      const auth = `${bare},${first},${withoutProof}`
      const salted = Crypto.pbkdf2Sync(password, salt, iterations, 32, "sha256")
      const stored = Crypto.createHash("sha256").update(hmac(salted, "Client Key")).digest()
      const key = Buffer.from(hmac(stored, auth).map((byte, i) => byte ^ Buffer.from(proof, "base64")[i]))
      assert.deepStrictEqual(Crypto.createHash("sha256").update(key).digest(), stored)
      return Hostile.authentication(12, `v=${hmac(hmac(salted, "Server Key"), auth).toString("base64")}`)
    }
  }
}

describe("start-up", () => {
  it("sends its parameters and the encoding, and nothing else", () => {
    const { receives, sent, ...found } = startUp()
    const body = "\0\x03\0\0user\0alice\0database\0bank\0client_encoding\0UTF8\0\0"
    assert.strictEqual(sent[0].readInt32BE(0), body.length + 4)
    assert.strictEqual(sent[0].toString("latin1", 4), body)
    receives(Hostile.welcome)
    assert.deepStrictEqual(found.parameters, [["server_version", "18.0"]])
    assert.deepStrictEqual(found.keys, [{ processId: 4242, secretKey: 4711 }])
    assert.lengthOf(sent, 1)
    assert.deepStrictEqual(found.errors, [])
  })

  it("hashes the password for MD5 with the user and the salt", async () => {
    const { keys, next, receives } = startUp()
    receives(Hostile.md5)
    const hash = (text: string) => Crypto.createHash("md5").update(text).digest("hex")
    assert.strictEqual(await next(), `md5${hash(`${hash("pässwordalice")}salt`)}\0`)
    receives(Hostile.welcome)
    assert.lengthOf(keys, 1)
  })

  it.scoped("says so where there is no MD5", () =>
    Effect.gen(function*() {
      yield* replaceBuiltin(Crypto, "createHash", () => () => {
        throw new Error("unsupported")
      })
      const { errors, receives, sent } = startUp()
      receives(Hostile.md5, Hostile.welcome)
      assert.deepStrictEqual(errors.map(({ code, message }) => [code, message]), [
        ["28000", "the server asks for an MD5 hash of the password, but MD5 is not available: unsupported"]
      ])
      assert.lengthOf(sent, 1)
    }))

  it.each([
    ["without TLS", false, ["SCRAM-SHA-256"], "n,,"],
    ["without TLS, where the server offers to bind", false, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], "n,,"],
    ["with TLS, where the server does not offer to bind", true, ["SCRAM-SHA-256"], "y,,"]
  ])("proves with SCRAM that it knows the password, %s", async (_, bindsChannel, mechanisms, header) => {
    const { errors, keys, next, receives } = startUp({ bindsChannel })
    receives(Hostile.authentication(10, `${mechanisms.join("\0")}\0\0`))
    const server = scramServer(await next())
    assert.deepStrictEqual([server.mechanism, server.header], ["SCRAM-SHA-256", header])
    receives(server.challenge)
    receives(server.final(await next()), Hostile.welcome)
    assert.deepStrictEqual(errors, [])
    assert.lengthOf(keys, 1)
  })

  it("begins to bind SCRAM to TLS where the server offers it, and not without the server's certificate", async () => {
    const { errors, next, receives, socket } = startUp({ bindsChannel: true, requiresChannelBinding: true })
    receives(Hostile.authentication(10, "SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0"))
    const server = scramServer(await next())
    assert.deepStrictEqual([server.mechanism, server.header], ["SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"])
    receives(server.challenge)
    await once(socket, "close")
    assert.deepStrictEqual(errors.map(({ message }) => message), ["SASL: the server's certificate is not known"])
  })

  describe("does not believe a server that", () => {
    /** A start-up in which the client has proved that it knows the password. */
    const proven = async () => {
      const started = startUp()
      started.receives(Hostile.sasl)
      const server = scramServer(await started.next())
      started.receives(server.challenge)
      return { ...started, final: server.final(await started.next()) }
    }

    it.each<readonly [string, (final: Buffer) => ReadonlyArray<Buffer>, string]>([
      ["proves nothing", () => [], "received invalid response: it did not prove that it knows the password"],
      [
        "proves something else",
        () => [Hostile.authentication(12, `v=${Buffer.alloc(32).toString("base64")}`)],
        "SASL: SCRAM-SERVER-FINAL-MESSAGE: server signature does not match"
      ],
      [
        "has an empty proof",
        () => [Hostile.authentication(12, "v=")],
        "SASL: SCRAM-SERVER-FINAL-MESSAGE: server signature does not match"
      ],
      [
        "has no proof",
        () => [Hostile.authentication(12, "x=1")],
        "SASL: SCRAM-SERVER-FINAL-MESSAGE: server signature does not match"
      ],
      [
        "reports an error",
        () => [Hostile.authentication(12, "e=other-error")],
        "SASL: SCRAM-SERVER-FINAL-MESSAGE: server returned error: \"other-error\""
      ],
      [
        "begins again after its proof",
        (final) => [final, Hostile.sasl],
        "received invalid response: it began SCRAM twice"
      ],
      [
        "asks for the password after it has let the user in",
        (final) => [final, Hostile.authenticationOk, Hostile.cleartext],
        "received invalid response: it sent an authentication message after authentication was complete"
      ]
    ])("%s", async (_, messages, expected) => {
      const { errors, final, keys, receives, socket } = await proven()
      receives(...messages(final), Hostile.welcome)
      assert.deepStrictEqual(errors.map(({ message }) => message), [expected])
      assert.deepStrictEqual(keys, [])
      assert.isTrue(socket.destroyed)
    })

    it.each<readonly [string, Buffer, string]>([
      [
        "completes SCRAM before it has asked",
        Hostile.authentication(12, "v="),
        "it sent AuthenticationSASLFinal before SCRAM had begun"
      ],
      [
        "answers SCRAM before it has asked",
        Hostile.authentication(11, "r=a"),
        "it sent AuthenticationSASLContinue before SCRAM had begun"
      ],
      ["has a salt of another length", Hostile.authentication(5, "sal"), "it sent a salt of the wrong length"],
      [
        "asks for a ticket",
        Hostile.authentication(7),
        "it asked for authentication with GSSAPI, which is not supported"
      ],
      ["asks for something that is not known", Hostile.authentication(99), "it asked for authentication of type 99"],
      [
        "has a list without an end",
        Hostile.authentication(10, "SCRAM"),
        "it sent a string without its final zero byte"
      ],
      ["sends a row", Hostile.dataRow("a"), "it does not speak PostgreSQL's protocol"]
    ])("%s", (_, message, expected) => {
      const { errors, keys, receives, sent } = startUp()
      receives(message, Hostile.welcome)
      assert.deepStrictEqual(errors.map(({ message }) => message), [`received invalid response: ${expected}`])
      assert.deepStrictEqual(keys, [])
      assert.lengthOf(sent, 1)
    })

    it("sends the client's proof back as its own, before it has one", async () => {
      const { errors, keys, next, receives } = startUp()
      receives(Hostile.sasl)
      const server = scramServer(await next())
      receives(server.challenge, Hostile.authentication(12, "v="), Hostile.welcome)
      assert.deepStrictEqual(errors.map(({ message }) => message), [
        "SASL: SCRAM-SERVER-FINAL-MESSAGE: server signature does not match"
      ])
      assert.deepStrictEqual(keys, [])
    })

    it("challenges twice: one answer is made", async () => {
      const { errors, next, receives, sent, socket } = startUp()
      receives(Hostile.sasl)
      const server = scramServer(await next())
      receives(server.challenge, server.challenge)
      await once(socket, "close")
      assert.deepStrictEqual(errors.map(({ message }) => message), [
        "SASL: SCRAM-SERVER-FIRST-MESSAGE: it was sent twice"
      ])
      assert.lengthOf(sent, 1)
    })
  })

  it("answers nothing after a failure", () => {
    const { errors, receives, sent } = startUp()
    receives(
      Hostile.problem({ S: "FATAL", C: "57P03", M: "starting up" }),
      Hostile.cleartext,
      Hostile.md5,
      Hostile.sasl
    )
    assert.deepStrictEqual(errors.map(({ code }) => code), ["57P03"])
    assert.lengthOf(sent, 1)
  })

  it("a server without a process for it says so in a text alone, which passes", () => {
    const { errors, receives, socket } = startUp()
    receives(Buffer.from("Ecould not fork new process for connection: Cannot allocate memory\n\0"))
    assert.deepStrictEqual(errors.map(({ code, message }) => [code, message]), [
      ["57P03", "could not fork new process for connection: Cannot allocate memory"]
    ])
    assert.isTrue(socket.destroyed)
    assert.deepInclude(fromPostgres(errors[0], { phase: "connect" }), { _tag: "ConnectionFailed", transient: true })
  })

  it.each(["ERROR\r\n", "ERROR\n", "ERR\0OR\n\0", "E\n\0"])("%j is none of PostgreSQL's errors", (text) => {
    const { errors, receives, socket } = startUp()
    receives(Buffer.from(text), Buffer.from("more of it"))
    assert.deepStrictEqual(errors.map(({ message }) => message), [
      "received invalid response: it does not speak PostgreSQL's protocol"
    ])
    assert.isTrue(socket.destroyed)
  })

  it("leaves nothing of itself to an established connection", () => {
    const { receives, socket } = startUp()
    const listeners = () => socket.eventNames().map((name) => [name, socket.listenerCount(name)])
    const before = listeners()
    receives(Hostile.welcome)
    assert.deepStrictEqual(listeners(), before)
  })
})
