import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"
import * as Tls from "node:tls"
import type { PostgresTarget, SslMode } from "../../../../src/DatabaseConfig.js"
import type { DatabaseError } from "../../../../src/DatabaseError.js"
import { eventually } from "../../../support/eventually.js"
import { type Server, server, url } from "../../../support/postgres.js"
import { proxy } from "../../../support/proxy.js"
import { type CertificateFiles, certificateFiles, certificates, type KeyPair } from "../../../support/tls.js"
import { connection, executing, promptly, rows, untilKept } from "../harness.js"

interface World {
  readonly files: CertificateFiles
  readonly good: Server
  readonly wrongHost: Server
  readonly expired: Server
  readonly onlyTls: Server
  readonly onlyPlain: Server
  readonly clientCertificates: Server
  readonly letsEveryoneIn: Server
  readonly asksForPassword: Server
}

class Servers extends Context.Tag("test/Servers")<Servers, World>() {}

const Live = Layer.scoped(
  Servers,
  Effect.gen(function*() {
    const made = yield* certificates()
    const password = "scram-sha-256"
    return yield* Effect.all({
      files: certificateFiles(made),
      good: server({ ssl: made.server }),
      wrongHost: server({ ssl: made.wrongHost }),
      expired: server({ ssl: made.expired }),
      onlyTls: server({ ssl: made.server, hba: `hostssl all all all ${password}\nlocal all all trust\n` }),
      onlyPlain: server({ ssl: made.server, hba: `hostnossl all all all ${password}\nlocal all all trust\n` }),
      clientCertificates: server({
        ssl: { ...made.server, clientCa: made.ca },
        hba: "hostssl all all all cert\nhostnossl all all all scram-sha-256\n"
      }),
      letsEveryoneIn: server({ ssl: made.server, hba: "host all all all trust\nlocal all all trust\n" }),
      asksForPassword: server({ ssl: made.server, hba: "host all all all password\nlocal all all trust\n" })
    }, { concurrency: 3 })
  })
)

/** A proxy that terminates TLS with a certificate of its own. `onSocket` gets the decrypted socket. */
const inBetween = (
  pair: KeyPair,
  onSocket: (inside: Tls.TLSSocket) => void
): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      const listener = Net.createServer((socket) => {
        sockets.add(socket.on("error", () => undefined))
        socket.once("data", () => {
          const inside = new Tls.TLSSocket(socket, { isServer: true, ...pair })
          onSocket(inside.on("error", () => undefined))
          socket.write("S")
        })
      })
      listener.listen(0, "127.0.0.1")
      await once(listener, "listening")
      return { listener, sockets }
    }),
    ({ listener, sockets }) =>
      Effect.sync(() => {
        listener.close()
        sockets.forEach((socket) => socket.destroy())
      })
  ).pipe(Effect.map(({ listener }) => `127.0.0.1:${(listener.address() as Net.AddressInfo).port}`))

/** Forwards a decrypted socket to a server over another TLS connection. */
const passOn = (to: Server) => (inside: Tls.TLSSocket): void => {
  const raw = Net.connect(to.port, "127.0.0.1")
  raw.on("error", () => undefined)
  raw.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]))
  raw.once("data", () => {
    const outside = Tls.connect({ socket: raw, rejectUnauthorized: false })
    outside.on("error", () => undefined)
    inside.pipe(outside)
    outside.pipe(inside)
  })
}

type Outcome = "tls" | "plain" | DatabaseError

