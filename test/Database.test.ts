/**
 * The layers and `make`: what they provide, how they fail, and how they end.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { pipe } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { inspect } from "node:util"
import * as Database from "../src/Database.js"
import * as DatabaseConfig from "../src/DatabaseConfig.js"
import * as DatabaseError from "../src/DatabaseError.js"
import * as Session from "../src/Session.js"
import { assertHoldsNot } from "./internal/renderings.js"
import { directory, file } from "./internal/sqlite/support.js"
import { eventually } from "./support/eventually.js"
import { connections } from "./support/observe.js"
import { freshDatabase, query, server, url as sharedUrl } from "./support/postgres.js"
import { freePort } from "./support/serverProcess.js"

let names = 0

/** A name that no other client of the shared server has. */
const uniqueName = () => `database-test-${process.pid}-${++names}`

const environment = (variables: Record<string, string>) =>
  Layer.setConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(variables))))

const withDatabase = (url: string, change: (url: URL) => void): string => {
  const changed = new URL(url)
  change(changed)
  return changed.toString()
}

/** What a ConfigError says; anything else is not accepted. */
const configError = (error: unknown): string => {
  if (!ConfigError.isConfigError(error)) {
    assert.fail(`not a ConfigError: ${inspect(error)}`)
  }
  return inspect(error)
}

const numbers = Effect.map(
  Effect.flatMap(SqlClient.SqlClient, (sql) => sql<{ n: number }>`SELECT n FROM numbers ORDER BY n`),
  (rows) => rows.map(({ n }) => n)
)

const numbersOf = (database: Database.Service) => Effect.provide(numbers, database.context)

const createNumbers = (sql: SqlClient.SqlClient) => sql`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`

/** What is logged, in place of printing it. */
const collect = (messages: Array<string>) =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ cause, message }) => {
      messages.push(`${String(message)} ${Cause.pretty(cause)}`)
    })
  )

/** Why the database cannot be opened: a value and never a defect, with how long it took and what was logged. */
const refusal = (options: DatabaseConfig.Options) =>
  Effect.gen(function*() {
    const logged: Array<string> = []
    const [elapsed, exit] = yield* Layer.build(Database.layerFrom(options)).pipe(
      Effect.scoped,
      Effect.exit,
      Effect.timed,
      Effect.provide(collect(logged))
    )
    if (Exit.isSuccess(exit)) {
      return yield* Effect.dieMessage("the database was opened")
    }
    const failure = Cause.failureOrCause(exit.cause)
    if (Either.isRight(failure)) {
      return yield* Effect.dieMessage(`it did not fail: ${Cause.pretty(failure.right)}`)
    }
    return { error: failure.left, millis: Duration.toMillis(elapsed), logged }
  })

/** A port that accepts connections and never answers. */
const blackHole = Effect.acquireRelease(
  Effect.promise(async () => {
    const open = new Set<Net.Socket>()
    const listener = Net.createServer((socket) => {
      open.add(socket)
      socket.on("error", () => {})
      socket.resume()
      socket.on("close", () => open.delete(socket))
    })
    listener.listen(0, "127.0.0.1")
    await once(listener, "listening")
    const { port } = listener.address() as Net.AddressInfo
    return { listener, open, port }
  }),
  ({ listener, open }) =>
    Effect.promise(async () => {
      open.forEach((socket) => socket.destroy())
      listener.close()
      await once(listener, "close")
    })
)

const secret = "hunter2-is-secret"

