import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { once } from "node:events"
import * as Net from "node:net"
import * as Util from "node:util"
import * as Database from "../src/Database.js"
import * as DatabaseConfig from "../src/DatabaseConfig.js"
import { type DatabaseError, fromSqlError, isDatabaseError } from "../src/DatabaseError.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import { openDatabases } from "../src/internal/database/opened.js"
import * as Migrations from "../src/Migrations.js"
import type * as Session from "../src/Session.js"
import { run as runCli } from "./internal/cli/process.js"
import { assertHoldsNot } from "./internal/renderings.js"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { awkward, fuzz } from "./support/hostile.js"
import { canary } from "./support/hostileServer.js"
import { send, serve } from "./support/http.js"

/** Every form in which a value may be shown. */
const shown = (value: unknown): string =>
  [
    String(value),
    JSON.stringify(value),
    Util.inspect(value, { depth: null, showHidden: true }),
    value instanceof Error ? `${value.message} ${value.stack}` : ""
  ].join("\n")

const secret = "S3cretCanary"

/** Without halves of characters, which cannot be percent-encoded. */
const wellFormed = (text: string): string => text.replace(/\p{Surrogate}/gu, "")

const resolved = (options: DatabaseConfig.Options, what: string): void => {
  const either = DatabaseConfig.resolve(options)
  if (Either.isLeft(either)) {
    assert.notInclude(shown(either.left), secret, what)
    assert.notInclude(Cause.pretty(Cause.fail(either.left)), secret, what)
    return
  }
  const settings = either.right
  assert.notInclude(shown(settings), secret, what)
  assert.notInclude(DatabaseConfig.render(settings.target), secret, what)
  const again = DatabaseConfig.resolve({ ...options, url: DatabaseConfig.toUrl(settings.target) })
  assert(Either.isRight(again), `${what}: ${shown(again)}`)
  if (settings.target._tag === "postgres") {
    // What the options say besides the URL is in it now.
    assert.deepStrictEqual(Util.inspect(again.right.target), Util.inspect(settings.target), what)
    const password = (target: DatabaseConfig.Settings["target"]) =>
      target._tag === "postgres" && target.password !== undefined ? Redacted.value(target.password) : undefined
    assert.strictEqual(password(again.right.target), password(settings.target), what)
  }
}

const part = FastCheck.oneof(
  awkward,
  FastCheck.constantFrom(
    "",
    "/",
    "?",
    "#",
    "@",
    ":",
    "%",
    "&",
    "=",
    "//",
    "a",
    "h:1",
    ",",
    "[",
    "]",
    "\\",
    " ",
    "\n",
    "+"
  )
)

const scheme = FastCheck.constantFrom(
  "postgres",
  "postgresql",
  "POSTGRES",
  "postgresql+asyncpg",
  "sqlite",
  "file",
  "mysql"
)

describe("a URL", () => {
  it.live("of whatever kind is taken or refused, and its password is never shown", () =>
    fuzz(
      FastCheck.record({ scheme, user: part, before: part, after: part, host: part, database: part, search: part }),
      1_500,
      ({ after, before, database, host, scheme, search, user }) =>
        Effect.sync(() => {
          const password = `${before}${secret}${after}`
          const urls = [
            `${scheme}://${encodeURIComponent(wellFormed(user))}:${
              encodeURIComponent(wellFormed(password))
            }@${host}/${database}?${search}`,
            // Nothing is escaped that should be.
            `${scheme}://user:${password}@host/db`,
            `${scheme}://user@host/db?password=${password}`,
            `${scheme}://user@host/db?password=${password}&${search}`
          ]
          for (const url of urls) {
            for (const given of [url, Redacted.make(url)]) {
              resolved({ url: given, environment: "test" }, JSON.stringify(url))
            }
          }
        })
    ))

  it.live("of any text is taken or refused", () =>
    fuzz(
      FastCheck.oneof(FastCheck.string({ unit: "binary" }), awkward),
      1_000,
      (url) => Effect.sync(() => resolved({ url, environment: "production" }, JSON.stringify(url)))
    ))
})

