import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"
import { loadedBy } from "./support/loadedBy.js"

const root = fileURLToPath(new URL("..", import.meta.url))

const packageOf = (module: string): string => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(module)?.[1] ?? "sqlayer"

const inFolder = (module: string) => /^src\/internal\/([^/]+)\//.exec(module)?.[1]

/** What @effect/sql itself loads: its errors are made with Schema, which needs fast-check. */
const core = ["@effect/experimental", "@effect/platform", "@effect/sql", "effect", "fast-check", "pure-rand", "sqlayer"]
const http = [...core, "find-my-way-ts", "multipasta"]

interface Entry {
  readonly packages: ReadonlyArray<string>
  /** The maximum number of modules of sqlayer. */
  readonly own: number
  /** The maximum number of modules of @effect/platform. */
  readonly platform: number
}

const database: Entry = { packages: core, own: 94, platform: 1 }

const entries: Readonly<Record<string, Entry>> = {
  Database: database,
  DatabaseConfig: { ...database, own: 16 },
  DatabaseError: { ...database, own: 3 },
  DatabaseHttp: { packages: http, own: 110, platform: 40 },
  DatabaseTypes: { ...database, own: 3 },
  Drizzle: { ...database, own: 95 },
  Health: { ...database, own: 6 },
  Kysely: { ...database, packages: [...core, "kysely"], own: 95 },
  Migrations: { ...database, own: 103 },
  Pool: { ...database, own: 34 },
  Postgres: { ...database, own: 97 },
  Session: { ...database, own: 3 },
  Sqlite: { ...database, own: 97 },
  Telemetry: { ...database, own: 3 },
  TestDatabase: { ...database, own: 111 },
  index: { packages: http, own: 120, platform: 40 },
  worker: { packages: ["sqlayer"], own: 23, platform: 0 }
}

describe("what an import loads", () => {
  it("is limited for every module", () => {
    const modules = Fs.readdirSync(Path.join(root, "src")).filter((file) => file.endsWith(".ts"))
    assert.sameMembers(Object.keys(entries), modules.map((file) => Path.basename(file, ".ts")))
  })

  for (const [name, { own, packages, platform }] of Object.entries(entries)) {
    it(`is nothing beside what ${name} needs`, async () => {
      const loaded = await loadedBy(root, `src/${name}.ts`)
      const count = (name: string) => loaded.filter((module) => packageOf(module) === name).length
      assert.deepStrictEqual(
        Array.from(new Set(loaded.map(packageOf))).filter((name) => !packages.includes(name)),
        [],
        "packages"
      )
      assert.isAtMost(count("@effect/platform"), platform)
      assert.isAtMost(count("sqlayer"), own)
      // No barrel, which would load all of a package.
      assert.notInclude(loaded, "node_modules/effect/dist/esm/index.js")
      assert.deepStrictEqual(loaded.filter((module) => inFolder(module) === "cli"), [])
      if (name !== "worker") {
        const drivers = loaded.filter((module) =>
          /^src\/internal\/(?:postgres|sqlite)\/(?:driver|connection)/.test(module)
        )
        assert.deepStrictEqual(drivers, [])
      }
    })
  }
})
