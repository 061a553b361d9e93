import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

type Sources = Readonly<Record<string, string>>

const project = fileURLToPath(new URL("..", import.meta.url))

const sourcesOf = (root: string): Sources =>
  Object.fromEntries(
    fs.readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => [
        file.split(path.sep).join("/").replace(/\.ts$/, ""),
        fs.readFileSync(path.join(root, file), "utf8")
      ])
  )

const sources = sourcesOf(path.join(project, "src"))

const dialects = ["postgres", "sqlite"]

/** The modules of a dialect that read its URLs and options. They need no driver, so the configuration can use them. */
const optionModules = (dialect: string) =>
  ["binding", "dialect", "functionOptions", "pragmas", "target", "url"].map((name) => `internal/${dialect}/${name}`)

// The modules from left to right: each imports only modules to its left, or modules of its own part of a row. A name that
// ends with a slash is a folder, without the modules that stand further to the left. (The linter refuses circles.)
const order = (dialects: ReadonlyArray<string>): ReadonlyArray<ReadonlyArray<ReadonlyArray<string>>> => [
  [[
    "DatabaseError",
    "DatabaseTypes",
    "internal/mask",
    "internal/makeError",
    "internal/asyncInterrupt",
    "internal/fiber",
    "internal/fifoLock",
    "internal/fifoQueue",
    "internal/pool/clock",
    "internal/cluster/servers",
    "internal/cluster/connectLimit",
    "internal/hiddenClass",
    "internal/nodeTls",
    "internal/packages",
    "internal/raceFirst",
    "internal/sqlQuotes",
    "internal/transformNames",
    "internal/watchdog",
    "internal/wellFormed"
  ]],
  [["internal/config/rule", "internal/config/target", "internal/config/text", "internal/config/validation"]],
  dialects.map(optionModules),
  [["internal/dialects"]],
  [["DatabaseConfig", "internal/config/"]],
  [["Telemetry", "internal/telemetry/"]],
  [[
    "internal/driver",
    "internal/monitoring",
    "internal/rowStream",
    "internal/statementGuard",
    "internal/copy/",
    "internal/cluster/causality",
    "internal/cluster/staleness",
    "internal/cluster/token"
  ]],
  dialects.map((dialect) => [`internal/${dialect}/`]),
  [["internal/drivers"], ["worker"]],
  [["Pool", "internal/pool/"]],
  [["Session", "internal/session/", "internal/cluster/"]],
  [["internal/sqlClient/"]],
  [["Health", "internal/health/"]],
  [["Database", "internal/database/"]],
  [["Postgres"], ["Sqlite"], ["Kysely"], ["Drizzle"]],
  [["Migrations", "internal/migrations/"]],
  [["DatabaseHttp", "internal/databaseHttp/"], ["TestDatabase", "internal/testDatabase/"]],
  [["internal/cli/"]],
  [["index"]]
]

/** What the only importers of a dialect's folder import of it. */
const choosers: Readonly<Record<string, string>> = { "internal/dialects": "dialect", "internal/drivers": "driver" }

/** The public modules of one dialect, and what they import of it. `worker` is a thread's program, which bundlers include. */
const publicModules: Readonly<Record<string, string>> = {
  Postgres: "internal/postgres/client",
  Sqlite: "internal/sqlite/client",
  worker: "internal/sqlite/worker"
}