describe("the layer", () => {
  it.scopedLive("reads the environment: PostgreSQL", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const applicationName = uniqueName()
      const context = yield* Layer.build(
        Database.layer.pipe(Layer.provide(environment({
          APP_ENV: "production",
          DATABASE_URL: url,
          DATABASE_APPLICATION_NAME: applicationName,
          DATABASE_STATEMENT_TIMEOUT: "7 seconds"
        })))
      )
      const database = Context.get(context, Database.Database)
      const sql = Context.get(context, SqlClient.SqlClient)
      assert.strictEqual(database.dialect, "postgres")
      assert.strictEqual(database.sql, sql)
      assert.strictEqual(Context.unsafeGet(context, PgClient.PgClient) as unknown, sql)
      assert.strictEqual(Context.getOption(context, SqliteClient.SqliteClient)._tag, "None")
      const [row] = yield* sql<{ timeout: string; name: string }>`
        SELECT current_setting('statement_timeout') AS timeout, current_setting('application_name') AS name`
      assert.deepStrictEqual(row, { timeout: "7s", name: applicationName })
      assert.strictEqual((yield* connections(url, { applicationName })).total, 1)
    }))

  it.scopedLive("reads the environment: SQLite", () =>
    Effect.gen(function*() {
      const path = yield* file
      const context = yield* Layer.build(
        Database.layer.pipe(Layer.provide(environment({ NODE_ENV: "production", DATABASE_URL: `sqlite:///${path}` })))
      )
      const database = Context.get(context, Database.Database)
      assert.strictEqual(database.dialect, "sqlite")
      assert.strictEqual(
        Context.unsafeGet(context, SqliteClient.SqliteClient) as unknown,
        Context.get(context, SqlClient.SqlClient)
      )
      assert.strictEqual(Context.getOption(context, PgClient.PgClient)._tag, "None")
      yield* createNumbers(database.sql)
      assert.isTrue(Fs.existsSync(path))
    }))

  it.scopedLive("is in memory where a test says nothing else", () =>
    Effect.gen(function*() {
      assert.isTrue(yield* Database.health)
      const [row] = yield* Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT 1 AS one`)
      assert.deepStrictEqual(row, { one: 1 })
    }).pipe(Effect.provide(Database.layer.pipe(Layer.provide(environment({ APP_ENV: "test" }))))))

  it.scopedLive("reads a part of the environment of a larger configuration", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const provider = ConfigProvider.fromMap(
        new Map([["LEDGER.DATABASE_URL", url], ["LEDGER.DATABASE_POOL_SIZE", "2"]])
      )
      const stats = yield* Database.poolStats.pipe(
        Effect.provide(Database.layer),
        Effect.withConfigProvider(ConfigProvider.nested(provider, "LEDGER"))
      )
      assert.strictEqual(stats.size, 2)
    }))

  it.scopedLive("is sized by the environment", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const path = yield* file
      const figures = (APP_ENV: string, DATABASE_URL: string) =>
        Database.poolStats.pipe(
          Effect.map(({ maximum, overflow, size }) => ({ maximum, overflow, size })),
          Effect.provide(Database.layer.pipe(Layer.provide(environment({ APP_ENV, DATABASE_URL }))))
        )
      assert.deepStrictEqual(yield* figures("production", url), { maximum: 30, overflow: 20, size: 10 })
      assert.deepStrictEqual(yield* figures("development", url), { maximum: 15, overflow: 10, size: 5 })
      assert.deepStrictEqual(yield* figures("test", url), { maximum: 15, overflow: 10, size: 5 })
      assert.deepStrictEqual(yield* figures("production", `sqlite:///${path}`), { maximum: 1, overflow: 0, size: 1 })
    }))

  it.effect("keeps trying for 30 seconds in production, and tries once elsewhere", () =>
    Effect.gen(function*() {
      const url = "postgres://127.0.0.1/db"
      for (const [environment, millis] of [["production", 30_000], ["development", 0], ["test", 0]] as const) {
        const settings = yield* DatabaseConfig.resolve({ environment, url })
        assert.strictEqual(Duration.toMillis(settings.connectRetry), millis, environment)
      }
    }))

  it.live("fails with a ConfigError that names the variables", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(
        Database.layer.pipe(Layer.provide(environment({
          DATABASE_URL: `mysql://app:${secret}@127.0.0.1/db`,
          DATABASE_POOL_SIZE: "many"
        })))
      )))
      const text = configError(error)
      assert.include(text, "DATABASE_URL")
      assert.include(text, "DATABASE_POOL_SIZE")
      assert.notInclude(text, secret)
    }))

  it.live("fails with a ConfigError in production without a URL", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(
        Database.layer.pipe(Layer.provide(environment({ APP_ENV: "production" })))
      )))
      const text = configError(error)
      assert.include(text, "DATABASE_URL")
    }))
})

