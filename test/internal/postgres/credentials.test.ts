import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Util from "node:util"
import * as Database from "../../../src/Database.js"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { assertHoldsNot } from "../renderings.js"

const canary = "hunter2-canary"

let roles = 0

/** A database, and a role whose password can be changed. The role is dropped at the end. */
const world = Effect.gen(function*() {
  const admin = yield* freshDatabase
  const role = `rotating_${process.pid}_${++roles}`
  yield* Effect.acquireRelease(
    query(admin, `CREATE ROLE ${role} LOGIN PASSWORD 'first'`),
    () => query(admin, `DROP ROLE ${role}`)
  )
  const url = new URL(admin)
  url.username = role
  url.password = ""
  return {
    role,
    url: url.toString(),
    rotate: (password: string) => query(admin, `ALTER ROLE ${role} PASSWORD '${password}'`),
    /** Ends the role's connections, so that new ones have to log in. */
    disconnect: query(admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '${role}'`)
  }
})

/** What is logged, in every form, while an effect runs. */
const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make((entry) => {
      lines.push(Logger.stringLogger.log(entry), Logger.jsonLogger.log(entry), Util.inspect(entry.message))
    })
    return effect.pipe(
      Effect.exit,
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Effect.map((exit) => ({ exit, log: lines.join("\n") }))
    )
  })

const open = (options: DatabaseConfig.Options) =>
  Database.make({ environment: "test", poolSize: 2, poolMaxOverflow: 0, ...options })

/** The error of opening a database, which holds the canary nowhere, and neither does the log. */
const refused = (options: DatabaseConfig.Options): Effect.Effect<DatabaseError> =>
  Effect.gen(function*() {
    const { exit, log } = yield* logged(Effect.scoped(open(options)))
    assert(Exit.isFailure(exit) && exit.cause._tag === "Fail", "it was opened")
    assertHoldsNot(exit.cause.error, canary)
    assert.notInclude(log, canary)
    return exit.cause.error
  })

const who = ({ sql }: Database.Service) =>
  Effect.map(sql<{ readonly who: string }>`SELECT current_user::text AS who`, ([row]) => row?.who)

const file = (content: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-password-"))),
    (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
  ).pipe(Effect.map((directory) => {
    const path = Path.join(directory, "password")
    Fs.writeFileSync(path, content)
    return path
  }))

describe("the password and the user of a connection", () => {
  it.scopedLive("are options that take precedence over the URL", () =>
    Effect.gen(function*() {
      const { role, url } = yield* world
      const elsewhere = url.replace(role, "nobody:wrong")
      for (const password of ["first", Redacted.make("first")]) {
        assert.strictEqual(yield* who(yield* open({ url: elsewhere, user: role, password })), role)
      }
      const database = yield* open({
        url: elsewhere,
        user: Effect.succeed(role),
        password: Effect.succeed(Redacted.make("first"))
      })
      assert.strictEqual(yield* who(database), role)
    }))

  it.scopedLive("an Effect is run for each new connection, and survives a rotation", () =>
    Effect.gen(function*() {
      const { disconnect, role, rotate, url } = yield* world
      let current = "first"
      let asked = 0
      const password = Effect.sync(() => {
        asked++
        return current
      })
      const database = yield* open({ url, password })
      assert.strictEqual(asked, 1)
      const both = Effect.all([
        database.session(Effect.zipLeft(who(database), Effect.sleep("50 millis"))),
        who(database)
      ], {
        concurrency: 2
      })
      assert.deepStrictEqual(yield* both, [role, role])
      assert.strictEqual(asked, 2)
      yield* rotate("second")
      current = "second"
      // Connections that are open stay open.
      assert.deepStrictEqual(yield* both, [role, role])
      assert.strictEqual(asked, 2)
      yield* disconnect
      assert.strictEqual(yield* Effect.retry(database.session(who(database)), { times: 5 }), role)
      assert.isAbove(asked, 2)
    }))

  it.scopedLive("are asked for once more if the server rejects them, and tried again if they have changed", () =>
    Effect.gen(function*() {
      const { url } = yield* world
      const tried = (passwords: ReadonlyArray<string>) =>
        Effect.gen(function*() {
          let asked = 0
          const password = Effect.sync(() => passwords[Math.min(asked++, passwords.length - 1)])
          const exit = yield* Effect.exit(Effect.scoped(open({ url, password, connectRetry: "5 seconds" })))
          return { asked, exit }
        })
      const stale = yield* tried(["stale", "first"])
      assert.isTrue(Exit.isSuccess(stale.exit))
      assert.strictEqual(stale.asked, 2)
      for (const passwords of [["wrong"], ["wrong", "wrong, too", "first"]]) {
        const { asked, exit } = yield* tried(passwords)
        assert.strictEqual(asked, 2, passwords.join())
        assert(Exit.isFailure(exit) && exit.cause._tag === "Fail")
        assert.strictEqual(exit.cause.error._tag, "AuthenticationFailed")
      }
    }))

  it.scopedLive("DATABASE_PASSWORD_FILE is read for each new connection", () =>
    Effect.gen(function*() {
      const { disconnect, role, rotate, url } = yield* world
      for (const end of ["", "\n", "\r\n"]) {
        const path = yield* file(`first${end}`)
        assert.strictEqual(yield* who(yield* open({ url: url.replace(role, `${role}:old`), passwordFile: path })), role)
      }
      const path = yield* file("first\n")
      const database = yield* open({ url, passwordFile: path })
      yield* rotate("second")
      // As Kubernetes replaces it: another file takes its place.
      Fs.writeFileSync(`${path}.new`, "second\n")
      Fs.renameSync(`${path}.new`, path)
      yield* disconnect
      assert.strictEqual(yield* Effect.retry(database.session(who(database)), { times: 5 }), role)
    }))

  it.live("no error shows what an Effect or a file had in place of the password", () =>
    Effect.gen(function*() {
      const url = "postgres://app@127.0.0.1:9/db"
      const wrong: ReadonlyArray<readonly [options: DatabaseConfig.Options, tag: string, transient: boolean]> = [
        [{ password: Effect.fail<unknown>(new Error(canary)) }, "the password could not be obtained (Error)", true],
        [{ password: Effect.fail({ _tag: "TokenError", token: canary }) }, "could not be obtained (TokenError)", true],
        [{ password: Effect.fail(canary) }, "the password could not be obtained", true],
        [{ password: Effect.die(canary) }, "the password could not be obtained", false],
        [
          {
            password: Effect.suspend(() => {
              throw new TypeError(canary)
            })
          },
          "could not be obtained (TypeError)",
          false
        ],
        [{ password: Effect.succeed(`${canary}\0`) }, "is not valid: text without NUL characters is expected", false],
        [
          { password: Effect.succeed([canary] as unknown as string) },
          "is not valid: text without NUL characters is expected",
          false
        ],
        [
          { password: Effect.succeed(undefined as unknown as string) },
          "is not valid: text without NUL characters is expected",
          false
        ],
        [{ user: Effect.fail(canary) }, "the user's name could not be obtained", true],
        [
          { user: Effect.succeed(`a\0database\0${canary}`) },
          "is not valid: text without NUL characters is expected",
          false
        ],
        // Someone has written the password where the name of its file belongs.
        [{ passwordFile: canary }, "DATABASE_PASSWORD_FILE names could not be obtained (Error ENOENT)", false],
        [{ passwordFile: Os.tmpdir() }, "DATABASE_PASSWORD_FILE names could not be obtained (Error EISDIR)", false],
        [{ password: Effect.never, connectTimeout: "100 millis" }, "was not available within the connect timeout", true]
      ]
      for (const [options, text, transient] of wrong) {
        const error = yield* refused({ url, ...options })
        assert.strictEqual(error._tag, "ConnectionFailed", error.message)
        assert.include(error.message, text)
        assert.strictEqual(error._tag === "ConnectionFailed" && error.transient, transient, error.message)
      }
    }))

  it.live("an option of another type is refused, and not shown", () =>
    Effect.gen(function*() {
      const values: ReadonlyArray<unknown> = [
        4242424242,
        { password: canary },
        [canary],
        Redacted.make({ canary }),
        true
      ]
      for (const password of values) {
        const error = yield* refused({ url: "postgres://app@h/db", password: password as string })
        assert.include(error.message, "password")
        assert.notInclude(error.message, "4242424242")
      }
      const user = yield* refused({ url: "postgres://app@h/db", user: { canary } as unknown as string })
      assert.include(user.message, "user")
    }))

  it("settings do not show them", () => {
    const inspected = (options: DatabaseConfig.Options) =>
      [DatabaseConfig.resolve({ url: "postgres://h/db", ...options })].map((result) =>
        `${String(result)} ${JSON.stringify(result)} ${Util.inspect(result, { depth: null, showHidden: true })}`
      )
    assert.notInclude(inspected({ password: canary }), canary)
    assert.notInclude(inspected({ password: Effect.succeed(canary) }), canary)
    assert.notInclude(
      inspected({ password: Effect.succeed(Redacted.make(canary)), user: Effect.succeed("app") }),
      canary
    )
  })

  it.scopedLive("layerConfig reads them from variables of other names, and names those in errors", () =>
    Effect.gen(function*() {
      const { role, url } = yield* world
      const layer = Database.layerConfig({
        url: Config.string("REPORTS_URL"),
        password: Config.redacted("REPORTS_PASSWORD"),
        poolSize: Config.integer("REPORTS_POOL_SIZE")
      })
      const provided = (size: string) =>
        Effect.flatMap(Database.Database, who).pipe(
          Effect.provide(layer),
          Effect.withConfigProvider(ConfigProvider.fromMap(
            new Map([["REPORTS_URL", url], ["REPORTS_PASSWORD", "first"], ["REPORTS_POOL_SIZE", size]])
          ))
        )
      assert.strictEqual(yield* provided("1"), role)
      const error: { readonly toString: () => string } = yield* Effect.flip(provided("0"))
      assert.include(error.toString(), "REPORTS_POOL_SIZE")
    }))

  it("a user that is not known yet needs a database in the URL", () => {
    const result = DatabaseConfig.resolve({ url: "postgres://h", user: Effect.succeed("app") })
    assert.include(String(result), "a database in the URL")
  })

  it.live("an interruption does not wait for the Effect", () =>
    Effect.gen(function*() {
      let released = false
      const stubborn = Effect.uninterruptible(Effect.zipRight(
        Effect.sleep("2 seconds"),
        Effect.sync(() => {
          released = true
          return "x"
        })
      ))
      yield* Effect.timeoutOption(
        Effect.scoped(open({ url: "postgres://app@127.0.0.1:9/db", password: stubborn })),
        "50 millis"
      )
      assert.isFalse(released)
    }))
})
