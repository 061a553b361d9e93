/**
 * What becomes of a database whose package is missing or cannot run.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import * as Path from "node:path"
import { isNotInstalled, packageError } from "../src/internal/packages.js"
import type { Module } from "../src/internal/sqlite/betterSqlite3.js"
import { problemOf, remedy } from "../src/internal/sqlite/chooseBinding.js"

const root = Path.join(import.meta.dirname, "..")

const program = `
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Database from "./src/Database.js"
const open = Layer.build(Database.layerFrom({ url: process.argv[1], environment: "test" }))
const exit = await Effect.runPromise(Effect.either(Effect.scoped(open)))
console.log(exit._tag === "Left" ? exit.left._tag + ": " + exit.left.message : "opened")
`

/** What a program says that opens a database without some packages. */
const opened = (url: string, missing: string) =>
  Effect.promise(() =>
    new Promise<string>((resolve, reject) => {
      execFile(
        process.execPath,
        [
          "--import",
          "tsx",
          "--import",
          "./test/support/withoutPackages.mjs",
          "--input-type=module",
          "--eval",
          program,
          url
        ],
        { cwd: root, env: { ...process.env, TEST_MISSING_PACKAGES: missing } },
        (error, stdout, stderr) => error === null ? resolve(stdout.trim()) : reject(new Error(stdout + stderr))
      )
    })
  )

describe("a package that is not installed", () => {
  it.live("pg is named when a PostgreSQL database is opened, with the command", () =>
    Effect.gen(function*() {
      const said = yield* opened("postgres://127.0.0.1:1/ledger", "pg,better-sqlite3")
      assert.match(said, /^ConnectionFailed: .*\bpg is not installed.*npm install pg@8/s)
    }), 240_000)

  it.live(
    "better-sqlite3 is replaced by node:sqlite, or named with the command where there is none",
    () =>
      Effect.gen(function*() {
        const said = yield* opened(":memory:", "pg,better-sqlite3")
        if (process.getBuiltinModule("node:sqlite" as "fs") === undefined) {
          assert.match(said, /^ConnectionFailed: .*\bbetter-sqlite3 is not installed.*npm install better-sqlite3@12/s)
          assert.include(said, process.version)
        } else {
          assert.include(said, "opened")
        }
      }),
    240_000
  )
})

describe("better-sqlite3", () => {
  const newer = { name: "Node.js v24.1.0", nodeApi: 10 }
  const older = { name: "Node.js v20.19.0", nodeApi: 9 }

  const module = (error: Error | undefined): Module =>
    Object.assign(
      function() {
        if (error !== undefined) {
          throw error
        }
        return { close: () => {} }
      },
      { SqliteError: class SqliteError extends Error {} }
    ) as unknown as Module

  const old = (error: Error | undefined): Module =>
    Object.assign(module(error), { SqliteError: function SqliteError() {} })

  it("is refused before it would crash the process: version 13 on a Node.js before 22.14", () => {
    const problem = problemOf(module(new Error("was run")), older)
    assert.match(String(problem), /version 13 would crash Node.js v20.19.0/)
    assert.isUndefined(problemOf(module(undefined), newer))
    assert.isUndefined(problemOf(old(undefined), older))
  })

  it("whose binary is missing is not installed as it should be", () => {
    const error = new Error("Could not locate the bindings file. Tried:\n → /a/better_sqlite3.node\n → /b")
    assert.strictEqual(problemOf(old(error), older), error)
    const failure = packageError("sqlite", "SQLITE_CANTOPEN", "better-sqlite3", error, remedy(older, true))
    assert.strictEqual(failure._tag, "ConnectionFailed")
    assert.include(failure.message, "better-sqlite3 could not be loaded (Could not locate the bindings file.)")
    assert.notInclude(failure.message, "→")
    for (const part of ["version 12 fits Node.js v20.19.0", "npm approve-scripts", "pnpm approve-builds", "deno"]) {
      assert.include(failure.message, part)
    }
  })

  it("is recommended in the version that fits", () => {
    assert.match(remedy(newer, false), /^version 13 fits Node.js v24.1.0 .*npm install better-sqlite3@13$/)
    assert.match(remedy(newer, true), /better-sqlite3@13; or with version 12 allow its install script/)
    assert.match(remedy(older, false), /^version 12 fits Node.js v20.19.0: npm install better-sqlite3@12, and allow/)
  })
})

describe("an import that failed", () => {
  const failure = (code: string, message: string) => Object.assign(new Error(message), { code })

  it.each([
    ["Node", failure("ERR_MODULE_NOT_FOUND", "Cannot find package 'pg' imported from /app/main.js")],
    ["Node's require", failure("MODULE_NOT_FOUND", "Cannot find module 'pg'\nRequire stack:\n- /app/main.js")],
    ["webpack", failure("MODULE_NOT_FOUND", "Cannot find module 'pg'")],
    ["Bun", failure("ERR_MODULE_NOT_FOUND", "Cannot find package \"pg\" from \"/app/main.js\"")]
  ])("tells that the package is not installed: %s", (_, error) => {
    assert.isTrue(isNotInstalled(error, "pg"))
  })

  it.each([
    ["another package", failure("MODULE_NOT_FOUND", "Cannot find module 'bindings'\nRequire stack:\n- /a/pg/lib.js")],
    ["a file of the package", failure("MODULE_NOT_FOUND", "Cannot find module '/a/pg/build/pg.node'")],
    ["a binary that does not fit", failure("ERR_DLOPEN_FAILED", "The module 'pg' was compiled against another Node")],
    ["no error", "pg"]
  ])("tells that it is something else: %s", (_, error) => {
    assert.isFalse(isNotInstalled(error, "pg"))
  })
})