describe("layerWith", () => {
  it.scopedLive("takes a password that is an Effect, types and transforms beside the environment", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      let asked = 0
      const layer = Database.layerWith({
        name: "books",
        password: Effect.sync(() => {
          asked++
          return decodeURIComponent(new URL(url).password)
        }),
        types: { int8: { parse: BigInt } },
        transformResultNames: (name) => name.toUpperCase(),
        spanAttributes: { team: "a" }
      })
      const [rows, stats] = yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        return [yield* sql`SELECT 1::int8 AS value`, yield* Database.poolStats]
      }).pipe(Effect.provide(layer.pipe(Layer.provide(environment({
        DATABASE_URL: withDatabase(url, (url) => url.password = "wrong"),
        DATABASE_POOL_SIZE: "3"
      })))))
      assert.deepStrictEqual(rows, [{ VALUE: 1n }])
      assert.deepInclude(stats, { name: "books", size: 3 })
      assert.isAtLeast(asked, 1)
    }))

  it.scopedLive("takes functions and the thread of a SQLite file", () =>
    Effect.gen(function*() {
      const module = Path.join(yield* directory, "functions.mjs")
      Fs.writeFileSync(module, "export const twice = (value) => 2 * value")
      const layer = Database.layerWith({
        functions: { twice: { module } },
        thread: "main",
        pragmas: { cache_size: -123 }
      })
      const rows = yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        return [yield* sql`SELECT twice(3) AS value`, yield* sql`PRAGMA cache_size`]
      }).pipe(Effect.provide(layer.pipe(Layer.provide(environment({ DATABASE_URL: `sqlite:///${yield* file}` })))))
      assert.deepStrictEqual(rows, [[{ value: 6 }], [{ cache_size: -123 }]])
    }))

  it.live("fails with one ConfigError that names variables and options", () =>
    Effect.gen(function*() {
      const layer = Database.layerWith({ poolTimeout: -1, name: "a\0b" })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(layer.pipe(Layer.provide(environment({
        DATABASE_URL: `mysql://app:${secret}@127.0.0.1/db`,
        DATABASE_POOL_SIZE: "many"
      }))))))
      configError(error)
      const text = inspect(error, { depth: null })
      for (const name of ["DATABASE_URL", "DATABASE_POOL_SIZE", "poolTimeout", "name"]) {
        assert.include(text, name)
      }
      assert.notInclude(text, secret)
    }))

  it.scopedLive("resolved settings open the same database, with other options, and a second one beside it", () =>
    Effect.gen(function*() {
      for (const url of [yield* freshDatabase, `sqlite:///${yield* file}`]) {
        const variables = environment({ DATABASE_URL: url })
        const settings = yield* Effect.provide(DatabaseConfig.config, variables)
        const second = yield* Effect.provide(
          Effect.flatMap(DatabaseConfig.configWith({ name: "jobs" }), Database.make),
          variables
        )
        yield* Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          yield* sql`CREATE TABLE note (text VARCHAR(10))`
          yield* sql`INSERT INTO note VALUES ('a')`
          assert.strictEqual((yield* Database.poolStats).name, "notes")
        }).pipe(Effect.provide(Database.layerFrom({ ...settings, name: "notes", slowStatement: "2 seconds" })))
        assert.deepStrictEqual(yield* second.sql`SELECT text FROM note`, [{ text: "a" }])
        assert.strictEqual((yield* second.poolStats).name, "jobs")
      }
    }))
})

