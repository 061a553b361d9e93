/** Parameters of PostgreSQL URLs as other programs write them, secrets in the wrong place, and keys as text. */
import { assert, describe, it } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import * as Util from "node:util"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { certificates } from "../../support/tls.js"

const canary = "hunter2"

const outputs = (value: unknown): string =>
  [String(value), JSON.stringify(value), Util.inspect(value, { depth: null, showHidden: true })].join("\n")

const resolved = (options: DatabaseConfig.Options): DatabaseConfig.Settings =>
  Either.getOrThrowWith(DatabaseConfig.resolve(options), String)

const target = (options: DatabaseConfig.Options): DatabaseConfig.PostgresTarget => {
  const { target } = resolved(options)
  assert(target._tag === "postgres")
  return target
}

/** The error, which is a ConfigError whose `toString` has all messages. */
const refusal = (options: DatabaseConfig.Options & { readonly url: string }): string => {
  const error: { readonly toString: () => string } = Either.getOrThrowWith(
    Either.flip(DatabaseConfig.resolve(options)),
    () => `accepted: ${options.url}`
  )
  return error.toString()
}

const server = "postgres://app@h/db"

describe("libpq's parameters", () => {
  it.each([
    "keepalives=1",
    "keepalives=0",
    "keepalives_idle=60&keepalives_interval=5&keepalives_count=3",
    "tcp_user_timeout=20000",
    "client_encoding=UTF8",
    "client_encoding=utf-8",
    "client_encoding=auto",
    "gssencmode=prefer",
    "gssencmode=disable",
    "sslcompression=0",
    "sslnegotiation=postgres",
    "uselibpqcompat=true"
  ])("%s changes nothing", (parameters) => {
    assert.deepStrictEqual(target({ url: `${server}?${parameters}` }), target({ url: server }))
  })

  it.each<readonly [parameter: string, accepted: string]>([
    ["keepalives=yes", "one of 0, 1"],
    ["keepalives_idle=soon", "a whole number"],
    ["tcp_user_timeout=-1", "a whole number"],
    ["client_encoding=LATIN1", "one of UTF8, UTF-8, unicode, auto"],
    ["gssencmode=require", "one of disable, prefer"],
    ["sslcompression=1", "one of 0"],
    ["sslsni=yes", "one of 0, 1"],
    ["sslnegotiation=always", "one of postgres, direct"],
    ["ssl_min_protocol_version=SSLv3", "one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"]
  ])("%s is refused", (parameter, accepted) => {
    assert.include(refusal({ url: `${server}?${parameter}` }), `parameter ${parameter.split("=")[0]} to be ${accepted}`)
  })

  it("fallback_application_name is used where nothing else gives a name", () => {
    const url = `${server}?fallback_application_name=fallback`
    assert.strictEqual(target({ url }).applicationName, "fallback")
    assert.strictEqual(target({ url, applicationName: "option" }).applicationName, "option")
    assert.strictEqual(target({ url: `${url}&application_name=url` }).applicationName, "url")
  })

  it("TLS: versions, the server's name, and direct negotiation", () => {
    const url = `${server}?sslmode=require&sslsni=0&sslnegotiation=direct&ssl_min_protocol_version=tlsv1.3`
    const given = target({ url: `${url}&ssl_max_protocol_version=TLSv1.3` })
    assert.deepInclude(given, {
      sslServerName: false,
      sslNegotiation: "direct",
      sslMinVersion: "TLSv1.3",
      sslMaxVersion: "TLSv1.3"
    })
    assert.deepStrictEqual(target({ url: DatabaseConfig.toUrl(given) }), given)
    for (const sslmode of ["", "&sslmode=prefer", "&sslmode=disable", "&sslmode=allow"]) {
      assert.include(refusal({ url: `${server}?sslnegotiation=direct${sslmode}` }), "as sslnegotiation is direct")
    }
    assert.strictEqual(
      target({ url: `${server}?sslnegotiation=direct`, sslMode: "verify-full" }).sslNegotiation,
      "direct"
    )
  })
})

