/**
 * Type-checks the declarations of every module with several versions of TypeScript, where one database's packages are
 * missing too.
 */
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { root } from "./documented.js"
import type { Row } from "./table.js"

const compilers: Readonly<Record<string, string>> = {
  "5.9": Path.join(root, "test", "runtimes", "node_modules", "typescript-5"),
  "6.0": Path.join(root, "test", "runtimes", "node_modules", "typescript-6"),
  "7.0": Path.join(root, "node_modules", "typescript")
}

const modules = { nodenext: "nodenext", bundler: "esnext" } as const

/** The packages of one database, and the module that needs their types. */
const postgres = { module: "Postgres", packages: ["pg", "@types/pg", "pg-protocol", "pg-types", "@effect/sql-pg"] }
const sqlite = { module: "Sqlite", packages: ["better-sqlite3", "@types/better-sqlite3", "@effect/sql-sqlite-node"] }

/** The modules whose types are those of a query builder. */
const ofBuilders = new Set(["Drizzle", "Kysely"])

const always = [
  "effect",
  "@effect/sql",
  "@effect/platform",
  "@effect/experimental",
  "@types/node",
  // What their declarations need.
  "@standard-schema/spec",
  "fast-check",
  "find-my-way-ts",
  "multipasta",
  "pure-rand",
  "undici-types"
]

/** Makes a project with sqlayer and some packages, which are those of this repository. */
const makeProject = (directory: string, packed: string, packages: ReadonlyArray<string>): string => {
  const modules = Path.join(directory, "node_modules")
  Fs.mkdirSync(Path.join(modules, "sqlayer"), { recursive: true })
  spawnSync("tar", ["-xzf", packed, "--strip-components=1", "-C", Path.join(modules, "sqlayer")])
  for (const name of packages) {
    const source = Path.join(root, "node_modules", name)
    if (Fs.existsSync(source)) {
      // A copy: through a link the declarations would find what is installed beside the original.
      Fs.cpSync(Fs.realpathSync(source), Path.join(modules, name), { recursive: true })
    }
  }
  return Path.join(modules, "sqlayer", "dist")
}

export const typescriptRows = (
  packed: string,
  work: string,
  report: (what: string, passed: boolean, output: string) => boolean
): ReadonlyArray<Row> => {
  const projects = [
    { name: "all packages", packages: [...postgres.packages, ...sqlite.packages], without: undefined },
    { name: "without PostgreSQL's", packages: sqlite.packages, without: postgres.module },
    { name: "without SQLite's", packages: postgres.packages, without: sqlite.module }
  ].map(({ name, packages, without }, i) => {
    const directory = Path.join(work, `typescript-${i}`)
    const dist = makeProject(directory, packed, [...always, ...packages])
    const names = Fs.readdirSync(dist).filter((file) => file.endsWith(".d.ts")).map((file) => file.slice(0, -5))
    const lines = names.filter((module) => module !== without && !ofBuilders.has(module)).map((module) =>
      `export * as ${module} from "sqlayer${module === "index" ? "" : `/${module}`}"`
    )
    Fs.writeFileSync(Path.join(directory, "package.json"), JSON.stringify({ private: true, type: "module" }))
    Fs.writeFileSync(Path.join(directory, "main.ts"), `${lines.join("\n")}\n`)
    return { name, directory }
  })
  const rows: Array<Row> = []
  for (const [version, compiler] of Object.entries(compilers)) {
    for (const [resolution, module] of Object.entries(modules)) {
      const cells = projects.map(({ directory, name }) => {
        const config = Path.join(directory, `tsconfig.${resolution}.json`)
        Fs.writeFileSync(
          config,
          JSON.stringify({
            compilerOptions: {
              target: "es2022",
              lib: ["es2023", "esnext.disposable", "dom", "dom.iterable"],
              module,
              moduleResolution: resolution,
              types: ["node"],
              strict: true,
              exactOptionalPropertyTypes: true,
              skipLibCheck: false,
              noEmit: true
            },
            files: ["main.ts"]
          })
        )
        const { status, stdout } = spawnSync(process.execPath, [Path.join(compiler, "bin", "tsc"), "-p", config], {
          encoding: "utf8"
        })
        return report(`TypeScript ${version}, ${resolution}, ${name}`, status === 0, stdout) ? "yes" : "no"
      })
      rows.push([`${version}, \`${resolution}\``, ...cells])
    }
  }
  return rows
}