const variables = [
  "APP_ENV",
  "NODE_ENV",
  "DATABASE_POOL_SIZE",
  "DATABASE_POOL_MAX_OVERFLOW",
  "DATABASE_POOL_TIMEOUT",
  "DATABASE_POOL_RECYCLE",
  "DATABASE_CONNECT_TIMEOUT",
  "DATABASE_CONNECT_RETRY",
  "DATABASE_STATEMENT_TIMEOUT",
  "DATABASE_LOCK_TIMEOUT",
  "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT",
  "DATABASE_SHUTDOWN_TIMEOUT",
  "DATABASE_HEALTH_TIMEOUT",
  "DATABASE_SLOW_STATEMENT",
  "DATABASE_APPLICATION_NAME",
  "DATABASE_SSLMODE",
  "DATABASE_SSLROOTCERT",
  "DATABASE_SSLCERT",
  "DATABASE_SSLKEY"
]

const settingText = FastCheck.oneof(
  awkward,
  FastCheck.constantFrom(
    "0",
    "-1",
    "1e9",
    "NaN",
    "Infinity",
    "9".repeat(400),
    "5 seconds",
    "-5 seconds",
    "0x10",
    "1_000"
  )
)

describe("the environment", () => {
  it.live("of whatever values is taken or refused as a whole, by name, without the password", () =>
    fuzz(
      FastCheck.dictionary(FastCheck.constantFrom(...variables), settingText),
      1_500,
      (values) =>
        Effect.gen(function*() {
          const url = `postgres://user:${secret}@host/db`
          const provider = ConfigProvider.fromMap(new Map(Object.entries({ ...values, DATABASE_URL: url })))
          const exit = yield* Effect.exit(Effect.withConfigProvider(DatabaseConfig.config, provider))
          if (Exit.isSuccess(exit)) {
            assert.notInclude(shown(exit.value), secret)
            for (const value of Object.values(exit.value)) {
              assert.isFalse(typeof value === "number" && !Number.isSafeInteger(value))
            }
          } else {
            assert.strictEqual(exit.cause._tag, "Fail", Cause.pretty(exit.cause))
            assert.notInclude(shown(exit.cause) + Cause.pretty(exit.cause), secret)
            assert.match(Cause.pretty(exit.cause), /DATABASE_|APP_ENV|NODE_ENV/)
          }
        })
    ))
})

/** The error, where an effect fails with the database's own, and what it came to where not. */
const outcome = <A, E, R>(effect: Effect.Effect<A, E, R>, what: string) =>
  Effect.map(Effect.exit(effect), (exit): Either.Either<A, DatabaseError> => {
    if (Exit.isSuccess(exit)) {
      return Either.right(exit.value)
    }
    assert(exit.cause._tag === "Fail", `${what}: ${Cause.pretty(exit.cause)}`)
    const { error } = exit.cause as { readonly error: any }
    const typed = isDatabaseError(error) ? error : fromSqlError(error)
    assertHoldsNot(typed, canary)
    return Either.left(typed)
  })

/** Text that would end a quotation and begin something worse. */
const injections = [
  `x"; DROP TABLE victim; --`,
  `x'; DROP TABLE victim; --`,
  "x`; DROP TABLE victim; --",
  "x; DELETE FROM victim; --",
  `x\\"; DROP TABLE victim; --`,
  `x" (a TEXT); DELETE FROM victim; --`,
  `x"""; DELETE FROM victim; --`,
  "x\0\"; DROP TABLE victim; --",
  `x\u02BA; DROP TABLE victim; --`,
  `$$; DROP TABLE victim; $$`,
  "x*/; DROP TABLE victim; /*"
]

const name = FastCheck.oneof(
  { weight: 1, arbitrary: FastCheck.constantFrom(...injections) },
  { weight: 2, arbitrary: awkward }
)

const withVictim = (dialect: Dialects.Dialect, options?: Parameters<typeof Dialects.make>[1]) =>
  Effect.gen(function*() {
    const database = yield* Dialects.make(dialect, options)
    yield* database.sql`CREATE TABLE victim (id INTEGER PRIMARY KEY)`
    yield* database.sql`INSERT INTO victim VALUES (1)`
    return {
      database,
      unharmed: Effect.gen(function*() {
        assert.deepStrictEqual(yield* database.sql`SELECT id FROM victim`, [{ id: 1 }])
        const { used, waiting } = yield* database.poolStats
        assert.deepStrictEqual({ used, waiting }, { used: 0, waiting: 0 })
      })
    }
  })

