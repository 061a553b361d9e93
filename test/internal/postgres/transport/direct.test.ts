/** Certificates and keys as text, direct negotiation of TLS, and what libpq's parameters say of versions and names. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { once } from "node:events"
import type * as Net from "node:net"
import * as Tls from "node:tls"
import * as Database from "../../../../src/Database.js"
import type * as DatabaseConfig from "../../../../src/DatabaseConfig.js"
import { eventually } from "../../../support/eventually.js"
import { query, server } from "../../../support/postgres.js"
import { proxy } from "../../../support/proxy.js"
import { type Certificates, certificates } from "../../../support/tls.js"

const open = (options: DatabaseConfig.Options) => Database.make({ environment: "test", poolSize: 1, ...options })

const tls = ({ sql }: Database.Service) =>
  Effect.map(
    sql<{ readonly version: string; readonly client: string | null }>`
      SELECT version, client_dn AS client FROM pg_stat_ssl WHERE pid = pg_backend_pid()`,
    ([row]) => row
  )

/** A TLS server that is no PostgreSQL. It keeps what clients ask for when TLS begins. */
const strangeServer = (made: Certificates, ALPNProtocols: Array<string> | undefined) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const names: Array<string | boolean> = []
      const listener = Tls.createServer({ ...made.server, ...(ALPNProtocols && { ALPNProtocols }) }, (socket) => {
        names.push(socket.servername ?? false)
        socket.on("error", () => undefined)
      })
      listener.on("tlsClientError", () => undefined)
      listener.listen(0, "127.0.0.1")
      await once(listener, "listening")
      return { listener, names, port: (listener.address() as Net.AddressInfo).port }
    }),
    ({ listener }) => Effect.sync(() => listener.close())
  )

const refused = (options: DatabaseConfig.Options): Effect.Effect<string> =>
  Effect.flip(Effect.scoped(open(options))).pipe(
    Effect.orDieWith(() => new Error("it was opened")),
    Effect.map((error) => {
      assert.strictEqual(error._tag, "ConnectionFailed")
      return error.message
    })
  )

describe("TLS", () => {
  it.scopedLive("root certificates, a certificate and its key may be given as text", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const { url } = yield* server({ ssl: { ...made.server, clientCa: made.ca }, hba: "hostssl all all all cert\n" })
      const own = new URL(url)
      own.username = "postgres"
      own.password = ""
      const options = {
        url: own.toString(),
        sslMode: "verify-full",
        sslRootCert: made.ca,
        sslCert: made.client.cert,
        sslKey: Redacted.make(made.client.key)
      } as const
      assert.include((yield* tls(yield* open(options)))?.client, "postgres")
      const unknown = yield* refused({ ...options, sslRootCert: made.otherCa })
      assert.include(unknown, "TLS")
      const files = yield* refused({ ...options, sslKey: "/nowhere/client.key" })
      assert.include(files, "/nowhere/client.key")
      // Someone has written a key where the name of its file belongs.
      const body = made.client.key.split("\n").slice(1, -2).join("")
      const key = yield* refused({ ...options, sslKey: body })
      assert.notInclude(key, body)
      assert.include(key, "its name is not shown")
    }), 240_000)

  it.scopedLive("sslnegotiation=direct begins with TLS, also to cancel a statement", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const { url } = yield* server({ ssl: made.server })
      let plain = 0
      const between = yield* proxy(url)
      yield* between.onClientData((chunk) => {
        // A request for TLS begins with its length, and a record of TLS with its kind.
        plain += chunk[0] === 0 ? 1 : 0
        return "pass"
      })
      const direct = `${between.url}?sslmode=require&sslnegotiation=direct`
      const database = yield* open({ url: direct })
      assert.match((yield* tls(database))?.version ?? "", /^TLS/)
      yield* Effect.timeoutOption(database.sql`SELECT pg_sleep(60)`, "300 millis")
      yield* eventually(Effect.map(
        query(
          url,
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
        ),
        ([{ n }]) => n === 0
      ))
      assert.strictEqual(plain, 0)
    }), 240_000)

  it.scopedLive("sslnegotiation=direct refuses a server that speaks another protocol", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      for (const protocols of [undefined, ["http/1.1"]]) {
        const { port } = yield* strangeServer(made, protocols)
        const url = `postgres://app:hunter2@127.0.0.1:${port}/db?sslmode=require&sslnegotiation=direct`
        assert.include(yield* refused({ url }), "TLS")
      }
      // One that knows of no direct negotiation takes the first message for a start-up of nonsense.
      const { url } = yield* server({})
      assert.include(yield* refused({ url: `${url}?sslmode=require&sslnegotiation=direct` }), "could not connect")
    }), 240_000)

  it.scopedLive("the server's name is sent unless sslsni is 0", () =>
    Effect.gen(function*() {
      const made = yield* certificates()
      const { names, port } = yield* strangeServer(made, ["postgresql"])
      const url = `postgres://app:hunter2@localhost:${port}/db?sslmode=require&sslnegotiation=direct&connect_timeout=1`
      yield* refused({ url })
      yield* refused({ url: `${url}&sslsni=0` })
      assert.deepStrictEqual([...new Set(names)], ["localhost", false])
    }), 240_000)

  it.scopedLive(
    "ssl_min_protocol_version and ssl_max_protocol_version decide on the version",
    () =>
      Effect.gen(function*() {
        const made = yield* certificates()
        const { url } = yield* server({ ssl: made.server, config: { ssl_max_protocol_version: "TLSv1.2" } })
        const version = (parameters: string) =>
          Effect.map(Effect.flatMap(open({ url: `${url}?sslmode=require${parameters}` }), tls), (row) => row?.version)
        assert.strictEqual(yield* version(""), "TLSv1.2")
        assert.include(yield* refused({ url: `${url}?sslmode=require&ssl_min_protocol_version=TLSv1.3` }), "TLS")
        const newer = yield* server({ ssl: made.server })
        const limited = yield* Effect.flatMap(
          open({ url: `${newer.url}?sslmode=require&ssl_max_protocol_version=TLSv1.2` }),
          tls
        )
        assert.strictEqual(limited?.version, "TLSv1.2")
      }),
    240_000
  )
})