describe("layerConfig", () => {
  it.scopedLive("takes what a configuration says, with what the code says", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const layer = Database.layerConfig({
        url: Config.redacted("LEDGER_URL"),
        poolSize: Config.integer("LEDGER_CONNECTIONS"),
        name: Config.succeed("ledger")
      })
      const stats = yield* Database.poolStats.pipe(
        Effect.provide(layer.pipe(Layer.provide(environment({ LEDGER_URL: url, LEDGER_CONNECTIONS: "3" }))))
      )
      assert.strictEqual(stats.size, 3)
      assert.strictEqual(stats.name, "ledger")
    }))

  it.live("fails with a ConfigError where the configuration is missing or wrong", () =>
    Effect.gen(function*() {
      const missing = yield* Effect.flip(Effect.scoped(Layer.build(
        Database.layerConfig({ url: Config.string("LEDGER_URL") }).pipe(Layer.provide(environment({})))
      )))
      const text = configError(missing)
      assert.include(text, "LEDGER_URL")
      const wrong = yield* Effect.flip(Effect.scoped(Layer.build(
        Database.layerConfig({ url: Config.succeed(":memory:"), poolSize: Config.succeed(0) })
      )))
      const other = configError(wrong)
      assert.include(other, "poolSize")
    }))

  const wrong = (config: Parameters<typeof Database.layerConfig>[0], variables: { readonly [name: string]: string }) =>
    Effect.scoped(Layer.build(Database.layerConfig(config).pipe(Layer.provide(environment(variables))))).pipe(
      Effect.flip,
      Effect.map((error) =>
        ConfigError.isConfigError(error)
          ? ConfigError.reduceWithContext<undefined, Array<string>>(error, undefined, {
            andCase: (_, left, right) => [...left, ...right],
            orCase: (_, left, right) => [...left, ...right],
            invalidDataCase: (_, path, message) => [`${path.join(".")}: ${message}`],
            missingDataCase: (_, path, message) => [`missing ${path.join(".")}: ${message}`],
            sourceUnavailableCase: () => [],
            unsupportedCase: () => []
          })
          : assert.fail(`${error._tag}: ${error.message}`)
      )
    )

  it.live("names what an option was read from, all of them at once", () =>
    Effect.gen(function*() {
      const given = { SIZE: "0", "POOL.WAIT": "0 seconds", LEDGER_URL: "postgres://ada:hunter2@h:x/db" }
      const messages = yield* wrong({
        url: Config.redacted("LEDGER_URL"),
        poolSize: Config.withDefault(Config.integer("SIZE"), 5),
        poolTimeout: Config.nested(Config.duration("WAIT"), "POOL"),
        poolMaxOverflow: Config.succeed(-1)
      }, given)
      assert.deepStrictEqual(messages.map((message) => message.slice(0, message.indexOf(":"))).sort(), [
        "LEDGER_URL",
        "POOL.WAIT",
        "SIZE",
        "poolMaxOverflow"
      ])
      assert.include(messages.join("\n"), "SIZE: expected a whole number, at least 1, but was given 0")
      assert.notInclude(messages.join("\n"), "hunter2")
    }))

  it.live("and by its own name where that is not one variable", () =>
    Effect.gen(function*() {
      const sum = Config.map(Config.all([Config.integer("A"), Config.integer("B")]), ([a, b]) => a + b)
      const [message] = yield* wrong({ url: Config.succeed(":memory:"), poolSize: sum }, { A: "1", B: "-2" })
      assert.include(message, "poolSize: expected")
      const options = Config.map(Config.integer("SIZE"), (poolSize) => ({ url: ":memory:", poolSize }))
      const [other] = yield* wrong(options, { SIZE: "0" })
      assert.include(other, "poolSize: expected")
      const production = { environment: Config.literal("production")("WHERE") }
      assert.include((yield* wrong(production, { WHERE: "production" }))[0], "missing url: expected")
    }))
})

describe("two databases in one application", () => {
  class Ledger extends Context.Tag("test/Ledger")<Ledger, Database.Service>() {}

  const notMixed = (main: DatabaseConfig.Options, second: DatabaseConfig.Options) =>
    Effect.gen(function*() {
      const database = yield* Database.Database
      const ledger = yield* Ledger
      const mine = yield* SqlClient.SqlClient
      yield* createNumbers(mine)
      yield* createNumbers(ledger.sql)

      // Each statement goes to its own database, whatever session it is written in.
      yield* Database.session(
        Effect.gen(function*() {
          yield* mine`INSERT INTO numbers VALUES (1)`
          yield* ledger.sql`INSERT INTO numbers VALUES (100)`
          yield* ledger.session(Effect.zipRight(
            ledger.sql`INSERT INTO numbers VALUES (101)`,
            mine`INSERT INTO numbers VALUES (2)`
          ))
        })
      )
      assert.deepStrictEqual(yield* numbers, [1, 2])
      assert.deepStrictEqual(yield* numbersOf(ledger), [100, 101])

      // A rollback of the outer one takes nothing of the other with it, nor the other way round.
      yield* Effect.flip(Database.session(Effect.gen(function*() {
        yield* mine`INSERT INTO numbers VALUES (3)`
        yield* ledger.session(ledger.sql`INSERT INTO numbers VALUES (102)`)
        return yield* Effect.fail("outer")
      })))
      yield* Database.session(Effect.zipRight(
        mine`INSERT INTO numbers VALUES (4)`,
        Effect.flip(ledger.session(Effect.zipRight(
          Effect.zip(ledger.sql`INSERT INTO numbers VALUES (103)`, mine`INSERT INTO numbers VALUES (5)`),
          Effect.fail("inner")
        )))
      ))
      assert.deepStrictEqual(yield* numbers, [1, 2, 4, 5])
      assert.deepStrictEqual(yield* numbersOf(ledger), [100, 101, 102])
      assert.strictEqual((yield* database.poolStats).used, 0)
      assert.strictEqual((yield* ledger.poolStats).used, 0)
    }).pipe(
      Effect.provide(Layer.merge(Database.layerFrom(main), Layer.scoped(Ledger, Database.make(second))))
    )

  it.scopedLive("are not mixed: two of PostgreSQL", () =>
    Effect.flatMap(
      Effect.zip(freshDatabase, freshDatabase),
      ([first, second]) => notMixed({ url: first }, { url: second, poolSize: 1, poolMaxOverflow: 0 })
    ))

  it.scopedLive("are not mixed: PostgreSQL and SQLite", () =>
    Effect.flatMap(
      Effect.zip(freshDatabase, file),
      ([first, second]) => notMixed({ url: first }, { url: `sqlite:///${second}` })
    ))

  it.scopedLive("are not mixed: two of SQLite", () =>
    Effect.flatMap(
      Effect.zip(file, file),
      ([first, second]) => notMixed({ url: `sqlite:///${first}` }, { url: `sqlite:///${second}` })
    ))
})