const silently = Effect.provide(Logger.remove(Logger.defaultLogger))

const live = <A, E>(title: string, body: () => Effect.Effect<A, E, Scope.Scope>, timeout?: number): void => {
  it.scopedLive(title, () => silently(body()), timeout)
}

const badOptions: ReadonlyArray<readonly [option: string, values: ReadonlyArray<unknown>]> = [
  ["isolation", [
    "serializable; DROP TABLE victim",
    "SERIALIZABLE",
    "read  committed",
    "",
    "__proto__",
    "constructor",
    "toString",
    null,
    1,
    true,
    {},
    ["serializable"]
  ]],
  ["propagation", ["nest", "NEW", "", "__proto__", null, true, 0]],
  ["commit", ["verify", "VERIFIED", true, "", null]],
  ["readOnly", ["false", 0, null, {}]],
  ["deferrable", ["true", 1, null]],
  ["timeout", ["soon", "5", -1, Number.NaN, null, {}, "-5 seconds", [-1, 0], true]],
  ["statementTimeout", ["0; DROP TABLE victim", -1, Number.NaN, null, "-1 millis"]],
  ["lockTimeout", ["0; DROP TABLE victim", -1, Number.NaN, null]],
  ["retry", ["yes", 3, null, {}]],
  ["name", [1, null, {}, Symbol("name")]]
]

