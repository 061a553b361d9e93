import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

// The modules from left to right: each imports only what stands to its left, or what stands in its own row unless the
// row is split into parts. A name that ends with a slash is a folder. (The linter sees to it that there are no circles.)
const order: ReadonlyArray<{ readonly parts: ReadonlyArray<ReadonlyArray<string>> }> = [
  { parts: [["DatabaseError", "internal/mask", "internal/makeError", "internal/asyncInterrupt", "internal/hiddenClass"]] },
  { parts: [["DatabaseConfig", "internal/config/"]] },
  { parts: [["Telemetry", "internal/telemetry/"]] },
  { parts: [["internal/driver"]] },
  { parts: [["internal/postgres/"], ["internal/sqlite/"]] },
  { parts: [["Pool", "internal/pool/"]] },
  { parts: [["Session", "internal/session/"]] },
  { parts: [["internal/sqlClient/client", "internal/sqlClient/"]] },
  { parts: [["Health", "internal/health/"]] },
  { parts: [["Database", "internal/database/"]] },
  { parts: [["Migrations", "internal/migrations/"]] },
  {
    parts: [
      ["DatabaseHttp", "internal/databaseHttp/"],
      ["TestDatabase", "internal/testDatabase/"]
    ]
  },
  { parts: [["internal/cli/"]] },
  { parts: [["index"]] }
]

const driverFolder = /^internal\/(postgres|sqlite)\//

// The one module that chooses between the drivers.
const chooser = "Database"

type Sources = Readonly<Record<string, string>>

const isIn = (module: string) => (part: ReadonlyArray<string>) =>
  part.some((name) => name.endsWith("/") ? module.startsWith(name) : module === name)

const placeOf = (module: string) => {
  const row = order.findIndex(({ parts }) => parts.some(isIn(module)))
  return row === -1 ? undefined : { row, part: order[row].parts.findIndex(isIn(module)) }
}

const withoutComments = (source: string) => source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "")

const importsOf = (module: string, source: string): ReadonlyArray<string> =>
  Array.from(
    withoutComments(source).matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*|\bnew URL\(\s*)"(\.[^"]*)"/g),
    (match) => path.posix.join(path.posix.dirname(module), match[1]).replace(/\.[jt]s$/, "")
  )

const directionOf = (module: string, imported: string): string | undefined => {
  const from = placeOf(module)
  const to = placeOf(imported)
  if (from === undefined || to === undefined) {
    return `${from === undefined ? module : imported} has no place in the order of the modules`
  }
  if (to.row > from.row || (to.row === from.row && to.part !== from.part)) {
    return `${module} imports ${imported} against the direction`
  }
  return driverFolder.test(imported) && !driverFolder.test(module) && module !== chooser
    ? `${module} imports ${imported}: only ${chooser} chooses a driver`
    : undefined
}

const comparesDialect = /\bdialect\s*(?:===?|!==?)|(?:===?|!==?)\s*[\w.]*\bdialect\b|switch\s*\([^)]*\bdialect\b/i

const violations = (sources: Sources): ReadonlyArray<string> =>
  Object.entries(sources).flatMap(([module, source]) => {
    const found = importsOf(module, source).map((imported) => directionOf(module, imported))
    found.push(placeOf(module) === undefined ? `${module} has no place in the order of the modules` : undefined)
    if (!driverFolder.test(module) && comparesDialect.test(withoutComments(source))) {
      found.push(`${module} asks for the dialect: that belongs into a driver`)
    }
    return Array.from(new Set(found)).filter((violation) => violation !== undefined)
  })

const root = fileURLToPath(new URL("../src", import.meta.url))
const sources: Sources = Object.fromEntries(
  fs.readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((
      file
    ) => [file.split(path.sep).join("/").replace(/\.ts$/, ""), fs.readFileSync(path.join(root, file), "utf8")])
)

describe("the modules of src", () => {
  it("import only in one direction, and leave the dialect to the drivers", () => {
    assert.include(Object.keys(sources), "DatabaseError")
    assert.deepStrictEqual(violations(sources), [])
  })
})

describe("the check", () => {
  it.each([
    ["Pool", `import * as Session from "./Session.js"`, "Pool imports Session against the direction"],
    ["Pool", `import type { A } from "./Session.js"`, "Pool imports Session against the direction"],
    ["Pool", `export * from "./Session.js"`, "Pool imports Session against the direction"],
    ["Pool", `const a = await import("./Session.js")`, "Pool imports Session against the direction"],
    ["internal/driver", `import "../Pool.js"`, "internal/driver imports Pool against the direction"],
    [
      "Migrations",
      `import { a } from "./TestDatabase.js"`,
      "Migrations imports TestDatabase against the direction"
    ],
    [
      "internal/postgres/a",
      `import { a } from "../sqlite/a.js"`,
      "internal/postgres/a imports internal/sqlite/a against the direction"
    ],
    [
      "Session",
      `import {\n  a\n} from "./internal/postgres/a.js"`,
      "Session imports internal/postgres/a: only Database chooses a driver"
    ],
    [
      "Session",
      `new Worker(new URL("./internal/sqlite/worker.js", import.meta.url))`,
      "Session imports internal/sqlite/worker: only Database chooses a driver"
    ],
    ["internal/other", "", "internal/other has no place in the order of the modules"],
    ["Session", `if (driver.dialect === "sqlite") {}`, "Session asks for the dialect: that belongs into a driver"],
    ["Session", `if ("sqlite" !== driver.dialect) {}`, "Session asks for the dialect: that belongs into a driver"],
    ["Session", `switch (driver.dialect) {}`, "Session asks for the dialect: that belongs into a driver"]
  ])("finds in %s what it must not do: %s", (module, source, violation) => {
    assert.deepStrictEqual(violations({ [module]: source }), [violation])
  })

  it.each([
    ["Session", `import * as Pool from "./Pool.js"`],
    ["Database", `import * as Sqlite from "./internal/sqlite/driver.js"`],
    ["internal/sqlite/driver", `import * as Worker from "./worker.js"\nif (dialect === "sqlite") {}`],
    ["Session", `// if (dialect === "sqlite") from "./Database.js"\n/** import "./Database.js" */`],
    ["Pool", `const figures = { dialect: driver.dialect }`]
  ])("lets %s do what it may: %s", (module, source) => {
    assert.deepStrictEqual(violations({ [module]: source }), [])
  })
})