describe("a database that cannot be opened", () => {
  it.live("because of its options names them", () =>
    Effect.gen(function*() {
      const { error } = yield* refusal({
        url: Redacted.make(`postgres://app:${secret}@127.0.0.1:port/db`),
        poolSize: -1,
        name: "ledger"
      })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.isFalse(DatabaseError.isRetryable(error))
      assert.include(error.message, "url")
      assert.include(error.message, "poolSize")
      assertHoldsNot(error, secret)
    }))

  it.live("because the port is closed", () =>
    Effect.gen(function*() {
      const port = yield* Effect.promise(freePort)
      const { error, logged, millis } = yield* refusal({ url: `postgres://app:${secret}@127.0.0.1:${port}/db` })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.isTrue(DatabaseError.isRetryable(error))
      assert.include(error.message, `127.0.0.1:${port}/db`)
      assert.isBelow(millis, 20_000)
      // The failure itself says it.
      assert.deepStrictEqual(logged, [])
      assertHoldsNot(error, secret)
    }))

  it.scopedLive("because nothing answers, within connectTimeout", () =>
    Effect.gen(function*() {
      const { open, port } = yield* blackHole
      const url = `postgres://app:${secret}@127.0.0.1:${port}/db`
      // The default is 5 seconds.
      const slower = yield* Effect.fork(refusal({ url }))
      const { error, millis } = yield* refusal({ url, connectTimeout: "300 millis" })
      assert.isNull(slower.unsafePoll())
      yield* Fiber.interrupt(slower)
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.isTrue(DatabaseError.isRetryable(error))
      assert.isAtLeast(millis, 250)
      yield* eventually(Effect.sync(() => open.size === 0))
      assertHoldsNot(error, secret)
    }))

  it.scopedLive("because whoever waits for it no longer does, leaving no socket", () =>
    Effect.gen(function*() {
      const { open, port } = yield* blackHole
      const fiber = yield* Effect.fork(
        refusal({ url: `postgres://app@127.0.0.1:${port}/db`, connectRetry: "1 minute" })
      )
      yield* eventually(Effect.sync(() => open.size === 1))
      const [elapsed] = yield* Effect.timed(Fiber.interrupt(fiber))
      assert.isBelow(Duration.toMillis(elapsed), 30_000)
      yield* eventually(Effect.sync(() => open.size === 0))
    }))

  it.live("because the password is wrong", () =>
    Effect.gen(function*() {
      const applicationName = uniqueName()
      const { error, millis } = yield* refusal({
        url: withDatabase(sharedUrl(), (url) => {
          url.password = secret
        }),
        applicationName,
        connectRetry: "30 seconds"
      })
      assert.strictEqual(error._tag, "AuthenticationFailed")
      assert.isBelow(millis, 20_000)
      assertHoldsNot(error, secret)
      yield* eventually(Effect.map(connections(sharedUrl(), { applicationName }), ({ total }) => total === 0))
    }))

  it.live("because the server does not know it", () =>
    Effect.gen(function*() {
      const applicationName = uniqueName()
      const { error, millis } = yield* refusal({
        url: withDatabase(sharedUrl(), (url) => {
          url.pathname = "/nowhere"
        }),
        applicationName,
        connectRetry: "30 seconds"
      })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.strictEqual(error.code, "3D000")
      assert.isFalse(DatabaseError.isRetryable(error))
      assert.isBelow(millis, 20_000)
      assertHoldsNot(error, new URL(sharedUrl()).password)
      yield* eventually(Effect.map(connections(sharedUrl(), { applicationName }), ({ total }) => total === 0))
    }))

  it.live("because the server has no TLS", () =>
    Effect.gen(function*() {
      const { error, millis } = yield* refusal({ url: sharedUrl(), sslMode: "require", connectRetry: "30 seconds" })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.isFalse(DatabaseError.isRetryable(error))
      assert.isBelow(millis, 20_000)
      assertHoldsNot(error, new URL(sharedUrl()).password)
    }))

  it.scopedLive("because the directory is missing", () =>
    Effect.gen(function*() {
      const path = Path.join(yield* directory, "missing", "app.db")
      const { error, millis } = yield* refusal({ url: `sqlite:///${path}` })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.include(error.message, path)
      assert.isBelow(millis, 20_000)
      assert.isFalse(Fs.existsSync(path))
    }))

  it.scopedLive("because the file is no database", () =>
    Effect.gen(function*() {
      const path = yield* file
      Fs.writeFileSync(path, "this is the diary of a cat\n".repeat(200))
      const { error } = yield* refusal({ url: `sqlite:///${path}`, connectRetry: "30 seconds" })
      assert.strictEqual(error._tag, "DatabaseCorrupt")
      // On Linux it can be seen that nobody holds the file any more.
      if (Fs.existsSync("/proc/self/fd")) {
        yield* eventually(Effect.sync(() => !openFiles().includes(path)))
      }
    }))

  it.scopedLive("because the server has too many clients", () =>
    Effect.gen(function*() {
      const own = yield* server({
        maxConnections: 4,
        config: { superuser_reserved_connections: "0", reserved_connections: "0", max_wal_senders: "0" }
      })
      const application = uniqueName()
      yield* Effect.scoped(Effect.gen(function*() {
        const first = yield* Database.make({ url: own.url, name: application, poolSize: 4 })
        yield* Effect.forEach([1, 2, 3, 4], () =>
          Effect.flatMap(first.acquireSession(), ({ run }) => run(first.sql`SELECT 1`)))
        const { error } = yield* refusal({ url: own.url })
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.strictEqual(error.code, "53300")
        assert.isTrue(DatabaseError.isRetryable(error))
      }))
      // It can pass: when the first application has gone there is room again.
      const second = yield* Database.make({ url: own.url, connectRetry: "20 seconds" })
      assert.isTrue(yield* second.health)
    }))
})