for (const dialect of Dialects.dialects) {
  describe(`on ${dialect.name}`, () => {
    live("identifiers hold whatever they are given, and nothing else happens", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        const { sql } = database
        yield* fuzz(FastCheck.tuple(name, name), 60, ([table, column]) =>
          Effect.gen(function*() {
            const what = JSON.stringify([table, column])
            const made = yield* outcome(sql`CREATE TABLE ${sql(table)} (${sql(column)} TEXT)`, what)
            const inserted = yield* outcome(sql`INSERT INTO ${sql(table)} ${sql.insert({ [column]: canary })}`, what)
            if (Either.isRight(made)) {
              assert(Either.isRight(inserted), what)
              const rows = yield* sql`SELECT ${sql(column)} AS it FROM ${sql(table)}`
              assert.deepStrictEqual(rows, [{ it: canary }], what)
              yield* outcome(sql`UPDATE ${sql(table)} SET ${sql.update({ [column]: "x" })}`, what)
              yield* sql`DROP TABLE ${sql(table)}`
            }
            yield* unharmed
          }))
      }), 240_000)

    live("savepoints may be called anything", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        const { acquire } = openDatabases.get(database.sql)!
        yield* fuzz(name, 40, (savepoint) =>
          Effect.gen(function*() {
            const what = JSON.stringify(savepoint)
            yield* Effect.scoped(Effect.gen(function*() {
              const connection = yield* acquire
              yield* connection.begin({})
              const made = yield* outcome(connection.savepoint(savepoint), what)
              if (Either.isRight(made)) {
                yield* connection.executeRaw("INSERT INTO victim VALUES (2)", [])
                const undone = yield* outcome(connection.rollbackToSavepoint(savepoint), what)
                assert(Either.isRight(undone), what)
                assert.deepStrictEqual(
                  yield* connection.executeValues("SELECT id FROM victim", []),
                  [[1]],
                  what
                )
              }
              yield* outcome(connection.rollback, what)
            }))
            yield* unharmed
          }))
      }), 240_000)

    live("sessions may be called anything, which is shown as it is", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        yield* fuzz(name, 40, (name) =>
          Effect.gen(function*() {
            yield* database.session(
              Effect.gen(function*() {
                const { sessions } = yield* database.activity
                assert.deepStrictEqual(sessions.map((session) => session.name), [name])
                yield* database.session(database.sql`SELECT 1`, { name })
              }),
              { name, isolation: "serializable" }
            )
            yield* unharmed
          }))
      }))

    live("an option that there is not is refused before anything is done, and named", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        let ran = 0
        const work = Effect.sync(() => ran++)
        for (const [option, values] of badOptions) {
          for (const value of values) {
            const options = { [option]: value } as Session.Options
            const what = `${option}: ${Util.inspect(value)}`
            const { created } = yield* database.poolStats
            for (
              const [how, begun] of [
                ["session", database.session(work, options)],
                ["nested", database.session(database.session(work, options))],
                ["joined", database.session(database.session(work, { propagation: "join", ...options }))],
                ["acquired", Effect.scoped(database.acquireSession(options))],
                ["piped", database.session(options)(work)]
              ] as const
            ) {
              const result = yield* outcome<unknown, unknown, never>(begun, `${what}, ${how}`)
              assert(Either.isLeft(result), `${what}, ${how}: accepted`)
              assert.strictEqual(result.left._tag, "InvalidData", `${what}, ${how}`)
              assert.strictEqual(result.left.code, "22023")
              assert.include(result.left.message, option, how)
            }
            assert.strictEqual((yield* database.poolStats).created, created, what)
          }
        }
        for (const options of ["serializable", null, 1] as unknown as ReadonlyArray<Session.Options>) {
          const result = yield* outcome(database.session(work, options), Util.inspect(options))
          assert(Either.isLeft(result) && result.left._tag === "InvalidData", Util.inspect(options))
        }
        assert.strictEqual(ran, 0)
        yield* unharmed
        // What there is, is accepted.
        yield* database.session(work, {
          isolation: "serializable",
          readOnly: false,
          timeout: Duration.infinity,
          retry: true
        })
        assert.strictEqual(ran, 1)
      }))

    live("migrations may be called anything, and so may their table", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        const context = Context.add(database.context, Database.Database, database)
        yield* fuzz(FastCheck.tuple(name, name), 25, ([table, title]) =>
          Effect.gen(function*() {
            const what = JSON.stringify([table, title])
            const exit = yield* Migrations.run({
              table,
              loader: Migrations.fromRecord({ [`0001_${title}`]: "SELECT 1" })
            }).pipe(Effect.provide(context), Effect.exit)
            if (Exit.isFailure(exit)) {
              assert.strictEqual(exit.cause._tag, "Fail", `${what}: ${Cause.pretty(exit.cause)}`)
            }
            yield* unharmed
          }))
      }).pipe(Effect.orDie), 240_000)

    live("requests for health and for the dashboard may ask anything", () =>
      Effect.gen(function*() {
        const { database, unharmed } = yield* withVictim(dialect)
        const context = Context.add(database.context, Database.Database, database)
        const app = yield* Effect.provide(DatabaseHttp.dashboard({ guard: Effect.succeed(true) }), context)
        for (const served of [serve(DatabaseHttp.healthRoutes), serve(app)]) {
          const port = yield* Effect.provide(served, context)
          const path = FastCheck.tuple(
            FastCheck.constantFrom("/health/ready", "/health/live", "/health", "/", "//", "/../.."),
            FastCheck.constantFrom("", "/", "?", "?data=", "?script=", "?__proto__[x]=", "?data=1&data=", "/%2e%2e/"),
            awkward
          ).map(([first, second, rest]) => first + second + encodeURIComponent(wellFormed(rest)))
          yield* fuzz(
            FastCheck.tuple(FastCheck.constantFrom("GET", "HEAD", "POST", "DELETE", "OPTIONS"), path),
            40,
            ([method, path]) =>
              Effect.map(send(port, method, path), ({ body, status }) => {
                assert.isBelow(status, 500, `${method} ${path}: ${body}`)
                assert.notInclude(body, canary)
                assert.notInclude(body, "<script>alert")
              })
          )
          yield* garbage(port)
          const { status } = yield* send(port, "GET", "/health/live")
          assert.isBelow(status, 500)
        }
        yield* eventually(Effect.map(database.poolStats, ({ used }) => used === 0))
        yield* unharmed
      }).pipe(Effect.orDie), 240_000)
  })
}

/** What is no HTTP at all. */
const garbage = (port: number) =>
  fuzz(FastCheck.uint8Array({ maxLength: 200 }), 20, (bytes) =>
    Effect.promise(async () => {
      const socket = Net.connect(port, "127.0.0.1")
      socket.on("error", () => undefined)
      socket.resume()
      await once(socket, "connect")
      const closed = once(socket, "close")
      socket.write(Buffer.from("GET / HTTP/1.1\r\nhost: x\r\n"))
      socket.end(Buffer.from(bytes))
      await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 200))])
      socket.destroy()
    }))

