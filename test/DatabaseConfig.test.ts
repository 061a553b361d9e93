import { assert, describe, it, vi } from "@effect/vitest"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import { syncBuiltinESMExports } from "node:module"
import Os from "node:os"
import * as Util from "node:util"
import * as DatabaseConfig from "../src/DatabaseConfig.js"

type Variables = { readonly [name: string]: string }

const load = (variables: Variables) =>
  Effect.runSync(
    Effect.either(DatabaseConfig.config).pipe(
      Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(variables))))
    )
  )

const settings = (variables: Variables): DatabaseConfig.Settings => Either.getOrThrowWith(load(variables), String)

const resolved = (options: DatabaseConfig.Options): DatabaseConfig.Settings =>
  Either.getOrThrowWith(DatabaseConfig.resolve(options), String)

const postgres = (options: DatabaseConfig.Options): DatabaseConfig.PostgresTarget => {
  const { target } = resolved(options)
  assert(target._tag === "postgres")
  return target
}

/** Every single error: its kind, what it names, and its message. */
const flatten = (error: ConfigError.ConfigError): Array<readonly [kind: string, path: string, message: string]> =>
  error._op === "And" || error._op === "Or"
    ? [...flatten(error.left), ...flatten(error.right)]
    : [[error._op, error.path.join("."), error.message]]

const errorsOf = (result: Either.Either<unknown, ConfigError.ConfigError>) =>
  flatten(Either.getOrThrowWith(Either.flip(result), () => "accepted"))

const server = "postgres://app:pw@db.example.com/ledger"

const outputs = (value: unknown): string =>
  [String(value), JSON.stringify(value), Util.inspect(value, { depth: null, showHidden: true })].join("\n")