describe("a URL as libpq and SQLAlchemy write it", () => {
  it.scopedLive("asks several hosts, without a limit to the time that it takes", () =>
    Effect.gen(function*() {
      const { hostname, password, pathname, port, username } = new URL(yield* freshDatabase)
      const hosts = `host=${hostname}:${yield* Effect.promise(freePort)}&host=${hostname}:${port}`
      const database = yield* Database.make({
        url: `postgresql+asyncpg://${username}:${password}@${pathname}?${hosts}&connect_timeout=0`
      })
      assert.isTrue(yield* database.health)
    }))

  it.scopedLive("waits for another's lock on a SQLite file as long as it says", () =>
    Effect.gen(function*() {
      const path = `${yield* directory}/ledger.db`
      const first = yield* Database.make({ url: `sqlite:///${path}` })
      const second = yield* Database.make({ url: `sqlite+aiosqlite:///${path}?timeout=0.2&check_same_thread=false` })
      const error = yield* first.session(Effect.gen(function*() {
        yield* first.sql`CREATE TABLE a (b)`
        return yield* Effect.flip(second.session(second.sql`CREATE TABLE c (d)`))
      }))
      assert.strictEqual(error._tag, "LockTimeout")
    }))
})

describe("the types of session", () => {
  interface Other {
    readonly _: unique symbol
  }
  type Given = Effect.Effect<number, SqlError | "mine", Session.Session | Other>
  type Ran<R> = Effect.Effect<number, "mine" | DatabaseError.DatabaseError, R>

  it("are the effect's, however it is called", () => {
    const given = Effect.succeed(1) as Given
    const own = Database.session
    expectTypeOf(own(given)).toEqualTypeOf<Ran<Database.Database | Other>>()
    expectTypeOf(own(given, { name: "a", readOnly: true })).toEqualTypeOf<Ran<Database.Database | Other>>()
    expectTypeOf(given.pipe(own())).toEqualTypeOf<Ran<Database.Database | Other>>()
    expectTypeOf(given.pipe(own({ retry: true }))).toEqualTypeOf<Ran<Database.Database | Other>>()
    expectTypeOf(pipe(given, own(undefined))).toEqualTypeOf<Ran<Database.Database | Other>>()
    const of = (service: Database.Service) => {
      expectTypeOf(service.session(given)).toEqualTypeOf<Ran<Other>>()
      expectTypeOf(service.session(given, { name: "a" })).toEqualTypeOf<Ran<Other>>()
      expectTypeOf(given.pipe(service.session())).toEqualTypeOf<Ran<Other>>()
      expectTypeOf(given.pipe(service.session({ timeout: "1 second" }))).toEqualTypeOf<Ran<Other>>()
    }
    // A tag is an effect too, and has a name as options have.
    expectTypeOf(own(Session.Session)).toEqualTypeOf<
      Effect.Effect<Session.Service, DatabaseError.DatabaseError, Database.Database>
    >()
    assert.isFunction(of)
  })

  it("refuse what would be lost: options that there are not, and a call that was left out", () => {
    const given = Effect.succeed(1) as Given
    // @ts-expect-error misspelt
    assert.isFunction(Database.session({ isolaton: "serializable" }))
    // @ts-expect-error It runs all the same, but its types would be unknown.
    assert.isTrue(Effect.isEffect(given.pipe(Database.session)))
  })
})