describe("on postgres", () => {
  live("application names reach the server as they are, or are refused", () =>
    Effect.gen(function*() {
      const { database, unharmed } = yield* withVictim(Dialects.postgres)
      const url = yield* Effect.map(
        database.sql<{ readonly name: string }>`SELECT current_database() AS name`,
        ([{ name }]) => Object.assign(new URL(urlOf(database)), { pathname: `/${name}` }).toString()
      )
      yield* fuzz(name, 20, (applicationName) =>
        Effect.gen(function*() {
          const what = JSON.stringify(applicationName)
          const asked = yield* outcome(
            Effect.scoped(Effect.flatMap(
              Database.make({ url, environment: "test", applicationName }),
              ({ sql }) => sql<{ readonly it: string }>`SELECT current_setting('application_name') AS it`
            )),
            what
          )
          if (Either.isLeft(asked)) {
            assert.match(asked.left.message, /applicationName/, what)
            assert.match(applicationName, /[\0\r\n]|\p{Surrogate}/u, what)
          } else if (/^[ -~]{1,63}$/.test(applicationName.trim())) {
            assert.strictEqual(asked.right[0].it, applicationName.trim(), what)
          }
          yield* unharmed
        }))
    }))

  live("channels may be called anything", () =>
    Effect.gen(function*() {
      const { database, unharmed } = yield* withVictim(Dialects.postgres)
      const pg = Context.get(database.context as Context.Context<PgClient.PgClient>, PgClient.PgClient)
      yield* fuzz(FastCheck.tuple(name, awkward), 25, ([channel, payload]) =>
        Effect.gen(function*() {
          const what = JSON.stringify([channel, payload])
          const listening = yield* Effect.fork(outcome(
            Stream.runHead(pg.listen(channel)).pipe(Effect.timeoutOption("20 seconds"), Effect.map(Option.flatten)),
            what
          ))
          // Until it listens, nothing arrives. A payload that cannot be sent never does.
          const notifying = yield* Effect.fork(Effect.repeat(
            Effect.zipLeft(outcome(pg.notify(channel, payload), what), Effect.sleep("20 millis")),
            { while: Either.isRight }
          ))
          const notRefused = yield* Effect.raceFirst(
            Effect.as(Fiber.await(listening), true),
            Effect.as(Fiber.await(notifying), false)
          )
          if (notRefused || Either.isRight(yield* outcome(pg.notify(channel, payload), what))) {
            const received = yield* Fiber.join(listening)
            if (Either.isLeft(received)) {
              assert.strictEqual(received.left._tag, "InvalidData", what)
            } else {
              // A half of a character cannot be sent: UTF-8 has none.
              assert.deepStrictEqual(received.right, Option.some(Buffer.from(payload).toString()), what)
            }
          }
          yield* Fiber.interrupt(notifying)
          yield* Fiber.interrupt(listening)
          yield* unharmed
        }))
    }), 180_000)
})

describe("the command line", () => {
  live("may be told anything: it says what is wrong, and no password", () =>
    Effect.gen(function*() {
      const url = `postgres://user:${secret}@127.0.0.1:1/db`
      const lines: ReadonlyArray<ReadonlyArray<string>> = [
        ["check", "--table", injections[0], "--migrations", "/nowhere"],
        ["migrate", "--table", "", "--migrations", "../../../etc"],
        ["check", "--instances", "NaN", "--json"],
        ["--__proto__", "$(touch x)", "`id`"],
        ["check", "--json", "--instances", "9".repeat(40)]
      ]
      yield* Effect.forEach(lines, (line) =>
        Effect.map(runCli(line, { DATABASE_URL: url, APP_ENV: "test" }), ({ code, stderr, stdout }) => {
          const what = JSON.stringify([line, stdout, stderr])
          assert.isNotNull(code, what)
          assert.notStrictEqual(code, 0, what)
          assert.notInclude(stdout + stderr, secret, what)
          assert.notMatch(stdout + stderr, /\n\s+at .*node_modules|TypeError|ReferenceError/, what)
        }), { concurrency: 2 })
    }), 180_000)
})

const urlOf = (database: Database.Service): string => {
  const pg = Context.get(database.context as Context.Context<PgClient.PgClient>, PgClient.PgClient)
  const { host, password, port, username } = pg.config
  return `postgres://${username}:${encodeURIComponent(Redacted.value(password!))}@${host}:${port}/`
}