describe("DatabaseConfig", () => {
  describe("defaults", () => {
    const millis = (duration: Duration.Duration) => Duration.toMillis(duration)

    it("production keeps 10 and 20 more connections, and tries to connect for 30 seconds", () => {
      const actual = settings({ APP_ENV: "production", DATABASE_URL: server })
      assert.strictEqual(actual.environment, "production")
      assert.deepStrictEqual([actual.poolSize, actual.poolMaxOverflow], [10, 20])
      assert.strictEqual(millis(actual.connectRetry), 30_000)
    })

    it.each(["development", "test"])("%s keeps 5 and 10 more connections, and tries to connect once", (environment) => {
      const actual = settings({ APP_ENV: environment, DATABASE_URL: server })
      assert.strictEqual(actual.environment, environment)
      assert.deepStrictEqual([actual.poolSize, actual.poolMaxOverflow], [5, 10])
      assert.strictEqual(millis(actual.connectRetry), 0)
    })

    it("every environment waits equally long", () => {
      for (const environment of ["production", "development", "test"]) {
        const actual = settings({ APP_ENV: environment, DATABASE_URL: server })
        assert.strictEqual(millis(actual.poolTimeout), 30_000)
        assert.strictEqual(millis(actual.poolRecycle), 30 * 60_000)
        assert.strictEqual(millis(actual.poolIdleTimeout), 30_000)
        assert.strictEqual(actual.poolMin, actual.poolSize)
        assert.strictEqual(actual.reset, "auto")
        assert.strictEqual(millis(actual.connectTimeout), 5_000)
        assert.strictEqual(millis(actual.shutdownTimeout), 10_000)
        assert.strictEqual(millis(actual.healthTimeout), 2_000)
        assert.strictEqual(millis(actual.slowStatement), 1_000)
        assert.isUndefined(actual.statementTimeout)
        assert.isUndefined(actual.lockTimeout)
        assert.isUndefined(actual.idleInTransactionTimeout)
        assert.deepStrictEqual(actual.silence, Duration.seconds(10))
        assert.deepStrictEqual(actual.hostRecheck, Duration.seconds(5))
      }
    })

    it("the environment is development", () => {
      assert.strictEqual(settings({}).environment, "development")
      assert.strictEqual(resolved({}).environment, "development")
    })

    it("development uses a SQLite file", () => {
      assert.deepStrictEqual(settings({}).target, {
        _tag: "sqlite",
        filename: "dev.db",
        readOnly: false,
        thread: "worker"
      })
    })

    it("test uses SQLite in memory", () => {
      assert.deepStrictEqual(settings({ APP_ENV: "test" }).target, {
        _tag: "sqlite",
        filename: ":memory:",
        readOnly: false,
        thread: "main"
      })
    })

    it("production needs a URL", () => {
      const [error, ...others] = errorsOf(load({ APP_ENV: "production" }))
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(error?.slice(0, 2), ["MissingData", "DATABASE_URL"])
      assert.include(error?.[2], "postgres:, postgresql:, sqlite: or file:, or :memory:")
      assert.deepStrictEqual(errorsOf(DatabaseConfig.resolve({ environment: "production" }))[0]?.[1], "url")
    })

    it("a server's other settings are libpq's", () => {
      const user = Os.userInfo().username
      assert.deepStrictEqual(postgres({ url: "postgres://" }), {
        _tag: "postgres",
        hosts: [{ host: "localhost", port: 5432 }],
        targetSessionAttrs: "any",
        database: user,
        username: user,
        password: undefined,
        sslMode: "prefer",
        channelBinding: "disable",
        sslRootCert: undefined,
        sslCert: undefined,
        sslKey: undefined,
        applicationName: "sqlayer",
        serverOptions: undefined
      })
      assert.strictEqual(postgres({ url: "postgres://app@h" }).database, "app")
    })

    it("a user is needed where the operating system has none", () => {
      const userInfo = vi.spyOn(Os, "userInfo").mockImplementation(() => {
        throw new Error("no such user")
      })
      syncBuiltinESMExports()
      try {
        assert.deepStrictEqual(
          errorsOf(load({ DATABASE_URL: "postgres://h/db" })).map(([kind, path]) => [kind, path]),
          [["MissingData", "DATABASE_URL"]]
        )
        assert.strictEqual(postgres({ url: "postgres://app@h/db" }).username, "app")
      } finally {
        userInfo.mockRestore()
        syncBuiltinESMExports()
      }
    })

    it("the name is the database's or the file's", () => {
      assert.strictEqual(resolved({ url: server }).name, "ledger")
      assert.strictEqual(resolved({ url: "sqlite:////var/lib/app/ledger.db" }).name, "ledger.db")
      assert.strictEqual(resolved({ url: ":memory:" }).name, ":memory:")
      assert.strictEqual(resolved({ url: server, name: "primary" }).name, "primary")
    })

    it("what code alone can give has a default too", () => {
      const { spanAttributes, spanNames, spanParameters, transformJson, transformQueryNames, transformResultNames } =
        settings({})
      assert.deepStrictEqual([spanAttributes, spanNames, spanParameters, transformJson], [{}, "summary", false, true])
      assert.deepStrictEqual([transformQueryNames, transformResultNames], [undefined, undefined])
    })
  })

  describe("environment", () => {
    it("APP_ENV goes before NODE_ENV", () => {
      assert.strictEqual(settings({ APP_ENV: "test", NODE_ENV: "production" }).environment, "test")
      assert.strictEqual(settings({ NODE_ENV: "test" }).environment, "test")
      assert.strictEqual(settings({ APP_ENV: " ", NODE_ENV: "test" }).environment, "test")
    })

    it.each(["APP_ENV", "NODE_ENV"])("an unknown %s is told with the known ones", (name) => {
      assert.deepStrictEqual(errorsOf(load({ [name]: "staging" })), [
        ["InvalidData", name, "expected one of production, development, test, but was given \"staging\""]
      ])
    })
  })

  describe("SQLite has no pool", () => {
    it.each(["sqlite:///a.db", ":memory:"])("%s is one connection for good, whatever the pool's settings", (url) => {
      const actual = settings({
        APP_ENV: "production",
        DATABASE_URL: url,
        DATABASE_POOL_SIZE: "7",
        DATABASE_POOL_MAX_OVERFLOW: "9",
        DATABASE_POOL_MIN: "0",
        DATABASE_POOL_RECYCLE: "1 minute"
      })
      assert.deepStrictEqual([actual.poolSize, actual.poolMaxOverflow, actual.poolMin], [1, 0, 1])
      assert.isFalse(Duration.isFinite(actual.poolRecycle))
    })

    it("pool settings are validated nevertheless", () => {
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: ":memory:", DATABASE_POOL_SIZE: "0" })).map(([, path]) => path),
        ["DATABASE_POOL_SIZE"]
      )
    })

    it("a file's statements run on a worker unless asked otherwise, memory's never do", () => {
      const thread = (options: DatabaseConfig.Options) => {
        const { target } = resolved(options)
        assert(target._tag === "sqlite")
        return target.thread
      }
      assert.strictEqual(thread({ url: "sqlite:///a.db" }), "worker")
      assert.strictEqual(thread({ url: "sqlite:///a.db", thread: "main" }), "main")
      assert.strictEqual(thread({ url: ":memory:", thread: "worker" }), "main")
    })
  })

  describe("variables", () => {
    it("each sets its own", () => {
      const actual = settings({
        APP_ENV: "production",
        DATABASE_URL: " postgres://app:pw@db.example.com/ledger\n",
        DATABASE_POOL_SIZE: "3",
        DATABASE_POOL_MAX_OVERFLOW: "0",
        DATABASE_POOL_MIN: "2",
        DATABASE_POOL_IDLE_TIMEOUT: "0",
        DATABASE_RESET: "always",
        DATABASE_POOL_TIMEOUT: "1",
        DATABASE_POOL_RECYCLE: "2 minutes",
        DATABASE_CONNECT_TIMEOUT: "3.5",
        DATABASE_CONNECT_RETRY: "4 seconds",
        DATABASE_STATEMENT_TIMEOUT: "5 seconds",
        DATABASE_LOCK_TIMEOUT: "600 millis",
        DATABASE_IDLE_IN_TRANSACTION_TIMEOUT: "7 hours",
        DATABASE_SILENCE: "8 seconds",
        DATABASE_HOST_RECHECK: "9 seconds",
        DATABASE_SHUTDOWN_TIMEOUT: "0",
        DATABASE_HEALTH_TIMEOUT: "9 seconds",
        DATABASE_SLOW_STATEMENT: "250 millis",
        DATABASE_APPLICATION_NAME: "ledger api",
        DATABASE_SSLMODE: "verify-full",
        DATABASE_SSLROOTCERT: "/etc/ca.pem",
        DATABASE_SSLCERT: "/etc/cert.pem",
        DATABASE_SSLKEY: "/etc/key.pem"
      })
      assert.deepInclude(actual, {
        environment: "production",
        name: "ledger",
        poolSize: 3,
        poolMaxOverflow: 0,
        poolMin: 2,
        poolIdleTimeout: Duration.zero,
        reset: "always",
        poolTimeout: Duration.millis(1_000),
        poolRecycle: Duration.millis(120_000),
        connectTimeout: Duration.millis(3_500),
        connectRetry: Duration.millis(4_000),
        statementTimeout: Duration.millis(5_000),
        lockTimeout: Duration.millis(600),
        idleInTransactionTimeout: Duration.millis(7 * 3_600_000),
        silence: Duration.millis(8_000),
        hostRecheck: Duration.millis(9_000),
        shutdownTimeout: Duration.millis(0),
        healthTimeout: Duration.millis(9_000),
        slowStatement: Duration.millis(250)
      })
      assert.deepInclude(actual.target, {
        _tag: "postgres",
        username: "app",
        applicationName: "ledger api",
        sslMode: "verify-full",
        sslRootCert: "/etc/ca.pem",
        sslCert: "/etc/cert.pem",
        sslKey: "/etc/key.pem"
      })
    })

    it("no more connections are kept than the pool has", () => {
      const [[, , message]] = errorsOf(load({ DATABASE_URL: server, DATABASE_POOL_SIZE: "3", DATABASE_POOL_MIN: "4" }))
      assert.include(message, "a whole number, from 0 to 3")
      assert.strictEqual(settings({ DATABASE_URL: server, DATABASE_POOL_MIN: "0" }).poolMin, 0)
    })

    it("all wrong ones are reported at once, each by its name", () => {
      const wrong = {
        APP_ENV: "staging",
        DATABASE_URL: "mysql://app:pw@h/db",
        DATABASE_POOL_SIZE: "many",
        DATABASE_POOL_MAX_OVERFLOW: "-1",
        DATABASE_POOL_MIN: "-1",
        DATABASE_POOL_IDLE_TIMEOUT: "a while",
        DATABASE_RESET: "never",
        DATABASE_POOL_TIMEOUT: "0",
        DATABASE_POOL_RECYCLE: "1 fortnight",
        DATABASE_CONNECT_TIMEOUT: "0",
        DATABASE_CONNECT_RETRY: "-3 seconds",
        DATABASE_STATEMENT_TIMEOUT: "soon",
        DATABASE_LOCK_TIMEOUT: "0.1 millis",
        DATABASE_IDLE_IN_TRANSACTION_TIMEOUT: "25 days",
        DATABASE_SILENCE: "for ever",
        DATABASE_HOST_RECHECK: "0",
        DATABASE_SHUTDOWN_TIMEOUT: "never",
        DATABASE_HEALTH_TIMEOUT: "0",
        DATABASE_SLOW_STATEMENT: "slow",
        DATABASE_APPLICATION_NAME: "a\nb",
        DATABASE_SSLMODE: "verify_full",
        DATABASE_SSLROOTCERT: "a\nb",
        DATABASE_SSLCERT: "a\nb",
        DATABASE_SSLKEY: "a\nb"
      }
      const errors = errorsOf(load(wrong))
      assert.deepStrictEqual(errors.map(([, path]) => path).sort(), Object.keys(wrong).sort())
      for (const [kind, , message] of errors) {
        assert.strictEqual(kind, "InvalidData")
        assert.match(message, /^expected .+, but was given .+$/)
      }
    })

    it("a wrong parameter of the URL is reported with everything else", () => {
      const errors = errorsOf(
        load({ DATABASE_URL: "postgres://u@h:0/db?sslmode=strict&foo=1", DATABASE_POOL_SIZE: "x" })
      )
      assert.deepStrictEqual(errors.map(([, path]) => path).sort(), [
        "DATABASE_POOL_SIZE",
        "DATABASE_URL",
        "DATABASE_URL",
        "DATABASE_URL"
      ])
    })

    it("a missing URL is reported with everything else", () => {
      assert.deepStrictEqual(
        errorsOf(load({ APP_ENV: "production", DATABASE_POOL_SIZE: "x" })).map(([kind, path]) => [kind, path]),
        [["InvalidData", "DATABASE_POOL_SIZE"], ["MissingData", "DATABASE_URL"]]
      )
    })

    it("an empty one counts as not given", () => {
      const names = [
        "APP_ENV",
        "NODE_ENV",
        "DATABASE_URL",
        "DATABASE_POOL_SIZE",
        "DATABASE_POOL_TIMEOUT",
        "DATABASE_STATEMENT_TIMEOUT",
        "DATABASE_APPLICATION_NAME",
        "DATABASE_SSLMODE",
        "DATABASE_SSLKEY"
      ]
      for (const blank of ["", "  "]) {
        assert.deepStrictEqual(settings(Object.fromEntries(names.map((name) => [name, blank]))), settings({}))
      }
      assert.strictEqual(errorsOf(load({ APP_ENV: "production", DATABASE_URL: "" }))[0]?.[0], "MissingData")
    })

    it("the message says what is wrong in one sentence", () => {
      assert.deepStrictEqual(errorsOf(load({ DATABASE_POOL_SIZE: "1.5", DATABASE_CONNECT_RETRY: "soon" })), [
        ["InvalidData", "DATABASE_POOL_SIZE", "expected a whole number, at least 1, but was given \"1.5\""],
        [
          "InvalidData",
          "DATABASE_CONNECT_RETRY",
          "expected a duration such as \"30 seconds\", \"500 millis\" or \"30\" (seconds), from 1 millisecond to " +
          "24 days, or 0 (one attempt), but was given \"soon\""
        ]
      ])
    })
  })

  describe("providers", () => {
    it.effect("a nested provider", () =>
      Effect.gen(function*() {
        const provider = ConfigProvider.fromMap(new Map([["app.DATABASE_URL", server]])).pipe(
          ConfigProvider.nested("app")
        )
        const actual = yield* Effect.withConfigProvider(DatabaseConfig.config, provider)
        assert.strictEqual(actual.name, "ledger")
      }))

    it.effect("a nested config, whose errors tell the whole path", () =>
      Effect.gen(function*() {
        const provider = ConfigProvider.fromMap(
          new Map([["app.DATABASE_URL", server], ["app.DATABASE_POOL_SIZE", "x"], ["app.DATABASE_POOL_TIMEOUT", "x"]])
        )
        const error = yield* Effect.flip(
          Effect.withConfigProvider(Config.nested(DatabaseConfig.config, "app"), provider)
        )
        assert.deepStrictEqual(flatten(error).map(([, path]) => path), [
          "app.DATABASE_POOL_SIZE",
          "app.DATABASE_POOL_TIMEOUT"
        ])
      }))

    it.effect("the process's environment, and JSON", () =>
      Effect.gen(function*() {
        const json = ConfigProvider.fromJson({ DATABASE_URL: server, DATABASE_POOL_SIZE: 4 })
        assert.strictEqual((yield* Effect.withConfigProvider(DatabaseConfig.config, json)).poolSize, 4)
        process.env["SQLAYER_TEST_DATABASE_URL"] = server
        const env = ConfigProvider.fromEnv().pipe(ConfigProvider.nested("SQLAYER_TEST"))
        const actual = yield* Effect.withConfigProvider(DatabaseConfig.config, env).pipe(
          Effect.ensuring(Effect.sync(() => delete process.env["SQLAYER_TEST_DATABASE_URL"]))
        )
        assert.strictEqual(actual.name, "ledger")
      }))

    it("a production without a URL can be given a default", () => {
      const exit = Effect.runSync(
        Config.option(DatabaseConfig.config).pipe(
          Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["APP_ENV", "production"]])))
        )
      )
      assert.strictEqual(exit._tag, "None")
    })
  })

  describe("durations", () => {
    const millisOf = (given: unknown) =>
      Either.map(
        DatabaseConfig.resolve({ poolTimeout: given as Duration.DurationInput }),
        ({ poolTimeout }) => Duration.toMillis(poolTimeout)
      )

    it.each<readonly [unknown, number]>([
      ["30 seconds", 30_000],
      ["500 millis", 500],
      ["1.5 seconds", 1_500],
      ["30", 30_000],
      ["0.25", 250],
      [" 2 minutes ", 120_000],
      ["1 milli", 1],
      ["24 days", 24 * 86_400_000],
      ["1500 micros", 2],
      [250, 250],
      [5_000_000n, 5],
      [[1, 500_000_000], 1_500],
      [Duration.seconds(3), 3_000]
    ])("%s is %d milliseconds", (given, expected) => {
      assert.deepStrictEqual(millisOf(given), Either.right(expected))
    })

    it.each<readonly [unknown]>([
      ["0"],
      ["0 seconds"],
      ["-1"],
      ["-1 seconds"],
      ["1e3"],
      ["0x10"],
      ["30s"],
      ["seconds"],
      ["Infinity"],
      ["25 days"],
      ["999 micros"],
      [0],
      [-1],
      [Number.NaN],
      [Number.POSITIVE_INFINITY],
      [-5n],
      [[-1, 0]],
      [[1]],
      [{}],
      [true],
      [Symbol("1 second")],
      [() => "1 second"],
      [Duration.zero],
      [Duration.infinity]
    ])("%s is refused", (given) => {
      const errors = errorsOf(millisOf(given))
      assert.deepStrictEqual(errors.map(([kind, path]) => [kind, path]), [["InvalidData", "poolTimeout"]])
    })

    it("zero is no limit where there can be none", () => {
      const actual = resolved({
        url: server,
        connectRetry: 0,
        shutdownTimeout: 0,
        statementTimeout: 0,
        lockTimeout: "0 seconds",
        idleInTransactionTimeout: Duration.zero,
        silence: Duration.zero,
        poolRecycle: 0
      })
      const { connectRetry, idleInTransactionTimeout, lockTimeout, shutdownTimeout, silence, statementTimeout } = actual
      const timeouts = [connectRetry, shutdownTimeout, silence, statementTimeout, lockTimeout, idleInTransactionTimeout]
      for (const duration of timeouts) {
        assert.deepStrictEqual(duration, Duration.millis(0))
      }
      assert.isFalse(Duration.isFinite(actual.poolRecycle))
    })
  })

  describe("whole numbers", () => {
    it.each(["0", "-1", "1.5", "1e3", "0x10", "ten", "99999999999999999999"])("a pool of %s is refused", (size) => {
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: server, DATABASE_POOL_SIZE: size })).map(([, path]) => path),
        ["DATABASE_POOL_SIZE"]
      )
    })

    it("an overflow may be none", () => {
      assert.strictEqual(resolved({ url: server, poolMaxOverflow: 0 }).poolMaxOverflow, 0)
      for (const poolMaxOverflow of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
        assert.deepStrictEqual(errorsOf(DatabaseConfig.resolve({ poolMaxOverflow })).map(([, path]) => path), [
          "poolMaxOverflow"
        ])
      }
    })
  })

  describe("options in code", () => {
    it("follow the same rules and are named as in code", () => {
      const options = {
        environment: "staging" as DatabaseConfig.Environment,
        url: "postgres://h:port",
        poolSize: 0,
        poolTimeout: -1,
        sslMode: "on" as DatabaseConfig.SslMode,
        thread: "pool" as "main",
        name: "a\0b"
      }
      assert.deepStrictEqual(
        errorsOf(DatabaseConfig.resolve(options)).map(([, path]) => path).sort(),
        Object.keys(options).sort()
      )
    })

    it("give what no variable can", () => {
      const upper = (name: string) => name.toUpperCase()
      const lower = (name: string) => name.toLowerCase()
      const actual = resolved({
        transformQueryNames: upper,
        transformResultNames: lower,
        transformJson: true,
        spanAttributes: { service: "ledger" },
        spanNames: "effect-sql",
        spanParameters: true
      })
      assert.deepInclude(actual, {
        transformQueryNames: upper,
        transformResultNames: lower,
        transformJson: true,
        spanAttributes: { service: "ledger" },
        spanNames: "effect-sql",
        spanParameters: true
      })
      assert.deepStrictEqual(
        errorsOf(DatabaseConfig.resolve({ spanNames: "sql.execute" as never })).map(([, path]) => path),
        ["spanNames"]
      )
    })

    it("take the URL as text or redacted", () => {
      assert.strictEqual(resolved({ url: Redacted.make(server) }).name, "ledger")
      assert.strictEqual(resolved({ url: Redacted.make(" ") }).name, "dev.db")
    })

    it("refuse a URL that is no text without showing it", () => {
      for (
        const url of [{ password: "hunter2" }, Redacted.make({ password: "hunter2" }), 5, new URL("file:///hunter2")]
      ) {
        const result = DatabaseConfig.resolve({ url: url as unknown as string })
        assert.deepStrictEqual(errorsOf(result).map(([, path]) => path), ["url"])
        assert.notInclude(outputs(result), "hunter2")
      }
    })
  })

  describe("readers", () => {
    const several = "postgres://app:pw@one,two:5433,three/ledger"

    it("are none unless they are named", () => {
      assert.isUndefined(settings({ DATABASE_URL: several, DATABASE_READER_POOL_SIZE: "3" }).readers)
    })

    it("are the standbys among several hosts, or those of a URL of their own", () => {
      const auto = settings({ DATABASE_URL: several, DATABASE_READERS: "auto", DATABASE_POOL_SIZE: "7" }).readers!
      assert(auto.target._tag === "postgres")
      assert.deepStrictEqual(auto.target.hosts.map(({ host, port }) => `${host}:${port}`), [
        "one:5432",
        "two:5433",
        "three:5432"
      ])
      assert.strictEqual(auto.target.targetSessionAttrs, "standby")
      assert.strictEqual(auto.poolSize, 7)
      assert.deepStrictEqual([auto.maxLag, auto.wait].map(Duration.toMillis), [10_000, 100])
      const own = settings({
        DATABASE_URL: server,
        DATABASE_READER_URL: "postgres://app:pw@reader.example.com/ledger",
        DATABASE_READER_POOL_SIZE: "4",
        DATABASE_READER_MAX_LAG: "3",
        DATABASE_READER_WAIT: "0"
      }).readers!
      assert(own.target._tag === "postgres")
      assert.deepStrictEqual(own.target.hosts, [{ host: "reader.example.com", port: 5432 }])
      assert.strictEqual(own.poolSize, 4)
      assert.deepStrictEqual([own.maxLag, own.wait].map(Duration.toMillis), [3_000, 0])
      const attrs = (parameters: string) => {
        const { target } = resolved({ url: server, readerUrl: `${several}${parameters}` }).readers!
        assert(target._tag === "postgres")
        return target.targetSessionAttrs
      }
      assert.strictEqual(attrs(""), "standby")
      assert.strictEqual(attrs("?target_session_attrs=prefer-standby"), "standby")
      assert.strictEqual(attrs("?target_session_attrs=any"), "any")
    })

    it("that are wrong are reported, each by its name", () => {
      const names = (variables: Variables) => errorsOf(load(variables)).map(([, path]) => path)
      assert.sameMembers(
        names({
          DATABASE_URL: several,
          DATABASE_READER_URL: "postgres://app:secret@reader:port/ledger",
          DATABASE_READERS: "all",
          DATABASE_READER_POOL_SIZE: "0",
          DATABASE_READER_MAX_LAG: "0",
          DATABASE_READER_WAIT: "soon"
        }),
        [
          "DATABASE_READER_URL",
          "DATABASE_READERS",
          "DATABASE_READER_POOL_SIZE",
          "DATABASE_READER_MAX_LAG",
          "DATABASE_READER_WAIT"
        ]
      )
      assert.deepStrictEqual(names({ DATABASE_URL: server, DATABASE_READERS: "auto" }), ["DATABASE_READERS"])
      assert.deepStrictEqual(
        names({ DATABASE_URL: several, DATABASE_READERS: "auto", DATABASE_READER_URL: server }),
        ["DATABASE_READERS"]
      )
      assert.deepStrictEqual(
        names({ DATABASE_URL: server, DATABASE_READER_URL: "sqlite:///reader.db" }),
        ["DATABASE_READER_URL"]
      )
      assert.deepStrictEqual(
        names({ DATABASE_URL: server, DATABASE_READER_URL: `${server}?target_session_attrs=most` }),
        ["DATABASE_READER_URL"]
      )
      const secret = errorsOf(
        DatabaseConfig.resolve({ url: server, readerUrl: "postgres://app:secret@reader:port/ledger" })
      )
      assert.notInclude(outputs(secret), "secret")
    })

    it("are refused by a database that is one file", () => {
      const errors = errorsOf(load({
        DATABASE_URL: "sqlite:///ledger.db",
        DATABASE_READER_URL: server,
        DATABASE_READERS: "auto",
        DATABASE_READER_POOL_SIZE: "2",
        DATABASE_READER_MAX_LAG: "1",
        DATABASE_READER_WAIT: "1"
      }))
      assert.strictEqual(errors.length, 5)
      errors.forEach(([, path, message]) => {
        assert.match(path, /^DATABASE_READER/)
        assert.include(message, "the database is a single file and has no readers")
      })
    })
  })

  describe("TLS", () => {
    it.each(["disable", "allow", "prefer", "require", "verify-full"] as const)("sslmode %s", (sslMode) => {
      assert.strictEqual(postgres({ url: `${server}?sslmode=${sslMode}` }).sslMode, sslMode)
      assert.strictEqual(postgres({ url: server, sslMode }).sslMode, sslMode)
    })

    it("the stronger sslmode holds", () => {
      assert.strictEqual(postgres({ url: `${server}?sslmode=require`, sslMode: "verify-full" }).sslMode, "verify-full")
      assert.strictEqual(postgres({ url: `${server}?sslmode=require`, sslMode: "disable" }).sslMode, "require")
      assert.strictEqual(postgres({ url: `${server}?sslmode=disable`, sslMode: "disable" }).sslMode, "disable")
    })

    it("verify-ca needs root certificates", () => {
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: `${server}?sslmode=verify-ca` })).map(([kind, path]) => [kind, path]),
        [["MissingData", "DATABASE_SSLROOTCERT"]]
      )
      assert.strictEqual(postgres({ url: server, sslMode: "verify-ca", sslRootCert: "ca.pem" }).sslMode, "verify-ca")
    })

    it("a certificate needs its key, and a key its certificate", () => {
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: `${server}?sslcert=a.pem` })).map(([kind, path]) => [kind, path]),
        [["MissingData", "DATABASE_SSLKEY"]]
      )
      assert.deepStrictEqual(
        errorsOf(DatabaseConfig.resolve({ url: server, sslKey: "a.key" })).map(([kind, path]) => [kind, path]),
        [["MissingData", "sslCert"]]
      )
      const { sslCert, sslKey } = postgres({ url: `${server}?sslcert=a.pem`, sslKey: "a.key" })
      assert.deepStrictEqual([sslCert, sslKey], ["a.pem", "a.key"])
    })

    it("the system's root certificates verify everything", () => {
      const target = postgres({ url: `${server}?sslrootcert=system` })
      assert.deepStrictEqual([target.sslMode, target.sslRootCert], ["verify-full", undefined])
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: server, DATABASE_SSLROOTCERT: "system", DATABASE_SSLMODE: "require" }))
          .map(([kind, path]) => [kind, path]),
        [["InvalidData", "DATABASE_SSLMODE"]]
      )
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: `${server}?sslrootcert=system&sslmode=require` })).map(([, path]) => path),
        ["DATABASE_URL"]
      )
    })

    it("a key in place of its file's name is refused and not shown", () => {
      const key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"
      const result = load({ DATABASE_URL: server, DATABASE_SSLCERT: "a.pem", DATABASE_SSLKEY: key })
      assert.include(errorsOf(result).map(([, path]) => path), "DATABASE_SSLKEY")
      assert.notInclude(outputs(result), "hunter2")
    })
  })

  describe("what the URL says goes before the options", () => {
    it("as in libpq", () => {
      const url = `${server}?application_name=url&connect_timeout=7&sslrootcert=url.pem&sslcert=url.crt&sslkey=url.key`
      const options = {
        url,
        applicationName: "option",
        connectTimeout: "1 second",
        sslRootCert: "option.pem",
        sslCert: "option.crt",
        sslKey: "option.key"
      } as const
      assert.deepInclude(postgres(options), {
        applicationName: "url",
        sslRootCert: "url.pem",
        sslCert: "url.crt",
        sslKey: "url.key"
      })
      assert.deepStrictEqual(resolved(options).connectTimeout, Duration.millis(7_000))
    })

    it("and where it asks for no limit to connecting", () => {
      const options = { url: `${server}?connect_timeout=0`, connectTimeout: "1 second" } as const
      assert.deepStrictEqual(resolved(options).connectTimeout, Duration.infinity)
    })

    it("a SQLite file's timeout is the one for locks, in seconds", () => {
      const options = { url: "sqlite+aiosqlite:///ledger.db?timeout=2.5", lockTimeout: "1 second" } as const
      assert.deepStrictEqual(resolved(options).lockTimeout, Duration.millis(2_500))
      assert.deepStrictEqual(
        resolved({ ...options, url: "sqlite:///ledger.db" }).lockTimeout,
        Duration.millis(1_000)
      )
    })

    it("and is validated as they are", () => {
      assert.deepStrictEqual(
        errorsOf(load({ DATABASE_URL: `${server}?connect_timeout=soon&target_session_attrs=master` })),
        [
          [
            "InvalidData",
            "DATABASE_URL",
            "expected parameter target_session_attrs to be one of any, read-write, read-only, primary, standby, " +
            "prefer-standby, but was given \"master\""
          ],
          [
            "InvalidData",
            "DATABASE_URL",
            "expected parameter connect_timeout to be a duration such as \"30 seconds\", \"500 millis\" or \"30\" " +
            "(seconds), from 1 millisecond to 24 days, or 0 (no limit), but was given \"soon\""
          ]
        ]
      )
    })
  })

  describe("secrets", () => {
    it("settings hold the password redacted", () => {
      for (const url of ["postgres://app:hunter2@h/db", "postgres://h/db?user=app&password=hunter2"]) {
        const actual = resolved({ url })
        assert.notInclude(outputs(actual), "hunter2")
        assert.notInclude(outputs(settings({ DATABASE_URL: url })), "hunter2")
        assert(actual.target._tag === "postgres" && actual.target.password !== undefined)
        assert.strictEqual(Redacted.value(actual.target.password), "hunter2")
        assert.notInclude(DatabaseConfig.render(actual.target), "hunter2")
        assert.notInclude(outputs(DatabaseConfig.toUrl(actual.target)), "hunter2")
        assert.include(Redacted.value(DatabaseConfig.toUrl(actual.target)), "hunter2")
      }
    })

    it("options with a redacted URL show nothing of it", () => {
      assert.notInclude(outputs({ url: Redacted.make("postgres://app:hunter2@h/db") }), "hunter2")
    })

    it.each(["hunter2\nhunter2", `hunter2${"x".repeat(60)}`])("a key, or a part of one, is not shown: %j", (value) => {
      for (const name of ["DATABASE_POOL_SIZE", "DATABASE_SSLMODE"]) {
        const result = load({ [name]: value })
        assert.deepStrictEqual(errorsOf(result).map(([, path]) => path), [name])
        assert.include(errorsOf(result)[0]?.[2], `${value.length} characters (not shown)`)
        assert.notInclude(outputs(result), "hunter2")
      }
    })

    it("a URL in the wrong variable is not shown", () => {
      for (const name of ["APP_ENV", "DATABASE_POOL_SIZE", "DATABASE_POOL_TIMEOUT", "DATABASE_SSLMODE"]) {
        const result = load({ [name]: "postgres://app:hunter2@h/db" })
        assert.deepStrictEqual(errorsOf(result).map(([, path]) => path), [name])
        assert.notInclude(outputs(result), "hunter2")
      }
    })
  })
})
