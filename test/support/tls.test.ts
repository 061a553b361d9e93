import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { withClient } from "./client.js"
import * as Postgres from "./postgres.js"
import { certificateFiles, type Certificates, certificates, type KeyPair } from "./tls.js"

/** Whether a plain client that checks everything gets through, or what it has against it. */
const connect = (
  url: string,
  options: { readonly ca: string; readonly client?: KeyPair; readonly host?: string }
): Effect.Effect<string> =>
  Effect.promise(async () => {
    const target = new URL(url)
    target.hostname = options.host ?? target.hostname
    try {
      return await withClient(
        { connectionString: target.toString(), ssl: { ca: options.ca, rejectUnauthorized: true, ...options.client } },
        async (client) => {
          const { rows } = await client.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
          return rows[0].ssl ? "encrypted" : "plain"
        }
      )
    } catch (error) {
      return String((error as NodeJS.ErrnoException).code)
    }
  })

const serverWith = (pair: KeyPair, certificates: Certificates) =>
  Postgres.server({ ssl: { ...pair, clientCa: certificates.ca } })

describe("certificates", () => {
  it.scopedLive("are trusted by a client that knows the authority, and by nobody else", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const server = yield* serverWith(made.server, made)
      assert.strictEqual(yield* connect(server.url, { ca: made.ca }), "encrypted")
      assert.strictEqual(yield* connect(server.url, { ca: made.ca, host: "localhost" }), "encrypted")
      assert.strictEqual(yield* connect(server.url, { ca: made.otherCa }), "SELF_SIGNED_CERT_IN_CHAIN")
    }))

  it.scopedLive("for another host are refused", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const server = yield* serverWith(made.wrongHost, made)
      assert.strictEqual(yield* connect(server.url, { ca: made.ca }), "ERR_TLS_CERT_ALTNAME_INVALID")
    }))

  it.scopedLive("that are too old are refused", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const server = yield* serverWith(made.expired, made)
      assert.strictEqual(yield* connect(server.url, { ca: made.ca }), "CERT_HAS_EXPIRED")
    }))

  it.scopedLive("let a client in where the server asks for one", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const server = yield* Postgres.server({
        ssl: { ...made.server, clientCa: made.ca },
        hba: "hostssl all all 127.0.0.1/32 cert\n"
      })
      assert.strictEqual(yield* connect(server.url, { ca: made.ca, client: made.client }), "encrypted")
      assert.strictEqual(yield* connect(server.url, { ca: made.ca }), "28000")
      // OpenSSL has two names for the alert, by its version.
      assert.match(
        yield* connect(server.url, { ca: made.ca, client: made.server }),
        /^ERR_SSL_SSL(?:V3|\/TLS)_ALERT_UNSUPPORTED_CERTIFICATE$/
      )
    }))

  it.live("are written to files for as long as the scope lasts", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const paths = yield* Effect.scoped(Effect.map(certificateFiles(made), (files) => {
        assert.strictEqual(Fs.readFileSync(files.ca, "utf8"), made.ca)
        assert.strictEqual(Fs.readFileSync(files.otherCa, "utf8"), made.otherCa)
        assert.strictEqual(Fs.readFileSync(files.clientCert, "utf8"), made.client.cert)
        assert.strictEqual(Fs.readFileSync(files.clientKey, "utf8"), made.client.key)
        return Object.values(files)
      }))
      assert.isFalse(paths.some((path) => Fs.existsSync(path)))
    }))
})