/** The files that this process has open. */
const openFiles = (): ReadonlyArray<string> =>
  Fs.readdirSync("/proc/self/fd").flatMap((descriptor) => {
    try {
      return [Fs.readlinkSync(`/proc/self/fd/${descriptor}`)]
    } catch {
      return []
    }
  })

describe("start-up", () => {
  it.scopedLive("waits for a server that comes later, and logs each reason once", () =>
    Effect.gen(function*() {
      const own = yield* server()
      yield* own.stop("fast")
      yield* Effect.forkScoped(Effect.delay(own.start, "1 second"))
      const logged: Array<string> = []
      const [elapsed, database] = yield* Effect.timed(
        Database.make({ url: own.url, connectRetry: "30 seconds" })
      ).pipe(Effect.provide(collect(logged)))
      assert.isTrue(yield* database.health)
      assert.isAtLeast(Duration.toMillis(elapsed), 900)
      assert.isBelow(Duration.toMillis(elapsed), 30_000)
      const { connectFailures } = yield* database.poolStats
      assert.isAtLeast(connectFailures, 2)
      assert.isAtLeast(logged.length, 1)
      assert.strictEqual(new Set(logged).size, logged.length)
      assert.isTrue(logged.every((message) => message.includes(`127.0.0.1:${own.port}`)))
      assert.notInclude(logged.join(), new URL(own.url).password)
    }))

  it.live("tries once where it is not told to retry", () =>
    Effect.gen(function*() {
      const port = yield* Effect.promise(freePort)
      const { logged, millis } = yield* refusal({
        url: `postgres://app@127.0.0.1:${port}/db`,
        environment: "development"
      })
      assert.deepStrictEqual(logged, [])
      assert.isBelow(millis, 20_000)
    }))

  it.live("gives up at the limit", () =>
    Effect.gen(function*() {
      const port = yield* Effect.promise(freePort)
      const { error, logged, millis } = yield* refusal({
        url: `postgres://app@127.0.0.1:${port}/db`,
        connectRetry: "3 seconds"
      })
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.isAtLeast(millis, 1_000)
      assert.isBelow(millis, 20_000)
      assert.lengthOf(logged, 1)
    }))
})

/** What is logged here is expected. */
const silent = Logger.withMinimumLogLevel(LogLevel.None)

