/**
 * Options in code beside the environment, and resolved settings as options.
 */
import { assert, describe, it } from "@effect/vitest"
import type * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import * as Util from "node:util"
import * as DatabaseConfig from "../src/DatabaseConfig.js"

type Variables = { readonly [name: string]: string }

const read = (variables: Variables, options: DatabaseConfig.Options) =>
  Effect.runSync(
    Effect.either(DatabaseConfig.configWith(options)).pipe(
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(variables))))
    )
  )

const settings = (variables: Variables, options: DatabaseConfig.Options = {}): DatabaseConfig.Settings =>
  Either.getOrThrowWith(read(variables, options), String)

const resolved = (options: DatabaseConfig.Options): DatabaseConfig.Settings =>
  Either.getOrThrowWith(DatabaseConfig.resolve(options), String)

const postgres = ({ target }: DatabaseConfig.Settings): DatabaseConfig.PostgresTarget => {
  assert(target._tag === "postgres")
  return target
}

const passwordOf = (settings: DatabaseConfig.Settings): string | undefined => {
  const { password } = postgres(settings)
  return password && Redacted.value(password)
}

const sqlite = ({ target }: DatabaseConfig.Settings): DatabaseConfig.SqliteTarget => {
  assert(target._tag === "sqlite")
  return target
}

/** Every single error: what it names, and its message. */
const flatten = (error: ConfigError.ConfigError): Array<readonly [path: string, message: string]> =>
  error._op === "And" || error._op === "Or"
    ? [...flatten(error.left), ...flatten(error.right)]
    : [[error.path.join("."), error.message]]

const errorsOf = (result: Either.Either<unknown, ConfigError.ConfigError>) =>
  flatten(Either.getOrThrowWith(Either.flip(result), () => "accepted"))

const namesOf = (result: Either.Either<unknown, ConfigError.ConfigError>) =>
  errorsOf(result).map(([path]) => path).sort()

const server = "postgres://app:pw@db.example.com/ledger"
const password = Effect.succeed("hunter2")
const upper = (name: string) => name.toUpperCase()
const functions = { slugify: { module: "/srv/functions.js", arity: 1, deterministic: true } }