/** Code that may name a dialect, since it is where the dialects are listed or the error of a foreign client is guessed. */
const allowed: ReadonlyArray<readonly [module: string, code: RegExp]> = [
  ["DatabaseError", /Schema\.Literal\("postgres", "sqlite"\)/],
  ["DatabaseError", /code\.startsWith\("SQLITE_"\) \? "sqlite" : "postgres"/],
  ["internal/database/driverOf", /drivers\[target\._tag\]/],
  // Both libraries have dialects of their own.
  ["Kysely", /sql\.onDialect\(\{ [^}]* \}\)/],
  ["Drizzle", /sql\.onDialectOrElse\(\{\s*(?:pg|sqlite):/g],
  ["Postgres", /"@effect\/sql-pg\/PgClient"/],
  ["Sqlite", /"@effect\/sql-sqlite-node\/SqliteClient"/]
]

/** The ways in which code can ask for the dialect. `named` is what holds a dialect, `name` the name of one. */
const waysToAsk = (dialects: ReadonlyArray<string>): ReadonlyArray<RegExp> => {
  const name = `(?:${[...dialects, "pg"].join("|")})`
  const named = String.raw`\b(?:[\w$]+\??\.)*(?:dialect|target\??\._tag)\b`
  return [
    // dialect === …, … !== target._tag
    new RegExp(String.raw`${named}\s*[!=]==?|[!=]==?\s*${named}(?!\s*[.(\[])`),
    new RegExp(String.raw`switch\s*\(\s*${named}\s*\)`),
    /\bonDialect(?:OrElse)?\b/,
    // A dialect's name anywhere but as the value of a field: ["sqlite"].includes(…), Match.when("sqlite", …), case "sqlite"
    new RegExp(String.raw`(?<!\b(?:dialect|_tag)\??: )["'\x60]${name}["'\x60]`),
    // { postgres: …, sqlite: … }, Match.tags({ postgres: … }), and methods
    new RegExp(String.raw`[{,]\s*(?:readonly\s+)?["']?${name}["']?\s*\??[:(]`),
    /\b(?:Record|Map|ReadonlyMap|HashMap)<\s*(?:[\w.]+\.)?Dialect\b/,
    /\bin\s+(?:[\w.]+\.)?Dialect\b/,
    new RegExp(String.raw`[\w$)\]]\??\.?\[\s*${named}\s*\]`),
    new RegExp(String.raw`\.(?:includes|has|get|indexOf|startsWith|endsWith|test)\(\s*${named}\s*[,)]`),
    new RegExp(String.raw`\binstanceof\s+[\w$.]*${name}`, "i"),
    // The codes and the clients of one dialect
    /\.(?:startsWith|includes|test|match)\(\s*["'/]\^?SQLITE_/,
    /["'](?:pg|better-sqlite3|node:sqlite|@effect\/sql-(?:pg|sqlite-node)(?:\/[^"']*)?)["']/
  ]
}

/** Source text without its comments. */
const withoutComments = (source: string) =>
  source.replace(
    /("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|\/\*[\s\S]*?\*\/|(?<![\\/])\/\/.*$/gm,
    (_, text?: string) => text ?? ""
  )

const importsOf = (module: string, source: string): ReadonlyArray<string> =>
  Array.from(
    withoutComments(source).matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*|\bnew URL\(\s*)"(\.[^"]*)"/g),
    (match) => path.posix.join(path.posix.dirname(module), match[1]).replace(/\.[jt]s$/, "")
  )

const check = (dialects: ReadonlyArray<string>) => {
  const rows = order(dialects)
  const dialectOf = (module: string) => dialects.find((dialect) => module.startsWith(`internal/${dialect}/`))

  const isIn = (module: string) => (part: ReadonlyArray<string>) =>
    part.some((name) => name.endsWith("/") ? module.startsWith(name) : module === name)

  const placeOf = (module: string) => {
    const exact = rows.findIndex((parts) => parts.flat().includes(module))
    const row = exact === -1 ? rows.findIndex((parts) => parts.some(isIn(module))) : exact
    return row === -1 ? undefined : { row, part: rows[row].findIndex(isIn(module)) }
  }

  const wrongDirection = (module: string, imported: string): string | undefined => {
    const from = placeOf(module)
    const to = placeOf(imported)
    if (from === undefined || to === undefined) {
      return `${from === undefined ? module : imported} has no place in the order of the modules`
    }
    return to.row > from.row || (to.row === from.row && to.part !== from.part)
      ? `${module} imports ${imported} against the direction`
      : undefined
  }

  const wrongImport = (module: string, imported: string): string | undefined => {
    const dialect = dialectOf(imported)
    if (
      dialect !== undefined && dialectOf(module) !== dialect && publicModules[module] !== imported &&
      imported !== `internal/${dialect}/${choosers[module]}`
    ) {
      return `${module} imports ${imported}: only ${Object.keys(choosers).join(" and ")} import of a dialect`
    }
    const [, inner] = /^internal\/postgres\/(protocol|transport)\//.exec(module) ?? []
    if (inner === "protocol" && !imported.startsWith("internal/postgres/protocol/")) {
      return `${module} imports ${imported}: the protocol knows only itself`
    }
    if (inner === "transport" && /^internal\/postgres\/(?!transport\/)/.test(imported)) {
      return `${module} imports ${imported}: the transport knows neither the protocol nor the conversation`
    }
    return undefined
  }

  const ways = waysToAsk(dialects)
  const asksForDialect = (module: string, source: string): boolean => {
    const code = allowed.reduce(
      (code, [where, allowance]) => where === module ? code.replace(allowance, "") : code,
      withoutComments(source)
    )
    return dialectOf(module) === undefined && choosers[module] === undefined && ways.some((way) => way.test(code))
  }

  return (sources: Sources): ReadonlyArray<string> =>
    Object.entries(sources).flatMap(([module, source]) => {
      const found = importsOf(module, source).map((imported) =>
        wrongImport(module, imported) ?? wrongDirection(module, imported)
      )
      found.push(placeOf(module) === undefined ? `${module} has no place in the order of the modules` : undefined)
      found.push(
        asksForDialect(module, source) ? `${module} asks for the dialect: that belongs into a driver` : undefined
      )
      return Array.from(new Set(found)).filter((violation) => violation !== undefined)
    })
}

const violations = check(dialects)

describe("the modules of src", () => {
  it("import only in one direction, and leave the dialect to the drivers", () => {
    assert.include(Object.keys(sources), "DatabaseError")
    assert.deepStrictEqual(violations(sources), [])
  })

  // src/internal/raceFirst.ts says why. A command of the command line is a process of its own.
  it("use no race of Effect's that waits for ever if it is interrupted while it starts", () => {
    const races = Object.entries(sources).filter(([module, source]) =>
      !module.startsWith("internal/cli/") &&
      /\bEffect\.(?:race|timeout|zipPar)|\bconcurren(?:t|cy):/.test(withoutComments(source))
    )
    assert.deepStrictEqual(races.map(([module]) => module), [])
  })

  // src/internal/nodeTls.ts says why.
  it("take node:tls without an import", () => {
    const importing = Object.entries(sources).filter(([, source]) =>
      /^(?!import type).*(?:from |import\()"node:(?:tls|https)"/m.test(withoutComments(source))
    )
    assert.deepStrictEqual(importing.map(([module]) => module), [])
  })

  it.each(allowed)("%s still needs the allowance %s", (module, code) => {
    assert.match(withoutComments(sources[module]), code)
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
      "internal/postgres/target",
      `import { a } from "../../DatabaseConfig.js"`,
      "internal/postgres/target imports DatabaseConfig against the direction"
    ],
    [
      "internal/postgres/a",
      `import { a } from "../sqlite/a.js"`,
      "internal/postgres/a imports internal/sqlite/a: only internal/dialects and internal/drivers import of a dialect"
    ],
    [
      "Session",
      `import {\n  a\n} from "./internal/postgres/a.js"`,
      "Session imports internal/postgres/a: only internal/dialects and internal/drivers import of a dialect"
    ],
    [
      "Database",
      `import * as Sqlite from "./internal/sqlite/driver.js"`,
      "Database imports internal/sqlite/driver: only internal/dialects and internal/drivers import of a dialect"
    ],
    [
      "Postgres",
      `import { a } from "./internal/sqlite/client.js"`,
      "Postgres imports internal/sqlite/client: only internal/dialects and internal/drivers import of a dialect"
    ],
    [
      "Session",
      `new Worker(new URL("./internal/sqlite/worker.js", import.meta.url))`,
      "Session imports internal/sqlite/worker: only internal/dialects and internal/drivers import of a dialect"
    ],
    [
      "internal/postgres/protocol/parser",
      `import { a } from "../pipeline.js"`,
      "internal/postgres/protocol/parser imports internal/postgres/pipeline: the protocol knows only itself"
    ],
    [
      "internal/postgres/protocol/parser",
      `import type { a } from "../../../DatabaseError.js"`,
      "internal/postgres/protocol/parser imports DatabaseError: the protocol knows only itself"
    ],
    [
      "internal/postgres/transport/socket",
      `import { a } from "../protocol/writer.js"`,
      "internal/postgres/transport/socket imports internal/postgres/protocol/writer: " +
      "the transport knows neither the protocol nor the conversation"
    ],
    [
      "internal/postgres/transport/socket",
      `import { a } from "../pipeline.js"`,
      "internal/postgres/transport/socket imports internal/postgres/pipeline: " +
      "the transport knows neither the protocol nor the conversation"
    ],
    ["internal/other", "", "internal/other has no place in the order of the modules"]
  ])("finds in %s what it must not do: %s", (module, source, violation) => {
    assert.deepStrictEqual(violations({ [module]: source }), [violation])
  })

  it.each([
    `if (driver.dialect === "sqlite") {}`,
    `if (dialect === own) {}`,
    `if ("sqlite" !== driver.dialect) {}`,
    `if (other != this.driver.dialect) {}`,
    `if (target._tag === own) {}`,
    `if (settings.target._tag !== "sqlite") {}`,
    `const isFile = value._tag === 'sqlite'`,
    `switch (driver.dialect) {}`,
    `switch (settings.target._tag) {}`,
    `switch (value) { case "postgres": }`,
    `sql.onDialect({ pg: a, sqlite: b })`,
    `sql.onDialectOrElse({ orElse: a })`,
    `const codes = { postgres: "08001", sqlite: "SQLITE_IOERR" }`,
    `const codes = {\n  "sqlite": 1\n}`,
    `Match.valueTags(target, { sqlite: (target) => target })`,
    `const make = { sqlite() {} }`,
    `Match.when("sqlite", a)`,
    `Match.tag("postgres", a)`,
    `type Codes = Record<Dialect, string>`,
    `type Codes = Record<DatabaseError.Dialect, string>`,
    `const codes = new Map<Dialect, string>()`,
    `type Codes = { readonly [D in Dialect]: string }`,
    `const code = codes[dialect]`,
    `const code = codes[driver.dialect]`,
    `const code = codes?.[driver.dialect]`,
    `const make = makers[target._tag]`,
    `const isOurs = ["sqlite"].includes(a)`,
    `const isOurs = ours.includes(driver.dialect)`,
    `const isOurs = ours.has(dialect)`,
    `const code = codes.get(driver.dialect)`,
    `const isOurs = /lite/.test(dialect)`,
    `const isFile = dialect.startsWith(a) || client instanceof SqliteClient`,
    `if (connection instanceof PgConnection) {}`,
    `if (error.code.startsWith("SQLITE_")) {}`,
    `import * as PgClient from "@effect/sql-pg/PgClient"`,
    `import { SqliteClient } from "@effect/sql-sqlite-node"`
  ])("sees that code asks for the dialect: %s", (source) => {
    assert.deepStrictEqual(violations({ Session: source }), [
      "Session asks for the dialect: that belongs into a driver"
    ])
  })

  it.each([
    ["Session", `import * as Pool from "./Pool.js"`],
    ["internal/drivers", `export const sqlite = () => import("./sqlite/driver.js")`],
    ["Postgres", `import type { PgClient } from "@effect/sql-pg/PgClient"\nimport "./internal/postgres/client.js"`],
    ["internal/dialects", `export { dialect as sqlite } from "./sqlite/dialect.js"`],
    ["internal/sqlite/driver", `import * as Worker from "./worker.js"\nif (dialect === "sqlite") {}`],
    ["internal/sqlite/driver", `import { memory } from "./url.js"`],
    ["internal/postgres/transport/tls", `import type { SslMode } from "../../../DatabaseConfig.js"`],
    ["Session", `// if (dialect === "sqlite") from "./Database.js"\n/** import "./Database.js" */`],
    ["Session", `const url = "sqlite:///a" // codes[dialect]`],
    ["Pool", `const stats = { dialect: driver.dialect }`],
    ["Pool", `const error = make({ dialect: "postgres", code: "08001" })`],
    ["Pool", `const dialect = driver.migrations\ndialect.createTable(sql)`],
    ["Pool", `const isTagged = error._tag === "PoolTimeout" && marks[error._tag]`]
  ])("lets %s do what it may: %s", (module, source) => {
    assert.deepStrictEqual(violations({ [module]: source }), [])
  })
})

// A dialect that does nothing: its folder, its line in the two lists, and its public name.
const nothing = "() => Effect.die(\"does nothing\")"
const folder: Readonly<Record<string, string>> = {
  "dialect.ts": `
import type { Dialect } from "../config/target.js"

export interface MysqlTarget {
  readonly _tag: "mysql"
  readonly host: string
}

export const dialect: Dialect<MysqlTarget> = {
  systemName: "mysql",
  errorCodes: {} as Dialect<MysqlTarget>["errorCodes"],
  schemes: ["mysql"],
  readUrl: (_, host) => ({
    value: (_, pool) => ({ target: { _tag: "mysql", host }, name: host, pool }),
    problems: []
  }),
  readTarget: (target) => ({
    value: (_, pool) => ({ target, name: target.host, pool }),
    problems: []
  }),
  formatUrl: ({ host }) => \`mysql:\${host}\`
}
`,
  "driver.ts": `
import * as SqlClient from "@effect/sql/SqlClient"
import * as Statement from "@effect/sql/Statement"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Settings } from "../../DatabaseConfig.js"
import type { Driver } from "../driver.js"
import type { MysqlTarget } from "./dialect.js"

export const load = Effect.void

export const make = (_: Settings, target: MysqlTarget): Driver => ({
  dialect: "mysql",
  description: target.host,
  compiler: Statement.makeCompilerSqlite(),
  spanAttributes: [],
  connect: ${nothing},
  copyText: { from: () => "", to: () => "" },
  listen: undefined,
  supportsSettings: false,
  serverInfo: ${nothing},
  extendClient: (client) => Effect.succeed(Context.make(SqlClient.SqlClient, client)),
  migrations: {
    lexicon: {
      blank: / +/y,
      word: /[a-z]+/y,
      quoted: [],
      opening: /'/y,
      nestedComments: false,
      parenthesesEnclose: false,
      bodies: { statement: /^$/, opening: undefined },
      copyData: false,
      clientCommand: /source /y,
      clientName: "mysql",
      ignoredCommand: /^$/,
      refusal: () => undefined
    },
    accepts: () => true,
    createSchema: ${nothing},
    holdLock: ${nothing},
    saveSettings: ${nothing},
    setStatementTimeout: ${nothing},
    foreignKeys: undefined,
    locksOf: () => undefined,
    tableExists: ${nothing},
    createTable: ${nothing},
    createChecksumTable: ${nothing},
    saveChecksum: ${nothing},
    createCommitTable: () => Effect.void,
    createdAt: () => new Date(0),
    tryLock: ${nothing},
    sessionOptions: () => ({})
  },
  inspection: { target: Effect.succeed(target), details: ${nothing} },
  monitoring: { sections: [], explain: ${nothing} },
  testDatabases: undefined,
  pool: { size: 1, maxOverflow: 0, min: 1, recycle: Duration.infinity }
})
`
}

describe("a new dialect", () => {
  it("is one folder, one line in each list of the dialects, and its public name", { timeout: 240_000 }, () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-dialect-"))
    const file = (name: string) => path.join(directory, "src", name)
    const edit = (name: string, change: (source: string) => string) => {
      const source = fs.readFileSync(file(name), "utf8")
      assert.notStrictEqual(change(source), source)
      fs.writeFileSync(file(name), change(source))
    }
    try {
      fs.cpSync(path.join(project, "src"), path.join(directory, "src"), { recursive: true })
      fs.copyFileSync(path.join(project, "package.json"), path.join(directory, "package.json"))
      fs.symlinkSync(path.join(project, "node_modules"), path.join(directory, "node_modules"), "junction")
      fs.writeFileSync(
        path.join(directory, "tsconfig.json"),
        JSON.stringify({ extends: path.join(project, "tsconfig.json"), include: ["src"] })
      )

      fs.mkdirSync(file("internal/mysql"))
      for (const [name, source] of Object.entries(folder)) {
        fs.writeFileSync(file(`internal/mysql/${name}`), source)
      }
      edit("internal/dialects.ts", (source) => `${source}export { dialect as mysql } from "./mysql/dialect.js"\n`)
      edit("internal/drivers.ts", (source) => `${source}export const mysql = () => import("./mysql/driver.js")\n`)
      edit(
        "DatabaseError.ts",
        (source) =>
          source.replace(`Schema.Literal("postgres", "sqlite")`, `Schema.Literal("postgres", "sqlite", "mysql")`)
      )

      const compiler = path.join(project, "node_modules/typescript/bin/tsc")
      const compiled = spawnSync(process.execPath, [compiler, "-p", directory], { encoding: "utf8" })
      assert.deepStrictEqual([compiled.stdout, compiled.stderr, compiled.status], ["", "", 0])
      assert.deepStrictEqual(
        check([...dialects, "mysql"])({
          ...sourcesOf(path.join(directory, "src")),
          DatabaseError: sources.DatabaseError
        }),
        []
      )
    } finally {
      fs.rmSync(directory, { recursive: true, force: true })
    }
  })
})