describe("shutdown", () => {
  const dialects = [
    ["PostgreSQL", freshDatabase],
    ["SQLite", Effect.map(file, (path) => `sqlite:///${path}`)]
  ] as const

  const open = (options: DatabaseConfig.Options) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const database = yield* Scope.extend(Database.make(options), scope)
      return { database, close: Scope.close(scope, Exit.void) }
    })

  for (const [dialect, freshUrl] of dialects) {
    it.scopedLive(`waits for what runs, refuses what is new, and leaves nothing open: ${dialect}`, () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const applicationName = uniqueName()
        const { close, database } = yield* open({ url, applicationName })
        const { sql } = database
        yield* createNumbers(sql)
        const began = yield* Deferred.make<void>()
        const finish = yield* Deferred.make<void>()
        const session = yield* Effect.fork(database.session(Effect.gen(function*() {
          yield* sql`INSERT INTO numbers VALUES (1)`
          yield* Deferred.succeed(began, undefined)
          yield* Deferred.await(finish)
          yield* sql`INSERT INTO numbers VALUES (2)`
        })))
        yield* Deferred.await(began)
        const closing = yield* Effect.fork(close)
        yield* eventually(
          Effect.map(
            Effect.either(database.session(sql`SELECT 1`)),
            (result) => Either.isLeft(result) && result.left._tag === "DatabaseClosed"
          )
        )
        const statement = yield* Effect.flip(sql`SELECT 1`)
        assert.strictEqual(DatabaseError.fromSqlError(statement)._tag, "DatabaseClosed")
        const handle = Effect.scoped(Effect.flatMap(database.acquireSession(), ({ run }) => run(sql`SELECT 1`)))
        assert.strictEqual((yield* Effect.flip(DatabaseError.typed(handle)))._tag, "DatabaseClosed")
        assert.isNull(closing.unsafePoll())
        yield* Deferred.succeed(finish, undefined)
        yield* Fiber.join(session)
        yield* Fiber.join(closing)
        assert.strictEqual(DatabaseError.fromSqlError(yield* Effect.flip(sql`SELECT 1`))._tag, "DatabaseClosed")
        if (dialect === "PostgreSQL") {
          yield* eventually(Effect.map(connections(url, { applicationName }), ({ total }) => total === 0))
        }
        const again = yield* Database.make({ url })
        assert.deepStrictEqual(yield* numbersOf(again), [1, 2])
      }).pipe(silent))

    it.scopedLive(`waits no longer than shutdownTimeout: ${dialect}`, () =>
      Effect.gen(function*() {
        const url = yield* freshUrl
        const applicationName = uniqueName()
        const { close, database } = yield* open({ url, applicationName, shutdownTimeout: "300 millis" })
        const { sql } = database
        yield* createNumbers(sql)
        const began = yield* Deferred.make<void>()
        const finish = yield* Deferred.make<void>()
        const session = yield* Effect.fork(Effect.exit(database.session(Effect.gen(function*() {
          yield* sql`INSERT INTO numbers VALUES (1)`
          yield* Deferred.succeed(began, undefined)
          yield* Deferred.await(finish)
          yield* sql`INSERT INTO numbers VALUES (2)`
        }))))
        yield* Deferred.await(began)
        const [elapsed] = yield* Effect.timed(close)
        assert.isAtLeast(Duration.toMillis(elapsed), 250)
        assert.isBelow(Duration.toMillis(elapsed), 20_000)
        if (dialect === "PostgreSQL") {
          yield* eventually(Effect.map(connections(url, { applicationName }), ({ total }) => total === 0))
        }
        yield* Deferred.succeed(finish, undefined)
        const exit = yield* Fiber.join(session)
        const failure = Exit.isFailure(exit) ? Cause.failureOrCause(exit.cause) : undefined
        assert.isTrue(failure !== undefined && Either.isLeft(failure), String(exit))
        const again = yield* Database.make({ url })
        assert.deepStrictEqual(yield* numbersOf(again), [])
      }).pipe(silent))
  }

  it.scopedLive("ends a layer's database with the layer", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const applicationName = uniqueName()
      const sql = yield* Effect.provide(
        Effect.tap(SqlClient.SqlClient, (sql) => query(url, "SELECT 1").pipe(Effect.zipRight(createNumbers(sql)))),
        Database.layerFrom({ url, applicationName })
      )
      assert.strictEqual(DatabaseError.fromSqlError(yield* Effect.flip(createNumbers(sql)))._tag, "DatabaseClosed")
      yield* eventually(Effect.map(connections(url, { applicationName }), ({ total }) => total === 0))
    }))
})