describe("options beside the environment", () => {
  it("give what no variable can", () => {
    const types = { numeric: { parse: Number } }
    const onNotice = () => Effect.void
    const actual = settings({ DATABASE_URL: server, DATABASE_POOL_SIZE: "3" }, {
      name: "books",
      password,
      types,
      onNotice,
      transformQueryNames: upper,
      transformResultNames: upper,
      transformJson: false,
      spanAttributes: { team: "a" },
      spanParameters: true
    })
    assert.deepInclude(actual, {
      name: "books",
      poolSize: 3,
      types,
      onNotice,
      transformQueryNames: upper,
      transformResultNames: upper,
      transformJson: false,
      spanAttributes: { team: "a" },
      spanParameters: true
    })
    const { credentials } = postgres(actual)
    assert.strictEqual(credentials && Redacted.value(credentials).password, password)
    assert.strictEqual(postgres(actual).password, undefined)
  })

  it("of SQLite too", () => {
    const actual = settings({ DATABASE_URL: "sqlite:///a.db", DATABASE_PRAGMAS: "cache_size=-100" }, {
      thread: "main",
      functions,
      pragmas: { synchronous: "normal" },
      journalMode: "delete"
    })
    assert.deepInclude(sqlite(actual), { thread: "main", journalMode: "delete", pragmas: { synchronous: "normal" } })
    assert.deepStrictEqual(sqlite(actual).functions?.map(({ name }) => name), ["slugify"])
  })

  it("without any it is the environment's", () => {
    const variables = { DATABASE_URL: server, DATABASE_POOL_SIZE: "3", APP_ENV: "production" }
    const fromEnvironment = Effect.runSync(
      Effect.withConfigProvider(DatabaseConfig.config, ConfigProvider.fromMap(new Map(Object.entries(variables))))
    )
    assert.deepStrictEqual(settings(variables), fromEnvironment)
    assert.deepStrictEqual(settings(variables, { poolSize: undefined, url: "" }), fromEnvironment)
  })

  it("go before the variable of the same option", () => {
    const actual = settings({
      APP_ENV: "production",
      DATABASE_URL: server,
      DATABASE_POOL_SIZE: "3",
      DATABASE_STATEMENT_TIMEOUT: "1 minute",
      DATABASE_RESET: "always",
      DATABASE_PASSWORD_FILE: "/run/password"
    }, {
      environment: "test",
      url: "postgres://other:pw@db2.example.com/books",
      poolSize: 4,
      statementTimeout: "2 seconds",
      reset: "auto",
      password: "hunter2"
    })
    assert.deepInclude(actual, {
      environment: "test",
      name: "books",
      poolSize: 4,
      poolMaxOverflow: 10,
      statementTimeout: Duration.seconds(2),
      reset: "auto"
    })
    assert.strictEqual(postgres(actual).username, "other")
    assert.strictEqual(passwordOf(actual), "hunter2")
  })

  it("go before what the environment's URL says", () => {
    const url = `${server}?application_name=a&connect_timeout=3&connection_limit=2&pool_timeout=9&sslrootcert=/a.pem`
    const options: DatabaseConfig.Options = {
      applicationName: "b",
      connectTimeout: "1 second",
      poolSize: 7,
      poolMaxOverflow: 4,
      poolTimeout: "2 seconds",
      sslRootCert: "/b.pem",
      user: "root"
    }
    const actual = settings({ DATABASE_URL: url }, options)
    assert.deepInclude(actual, {
      connectTimeout: Duration.seconds(1),
      poolSize: 7,
      poolMaxOverflow: 4,
      poolTimeout: Duration.seconds(2)
    })
    assert.deepInclude(postgres(actual), { applicationName: "b", sslRootCert: "/b.pem", username: "root" })
    // The URL goes before options of the same origin, as in libpq.
    assert.deepInclude(settings({}, { ...options, url }), { connectTimeout: Duration.seconds(3), poolSize: 2 })
    assert.strictEqual(postgres(settings({}, { ...options, url })).applicationName, "a")
    assert.deepInclude(settings({ DATABASE_URL: url }, { poolMaxOverflow: 4 }), { poolSize: 2, poolMaxOverflow: 4 })
    const file = settings({ DATABASE_URL: "sqlite:///a.db?timeout=9" }, { lockTimeout: "1 second" })
    assert.deepStrictEqual(file.lockTimeout, Duration.seconds(1))
  })

  it("do not weaken the encryption that the environment asks for", () => {
    const mode = (variables: Variables, sslMode: DatabaseConfig.SslMode) =>
      postgres(settings({ DATABASE_URL: server, ...variables }, { sslMode })).sslMode
    assert.strictEqual(mode({ DATABASE_URL: `${server}?sslmode=require` }, "disable"), "require")
    assert.strictEqual(mode({ DATABASE_URL: `${server}?sslmode=disable` }, "verify-full"), "verify-full")
    assert.strictEqual(mode({}, "disable"), "disable")
  })

  it("a URL in code is another database, with its own password and readers", () => {
    const variables = {
      DATABASE_URL: server,
      DATABASE_READER_URL: "postgres://app:pw@reader.example.com/ledger",
      DATABASE_PASSWORD_FILE: "/run/password"
    }
    assert.isDefined(settings(variables).readers)
    const actual = settings(variables, { url: "postgres://app:own@db2.example.com/books" })
    assert.isUndefined(actual.readers)
    assert.strictEqual(passwordOf(actual), "own")
    const withoutPassword = settings(variables, { url: "postgres://app@db2.example.com/books" })
    const { credentials } = postgres(withoutPassword)
    assert.strictEqual(credentials && Redacted.value(credentials).passwordFile, "/run/password")
    const file = settings({ DATABASE_URL: server, DATABASE_READER_URL: server }, { url: ":memory:" })
    assert.strictEqual(file.target._tag, "sqlite")
  })

  it("name the readers in place of the environment's", () => {
    const hosts = "postgres://app:pw@one,two/ledger"
    const readerUrl = "postgres://app:pw@reader/ledger"
    const named = settings({ DATABASE_URL: hosts, DATABASE_READERS: "auto" }, { readerUrl })
    assert.strictEqual(named.readers?.target._tag === "postgres" && named.readers.target.hosts[0].host, "reader")
    const auto = settings({ DATABASE_URL: hosts, DATABASE_READER_URL: readerUrl }, { readers: "auto" })
    assert.strictEqual(auto.readers?.target._tag === "postgres" && auto.readers.target.hosts.length, 2)
  })

  it("are needed where the environment lacks them", () => {
    assert.deepStrictEqual(namesOf(read({ APP_ENV: "production" }, { poolSize: 3 })), ["DATABASE_URL"])
    assert.strictEqual(settings({ APP_ENV: "production" }, { url: server }).name, "ledger")
  })

  it("are refused at once with the variables, each by its own name", () => {
    const result = read({
      APP_ENV: "staging",
      DATABASE_URL: "postgres://app:hunter2@h:port/ledger",
      DATABASE_POOL_SIZE: "many",
      DATABASE_POOL_TIMEOUT: "nonsense",
      DATABASE_POOL_MIN: "-1"
    }, {
      poolTimeout: -1,
      slowStatement: "soon" as Duration.DurationInput,
      thread: "pool" as "main",
      name: "a\0b",
      password: 3 as unknown as string
    })
    assert.deepStrictEqual(namesOf(result), [
      "APP_ENV",
      "DATABASE_POOL_MIN",
      "DATABASE_POOL_SIZE",
      "DATABASE_URL",
      "name",
      "password",
      "poolTimeout",
      "slowStatement",
      "thread"
    ])
    assert.notInclude(Util.inspect(result, { depth: null }), "hunter2")
  })

  it("a variable that does not fit an option is named", () => {
    const result = read({ DATABASE_URL: server, DATABASE_POOL_MIN: "5" }, { poolSize: 3 })
    assert.deepStrictEqual(namesOf(result), ["DATABASE_POOL_MIN"])
  })
})