describe("other programs' parameters", () => {
  it("Prisma's: pgbouncer, schema, connection_limit and pool_timeout", () => {
    const settings = resolved({ url: `${server}?pgbouncer=true&schema=my%20schema&connection_limit=3&pool_timeout=20` })
    assert.deepInclude(settings, { preparedStatements: "off", poolSize: 3, poolMaxOverflow: 0, poolMin: 3 })
    assert.deepStrictEqual(settings.poolTimeout, Duration.seconds(20))
    assert.deepInclude(settings.target, { schema: "my schema" })
    assert.deepStrictEqual(target({ url: DatabaseConfig.toUrl(settings.target) }), settings.target)
    assert.strictEqual(resolved({ url: `${server}?pgbouncer=false` }).preparedStatements, "auto")
    assert.strictEqual(resolved({ url: `${server}?pgbouncer=true`, preparedStatements: "on" }).preparedStatements, "on")
    assert.strictEqual(Duration.toDays(resolved({ url: `${server}?pool_timeout=0` }).poolTimeout), 24)
    assert.include(refusal({ url: `${server}?schema=${"x".repeat(64)}` }), "1 to 63 bytes")
    assert.include(refusal({ url: `${server}?connection_limit=0` }), "a whole number, at least 1")
  })

  it.each<readonly [parameter: string, replacement: string]>([
    ["statement_timeout=5000", "DATABASE_STATEMENT_TIMEOUT"],
    ["lock_timeout=5000", "DATABASE_LOCK_TIMEOUT"],
    ["socket_timeout=5", "DATABASE_STATEMENT_TIMEOUT"],
    ["statement_cache_size=0", "DATABASE_PREPARED_STATEMENTS"],
    ["prepared_statement_cache_size=0", "DATABASE_PREPARED_STATEMENTS"],
    ["sslaccept=strict", "sslmode=verify-full"],
    ["search_path=app", "options=-c%20search_path"],
    ["currentSchema=app", "schema="],
    ["pool_max_conns=4", "DATABASE_POOL_SIZE"],
    ["passfile=/x", "DATABASE_PASSWORD_FILE"],
    ["service=mine", "the host, the user and the database"]
  ])("%s: %s in its place", (parameter, replacement) => {
    const message = refusal({ url: `${server}?${parameter}` })
    assert.include(message, `in place of the parameter ${parameter.split("=")[0]}`)
    assert.include(message, replacement)
  })

  it("one that nobody knows is refused with those that are known", () => {
    assert.include(refusal({ url: `${server}?what=1` }), "and not what")
    assert.include(refusal({ url: `${server}?toString=1` }), "and not toString")
  })
})

describe("a secret in the wrong place is never shown", () => {
  const places: ReadonlyArray<string> = [
    `postgres://h/db&password=${canary}`,
    `postgres://h/db;password=${canary}`,
    `postgres://h/db;user=app;pwd=${canary}`,
    `postgres://h/db&user=app&pw=${canary}`,
    `postgres://h/db#password=${canary}`,
    `postgres://h/db password=${canary}`,
    `postgres://h/db,password=${canary}`,
    `postgres://h/db%26password%3D${canary}`,
    `postgres://h/db%3Bpassword%3D${canary}`,
    `postgres://h&password=${canary}/db`,
    `postgres://h;password=${canary}/db`,
    `postgres://app:x@h;password=${canary}/db`,
    `postgres://app:x@h:5432&pw=${canary}/db`,
    `postgres://app:x@h:5432/db&password=${canary}`,
    `postgres://password=${canary}@h/db`,
    `postgres://app;password=${canary}:x@h/db`,
    `postgres://h/db?sslmode=require;password=${canary}`,
    `postgres://h/db?sslmode=require;pw=${canary}`,
    `postgres://h/db?sslmode=require#password=${canary}`,
    `postgres://h/db?sslmode=wrong%3Bpassword%3D${canary}`,
    `postgres://h/db?application_name=x;password=${canary}`,
    `postgres://h/db?host=h;password=${canary}`,
    `postgres://h/db?host=h&password=a&${canary}=b`,
    `postgres://h/db?sslmode=wrong&pwd=${canary}`,
    `postgres://h/db?sslmode=wrong&PASSWORD=${canary}`,
    `postgres://h/db?sslmode=wrong&pass%77ord=${canary}`,
    `postgres://h/db?sslmode=wrong&sslpassword=a&${canary}`,
    `postgres://h/db?sslmode=wrong&options=-c%20app.secret%3D${canary}&x=1`,
    `postgres://h/db?x=1&sslkey=-----BEGIN%20PRIVATE%20KEY-----${canary}`,
    `Server=h;Database=db;Password=${canary}`,
    `jdbc:postgresql://h/db?user=app&password=${canary}`,
    `host=h dbname=db password=${canary}`,
    `sqlite:///ledger.db;password=${canary}`,
    `file:ledger.db;password=${canary}`,
    `sqlite:///ledger.db?mode=wrong&key=a&password=${canary}`
  ]

  it.each(places)("%s", (url) => {
    for (const given of [url, Redacted.make(url)]) {
      const result = DatabaseConfig.resolve({ url: given })
      assert.isTrue(Either.isLeft(result))
      assert.notInclude(outputs(result), canary)
    }
    const fromEnvironment = Effect.runSync(
      Effect.either(DatabaseConfig.config).pipe(
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["DATABASE_URL", url]])))
      )
    )
    assert.isTrue(Either.isLeft(fromEnvironment))
    assert.notInclude(outputs(fromEnvironment), canary)
  })

  it("what belongs into a name can still be written there", () => {
    assert.strictEqual(target({ url: "postgres://app@h/a%26b%3Bc" }).database, "a&b;c")
    assert.strictEqual(target({ url: "postgres://app@h/a&b;c" }).database, "a&b;c")
    assert.strictEqual(target({ url: "postgres://app@h/db?application_name=a%3Bb%3Dc" }).applicationName, "a;b=c")
    assert.strictEqual(target({ url: "postgres://app@h/db?options=-c%20a.b=c" }).serverOptions, "-c a.b=c")
  })
})