/** The result of connecting: whether the connection is encrypted, or the error. */
const outcome = (to: string, sslMode: SslMode, overrides: Partial<PostgresTarget> = {}): Effect.Effect<Outcome> =>
  connection(to, { target: { sslMode, ...overrides } }).pipe(
    Effect.flatMap((c) => rows(c, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")),
    Effect.map(([row]): Outcome => row.ssl ? "tls" : "plain"),
    Effect.scoped,
    Effect.catchAll((error) => Effect.succeed(error as DatabaseError))
  )

const isRefused = (result: Outcome, ...words: ReadonlyArray<string>) => {
  if (typeof result === "string") {
    return assert.fail(`connected, ${result}`)
  }
  assert.strictEqual(result._tag, "ConnectionFailed")
  assert.isFalse(result._tag === "ConnectionFailed" && result.transient, result.message)
  for (const word of words) {
    assert.include(result.message, word)
  }
}

const isNotLetIn = (result: Outcome, ...words: ReadonlyArray<string>) => {
  if (typeof result === "string") {
    return assert.fail(`connected, ${result}`)
  }
  assert.strictEqual(result._tag, "AuthenticationFailed", result.message)
  for (const word of words) {
    assert.include(result.message, word)
  }
}

describe("postgres tls", () => {
  it.layer(Live, { timeout: 240_000 })((it) => {
    it.effect("disable never encrypts", () =>
      Effect.gen(function*() {
        const { good } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "disable"), "plain")
      }))

    it.effect("allow encrypts where the server insists", () =>
      Effect.gen(function*() {
        const { good, onlyPlain, onlyTls } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "allow"), "plain")
        assert.strictEqual(yield* outcome(onlyTls.url, "allow"), "tls")
        assert.strictEqual(yield* outcome(onlyPlain.url, "allow"), "plain")
      }))

    it.effect("prefer encrypts where the server can, and does without where it must", () =>
      Effect.gen(function*() {
        const { files, good, onlyPlain, onlyTls } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "prefer"), "tls")
        assert.strictEqual(yield* outcome(onlyTls.url, "prefer"), "tls")
        assert.strictEqual(yield* outcome(onlyPlain.url, "prefer"), "plain")
        assert.strictEqual(yield* outcome(url(), "prefer"), "plain")
        // As in libpq, prefer connects without TLS after a certificate was rejected.
        assert.strictEqual(yield* outcome(good.url, "prefer", { sslRootCert: files.otherCa }), "plain")
        const plainRefused = yield* outcome(onlyTls.url, "disable")
        assert.strictEqual(typeof plainRefused === "string" ? plainRefused : plainRefused.code, "28000")
      }))

    it.effect("require encrypts, and verifies when a root certificate is given", () =>
      Effect.gen(function*() {
        const { expired, files, good, onlyPlain, wrongHost } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "require"), "tls")
        assert.strictEqual(yield* outcome(expired.url, "require"), "tls")
        assert.strictEqual(yield* outcome(wrongHost.url, "require", { sslRootCert: files.ca }), "tls")
        isRefused(yield* outcome(good.url, "require", { sslRootCert: files.otherCa }), "TLS")
        isRefused(yield* outcome(url(), "require"), "does not support SSL")
        const plainOnly = yield* outcome(onlyPlain.url, "require")
        assert.strictEqual(typeof plainOnly === "string" ? plainOnly : plainOnly._tag, "AuthenticationFailed")
      }))

    it.effect("verify-ca verifies the chain, not the name", () =>
      Effect.gen(function*() {
        const { expired, files, good, wrongHost } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "verify-ca", { sslRootCert: files.ca }), "tls")
        assert.strictEqual(yield* outcome(wrongHost.url, "verify-ca", { sslRootCert: files.ca }), "tls")
        isRefused(yield* outcome(good.url, "verify-ca", { sslRootCert: files.otherCa }), "TLS")
        isRefused(yield* outcome(good.url, "verify-ca"), "TLS")
        isRefused(yield* outcome(expired.url, "verify-ca", { sslRootCert: files.ca }), "expired")
      }))

    it.effect("verify-full verifies the name too", () =>
      Effect.gen(function*() {
        const { files, good, wrongHost } = yield* Servers
        assert.strictEqual(yield* outcome(good.url, "verify-full", { sslRootCert: files.ca }), "tls")
        const byName = { hosts: [{ host: "localhost", port: good.port }] } as const
        assert.strictEqual(yield* outcome(good.url, "verify-full", { sslRootCert: files.ca, ...byName }), "tls")
        isRefused(yield* outcome(wrongHost.url, "verify-full", { sslRootCert: files.ca }), "127.0.0.1")
        const wrongName = { hosts: [{ host: "localhost", port: wrongHost.port }] } as const
        isRefused(yield* outcome(wrongHost.url, "verify-full", { sslRootCert: files.ca, ...wrongName }), "localhost")
        isRefused(yield* outcome(good.url, "verify-full", { sslRootCert: files.otherCa }), "TLS")
        // Without a root certificate, the authorities of Node are trusted.
        isRefused(yield* outcome(good.url, "verify-full"), "TLS")
      }))

    it.effect("a client certificate can replace the password", () =>
      Effect.gen(function*() {
        const { clientCertificates, files } = yield* Servers
        const certificate = { sslCert: files.clientCert, sslKey: files.clientKey, password: undefined }
        assert.strictEqual(
          yield* outcome(clientCertificates.url, "verify-full", { ...certificate, sslRootCert: files.ca }),
          "tls"
        )
        const without = yield* outcome(clientCertificates.url, "require")
        assert.notStrictEqual(without, "tls")
        const otherUser = yield* outcome(clientCertificates.url, "require", { ...certificate, username: "other" })
        assert.strictEqual(typeof otherUser === "string" ? otherUser : otherUser._tag, "AuthenticationFailed")
      }))

    it.effect("files that cannot be read are named", () =>
      Effect.gen(function*() {
        const { files, good } = yield* Servers
        const missing = "/no/such/file.pem"
        isRefused(yield* outcome(good.url, "verify-ca", { sslRootCert: missing }), "sslrootcert", missing)
        isRefused(yield* outcome(good.url, "require", { sslCert: missing }), "sslcert", missing)
        isRefused(
          yield* outcome(good.url, "require", { sslCert: files.clientCert, sslKey: missing }),
          "sslkey",
          missing
        )
        isRefused(yield* outcome(good.url, "require", { sslCert: files.clientKey, sslKey: files.clientCert }))
      }))

    it.effect("a Unix socket needs no TLS", () =>
      Effect.gen(function*() {
        const { good } = yield* Servers
        const hosts = [{ host: good.socketDir, port: good.port }] as const
        assert.strictEqual(yield* outcome(good.url, "verify-full", { hosts, sslRootCert: "/no/such/file" }), "plain")
      }))

    it.effect("channel binding authenticates at the server itself", () =>
      Effect.gen(function*() {
        const { files, good, onlyTls } = yield* Servers
        for (const channelBinding of ["disable", "prefer", "require"] as const) {
          assert.strictEqual(yield* outcome(good.url, "require", { channelBinding }), "tls")
          assert.strictEqual(yield* outcome(good.url, "prefer", { channelBinding }), "tls")
          assert.strictEqual(
            yield* outcome(onlyTls.url, "verify-full", { channelBinding, sslRootCert: files.ca }),
            "tls"
          )
        }
        assert.strictEqual(yield* outcome(good.url, "allow", { channelBinding: "require" }), "tls")
        const wrong = { password: Redacted.make("wrong"), channelBinding: "require" } as const
        isNotLetIn(yield* outcome(good.url, "require", wrong), "password authentication failed")
      }))

    it.scoped("channel binding fails at a proxy that terminates TLS", () =>
      Effect.gen(function*() {
        const { good } = yield* Servers
        const made = yield* certificates()
        const address = yield* inBetween(made.server, passOn(good))
        const to = good.url.replace(/127\.0\.0\.1:\d+/, address)
        assert.strictEqual(yield* outcome(to, "require", { channelBinding: "disable" }), "tls")
        isNotLetIn(yield* outcome(to, "require", { channelBinding: "prefer" }), "channel binding")
        isNotLetIn(yield* outcome(to, "require", { channelBinding: "require" }), "channel binding")
      }))

    it.effect("channel_binding=require fails where binding is not possible", () =>
      Effect.gen(function*() {
        const { asksForPassword, clientCertificates, files, good, letsEveryoneIn } = yield* Servers
        const channelBinding = "require"
        const hosts = [{ host: good.socketDir, port: good.port }] as const
        isNotLetIn(yield* outcome(good.url, "disable", { channelBinding }), "channel_binding", "not encrypted")
        isNotLetIn(yield* outcome(good.url, "prefer", { channelBinding, hosts }), "channel_binding", "not encrypted")
        isRefused(yield* outcome(url(), "prefer", { channelBinding }), "does not support SSL")
        assert.strictEqual(yield* outcome(letsEveryoneIn.url, "require", { channelBinding: "prefer" }), "tls")
        isNotLetIn(
          yield* outcome(letsEveryoneIn.url, "require", { channelBinding }),
          "channel_binding",
          "without proving"
        )
        assert.strictEqual(yield* outcome(asksForPassword.url, "require", { channelBinding: "prefer" }), "tls")
        isNotLetIn(
          yield* outcome(asksForPassword.url, "require", { channelBinding }),
          "channel_binding",
          "password in cleartext"
        )
        const certificate = { sslCert: files.clientCert, sslKey: files.clientKey, channelBinding } as const
        isNotLetIn(yield* outcome(clientCertificates.url, "require", certificate), "channel_binding", "without proving")
      }))

    it.scoped("channel_binding=require sends no form of the password without binding", () =>
      Effect.gen(function*() {
        const made = yield* certificates()
        const asked = [
          [[0, 0, 0, 3], "the password in cleartext"],
          [[0, 0, 0, 5, 1, 2, 3, 4], "an MD5 hash"],
          [[0, 0, 0, 10, ...Buffer.from("SCRAM-SHA-256\0\0")], "does not offer SCRAM-SHA-256-PLUS"]
        ] as const
        for (const [request, words] of asked) {
          const received: Array<Buffer> = []
          let ended = false
          const address = yield* inBetween(made.server, (inside) => {
            inside.once("data", () => {
              inside.on("data", (piece: Buffer) => received.push(piece))
              inside.write(Buffer.from([0x52, 0, 0, 0, request.length + 4, ...request]))
            })
            inside.once("close", () => {
              ended = true
            })
          })
          const to = `postgres://ada:hunter2@${address}/db`
          isNotLetIn(yield* outcome(to, "require", { channelBinding: "require" }), "channel_binding", words)
          yield* eventually(Effect.sync(() => ended))
          assert.strictEqual(Buffer.concat(received).length, 0, words)
        }
      }))

    it.effect("the cancel request is encrypted as the connection is", () =>
      Effect.scoped(Effect.gen(function*() {
        const { files, onlyTls } = yield* Servers
        const between = yield* proxy(onlyTls.url)
        const firsts: Array<string> = []
        let last = 0
        let plainCancel = false
        yield* between.onClientData((chunk, each) => {
          if (each.id > last) {
            last = each.id
            firsts.push(chunk.subarray(4, 8).toString("hex"))
          }
          plainCancel ||= chunk.includes(Buffer.from("04d2162e", "hex"))
          return "pass"
        })
        const sslRequest = "04d2162f"
        yield* untilKept(Effect.gen(function*() {
          firsts.length = 0
          const c = yield* connection(between.url, { target: { sslMode: "verify-full", sslRootCert: files.ca } })
          const fiber = yield* Effect.fork(rows(c, "SELECT pg_sleep(600)"))
          yield* executing(onlyTls.url.replace(/\?.*|$/, "?sslmode=no-verify"), c)
          yield* promptly(Fiber.interrupt(fiber))
          if (c.status() !== "closed") {
            assert.strictEqual(c.status(), "idle")
            assert.deepStrictEqual(firsts, [sslRequest, sslRequest])
          }
          return c
        }))
        assert.isFalse(plainCancel)
      })))
  })

  it.live("bytes behind the answer to SSLRequest are rejected", () =>
    Effect.scoped(Effect.gen(function*() {
      const listener = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          const listener = Net.createServer((socket) => {
            socket.on("error", () => undefined)
            socket.once("data", () => socket.write("SR\0\0\0\x08\0\0\0\0"))
          })
          listener.listen(0, "127.0.0.1")
          await once(listener, "listening")
          return listener
        }),
        (listener) => Effect.sync(() => listener.close())
      )
      const { port } = listener.address() as Net.AddressInfo
      const error = yield* Effect.flip(connection(`postgres://a:b@127.0.0.1:${port}/db`, {
        settings: { connectTimeout: Duration.seconds(5) },
        target: { sslMode: "require" }
      }))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.include(error.message, "invalid response")
    })))
})