describe("resolved settings as options", () => {
  const certificates = {
    sslMode: "verify-full",
    sslRootCert: "/etc/root.pem",
    sslCert: "/etc/c.pem",
    sslKey: "/etc/k.pem"
  } as const
  const all: { readonly [name: string]: DatabaseConfig.Options } = {
    "a server": { url: server },
    "several hosts": { url: "postgres://app:pw@one:1,two:2/ledger?target_session_attrs=any&load_balance_hosts=random" },
    "a socket": { url: "postgres:///ledger?host=/var/run/postgresql&user=app" },
    "readers": { url: server, readerUrl: "postgres://app:pw@a,b/ledger", readerPoolSize: 3, readerWait: 0 },
    "standbys": { url: "postgres://app:pw@one,two/ledger", readers: "auto", readerMaxLag: "1 second" },
    "readers of any kind": { url: server, readerUrl: "postgres://app:pw@a,b/ledger?target_session_attrs=any" },
    "TLS": { url: `${server}?ssl_min_protocol_version=TLSv1.3&sslsni=0&channel_binding=require`, ...certificates },
    "the system's certificates": { url: server, sslRootCert: "system" },
    "credentials": { url: "postgres://h/ledger", user: Effect.succeed("app"), password },
    "a password's file": { url: "postgres://app@h/ledger", passwordFile: "/run/password" },
    "a URL's parameters": {
      url: `${server}?connection_limit=3&pool_timeout=0&connect_timeout=0&schema=a&pgbouncer=true`
    },
    "options": { url: `${server}?options=-c%20search_path%3Dapp`, applicationName: "books", preparedStatements: "off" },
    "no limits": { url: server, poolRecycle: 0, slowStatement: 0, statementTimeout: 0, silence: 0, poolIdleTimeout: 0 },
    "a production": { environment: "production", url: server, poolMin: 0, poolSize: 3, spanParameters: true },
    "memory": { url: ":memory:" },
    "a file": { url: "sqlite:////var/lib/a b%25.db" },
    "a file that is read": { url: "file:a.db?mode=ro", thread: "main" },
    "a file that exists": { url: "file:a.db?mode=rw", journalMode: "truncate" },
    "a file for good": { url: "file:a.db?immutable=1" },
    "a file's settings": {
      url: "sqlite:///a.db?timeout=3",
      pragmas: { busy_timeout: 100, cache_size: -100, trusted_schema: false },
      functions: { ...functions, total: { module: "/srv/functions.js", aggregate: true, export: "sum" } }
    },
    "a file's lock timeout": { url: "sqlite:///a.db", pragmas: { busy_timeout: 100 } },
    "what is in code only": {
      url: server,
      types: { int8: { parse: Number } },
      transformQueryNames: upper,
      transformResultNames: upper,
      transformJson: false,
      spanAttributes: { team: "a" }
    }
  }

  it.each(Object.entries(all))("result in the same settings: %s", (_, options) => {
    const expected = resolved(options)
    const actual = resolved({ ...expected })
    assert.deepStrictEqual(actual, expected)
    assert.deepStrictEqual(postgresCredentials(actual.target), postgresCredentials(expected.target))
    if (expected.target._tag === "postgres") {
      assert.strictEqual(passwordOf(actual), passwordOf(expected))
    }
    assert.deepStrictEqual(resolved({ ...actual, name: "other" }), { ...expected, name: "other" })
    // Beside an environment that says something else.
    const variables = {
      DATABASE_URL: "postgres://x:y@z/w?application_name=v",
      DATABASE_PASSWORD_FILE: "/x",
      DATABASE_APPLICATION_NAME: "x",
      DATABASE_READERS: "auto",
      DATABASE_PRAGMAS: "cache_size=1",
      DATABASE_SSLMODE: "verify-full"
    }
    assert.deepStrictEqual(settings(variables, { ...expected }), expected)
  })

  const postgresCredentials = (target: DatabaseConfig.Settings["target"]) =>
    target._tag === "postgres" && target.credentials !== undefined ? Redacted.value(target.credentials) : undefined

  it("take other options beside them", () => {
    const base = resolved({ url: server, readerUrl: "postgres://app:pw@reader/ledger", passwordFile: "/run/password" })
    const actual = resolved({
      ...base,
      name: "books",
      statementTimeout: "3 seconds",
      poolSize: 2,
      applicationName: "books",
      sslMode: "require",
      password,
      readerPoolSize: 9
    })
    assert.deepInclude(actual, { name: "books", statementTimeout: Duration.seconds(3), poolSize: 2, poolMin: 2 })
    for (const target of [actual.target, actual.readers?.target]) {
      assert(target?._tag === "postgres")
      assert.deepInclude(target, { applicationName: "books", sslMode: "require", username: "app" })
      assert.strictEqual(postgresCredentials(target)?.password, password)
      assert.isUndefined(postgresCredentials(target)?.passwordFile)
    }
    assert.strictEqual(actual.readers?.poolSize, 9)
    const asked = resolved({ url: server, password })
    const fromFile = resolved({ ...asked, passwordFile: "/run/password" }).target
    assert.strictEqual(postgresCredentials(fromFile)?.passwordFile, "/run/password")
    assert.isUndefined(postgresCredentials(fromFile)?.password)
    assert.strictEqual(passwordOf(resolved({ ...asked, password: "hunter2" })), "hunter2")
  })

  it("of SQLite take other options too", () => {
    const base = resolved({ url: "sqlite:///a.db", pragmas: "cache_size=-100", functions, journalMode: "delete" })
    const actual = resolved({ ...base, name: "books", thread: "main", pragmas: { synchronous: "off" } })
    assert.strictEqual(actual.name, "books")
    assert.deepInclude(sqlite(actual), {
      filename: "a.db",
      thread: "main",
      journalMode: "delete",
      pragmas: { synchronous: "off" }
    })
    assert.deepStrictEqual(sqlite(actual).functions, sqlite(base).functions)
    assert.deepStrictEqual(sqlite(resolved({ ...actual, functions: {} })).functions, [])
  })

  it("a URL beside them is another database", () => {
    const base = resolved({ url: "sqlite:///a.db", pragmas: "cache_size=-100" })
    const actual = resolved({ ...base, url: server })
    assert.strictEqual(postgres(actual).username, "app")
    assert.deepStrictEqual(sqlite(resolved({ ...base, url: DatabaseConfig.toUrl(base.target) })).pragmas, undefined)
  })

  it("the readers of another database are refused", () => {
    const base = resolved({ url: server, readerUrl: "postgres://app:pw@reader/ledger" })
    assert.deepStrictEqual(namesOf(DatabaseConfig.resolve({ ...base, url: "postgres://app:pw@db2/books" })), [
      "readers"
    ])
    assert.deepStrictEqual(namesOf(DatabaseConfig.resolve({ ...base, url: ":memory:" })), ["readers"])
    const named = resolved({ ...base, readerUrl: "postgres://app:pw@reader2/ledger" })
    assert.strictEqual(named.readers?.target._tag === "postgres" && named.readers.target.hosts[0].host, "reader2")
    assert.isUndefined(resolved({ ...base, readers: undefined }).readers)
  })

  it("are validated with what is given beside them", () => {
    const base = resolved({ url: server })
    const result = DatabaseConfig.resolve({ ...base, poolTimeout: -1, sslCert: "/c.pem" })
    assert.deepStrictEqual(namesOf(result), ["poolTimeout", "sslKey"])
    for (const target of [{}, { _tag: "mysql" }, { _tag: "toString" }, "postgres"]) {
      const wrong = DatabaseConfig.resolve({ target: target as DatabaseConfig.Settings["target"] })
      assert.deepStrictEqual(namesOf(wrong), ["target"])
    }
  })

  it("an infinite duration is no limit where there can be none", () => {
    const actual = resolved({
      poolRecycle: Duration.infinity,
      slowStatement: Infinity,
      connectTimeout: Duration.infinity
    })
    for (const duration of [actual.poolRecycle, actual.slowStatement, actual.connectTimeout]) {
      assert.isFalse(Duration.isFinite(duration))
    }
    assert.deepStrictEqual(namesOf(read({ DATABASE_POOL_RECYCLE: "Infinity" }, {})), ["DATABASE_POOL_RECYCLE"])
  })
})