describe("certificates and keys as text", () => {
  it.effect("are accepted where a file's name is, and not shown", () =>
    Effect.gen(function*() {
      const { ca, client } = yield* certificates()
      const { cert, key } = client
      const body = key.split("\n")[1]
      const forms = (
        pem: string
      ) => [pem, pem.replaceAll("\n", "\r\n"), pem.replaceAll("\n", "\\n"), pem.replaceAll("\n", " ")]
      for (const [i, form] of forms(key).entries()) {
        const options = { url: server, sslRootCert: forms(ca)[i], sslCert: forms(cert)[i] }
        for (const sslKey of [form, Redacted.make(form)]) {
          const given = target({ ...options, sslKey })
          assert.deepStrictEqual(
            [given.sslRootCert, given.sslCert, given.sslKey].map((pem) =>
              Redacted.isRedacted(pem) ? Redacted.value(pem).trim() : pem
            ),
            [ca, cert, key].map((pem) => pem.trim().replaceAll("\r", ""))
          )
          assert.notInclude(outputs(given), body)
          assert.notInclude(DatabaseConfig.render(given), body)
          assert.deepStrictEqual(target({ url: DatabaseConfig.toUrl(given) }), given)
        }
      }
      const two = target({ url: server, sslRootCert: ca + cert }).sslRootCert
      assert.isTrue(Redacted.isRedacted(two) && Redacted.value(two).split("BEGIN").length === 3)
      const parameters = `sslcert=${encodeURIComponent(cert)}&sslkey=${encodeURIComponent(key)}`
      assert.isTrue(Redacted.isRedacted(target({ url: `${server}?${parameters}` }).sslKey))
    }))

  it.effect("are refused, and not shown, if they are incomplete or of another kind", () =>
    Effect.gen(function*() {
      const { client: { cert, key } } = yield* certificates()
      const body = key.split("\n")[1]
      const wrong: ReadonlyArray<DatabaseConfig.Options> = [
        { sslCert: cert, sslKey: key.slice(0, 100) },
        { sslCert: cert, sslKey: key.replace(body.slice(0, 20), "A".repeat(20)) },
        { sslCert: cert, sslKey: cert },
        { sslCert: key, sslKey: key },
        { sslRootCert: key },
        { sslCert: cert, sslKey: [key] as unknown as string }
      ]
      for (const options of wrong) {
        const result = DatabaseConfig.resolve({ url: server, ...options })
        assert.isTrue(Either.isLeft(result))
        assert.notInclude(outputs(result), body.slice(20))
        assert.notInclude(outputs(result), cert.split("\n")[1])
      }
    }))
})
