import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

interface Manifest {
  readonly name: string
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean }>>
}

const manifest: Manifest = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))

/** What npm is told, so that it takes no version that the package does not work with: the major versions of the range. */
const majorsOf = (range: string): ReadonlyArray<string> =>
  Array.from(range.matchAll(/(?:^|\s)(?:>=|\^)(\d+)\./g), ([, major]) => major)

/** By package: `effect@3`, `better-sqlite3@12` and `better-sqlite3@13`. */
const specifiers = new Map(
  Object.entries(manifest.peerDependencies).map(([name, range]) =>
    [name, majorsOf(range).map((major) => `${name}@${major}`)] as const
  )
)
// Below version 1 each minor version may be another one.
specifiers.set("kysely", ["kysely@0.28", "kysely@0.29"])
specifiers.set("drizzle-orm", ["drizzle-orm@0.45"])
// Version 0.300 needs OpenTelemetry's SDK 3, and @effect/opentelemetry version 2.
specifiers.set("@opentelemetry/exporter-prometheus", ["@opentelemetry/exporter-prometheus@0.223"])

const filesIn = (path: string, extension: string): ReadonlyArray<string> =>
  Fs.readdirSync(Path.join(root, path), { encoding: "utf8", recursive: true })
    .filter((file) => file.endsWith(extension))
    .map((file) => Path.join(path, file))

/** The packages of every `npm install` that users are told. */
const commands = ["README.md", ...filesIn("docs", ".md"), ...filesIn("src", ".ts")].flatMap((file) =>
  Array.from(
    Fs.readFileSync(Path.join(root, file), "utf8").matchAll(/npm (?:install|i|add)((?: @?\w[\w./@-]*)+)/g),
    ([, words = ""]) => ({ file, packages: words.trim().split(" ") })
  )
)

const packagesIn = (file: string) => commands.filter((command) => command.file === file).map(({ packages }) => packages)

describe("what users are told to install", () => {
  it("is in the README what the package needs, and the drivers", () => {
    assert.isUndefined(manifest.dependencies)
    const needed = Array.from(specifiers.keys()).filter((name) => !manifest.peerDependenciesMeta[name]?.optional)
    const [first = [], ...others] = packagesIn("README.md")
    assert.deepStrictEqual(others, [])
    assert.strictEqual(first[0], manifest.name)
    assert.sameMembers(first.slice(1), [
      ...needed.flatMap((name) => specifiers.get(name) ?? []),
      "better-sqlite3@13",
      "pg@8"
    ])
  })

  it("is in the right major version everywhere", () => {
    const allowed = [...Array.from(specifiers.values()).flat(), "@types/pg@8", "@types/better-sqlite3@7"]
    for (const { file, packages } of commands) {
      for (const specifier of packages.filter((specifier) => specifier !== manifest.name)) {
        assert.include(allowed, specifier, file)
      }
    }
    const files = commands.map(({ file }) => file)
    assert.includeMembers(files, ["README.md", "docs/cli.md", "docs/http.md", "src/internal/cli/main.ts"])
  })

  it("is for the command line the same in its message and in the guide", () => {
    assert.deepStrictEqual(packagesIn("docs/cli.md"), packagesIn("src/internal/cli/main.ts"))
  })
})

describe("the links of the README", () => {
  it("are relative to the package, so that they work in it and on a page of a registry", () => {
    const text = Fs.readFileSync(Path.join(root, "README.md"), "utf8")
    const { files }: { readonly files: ReadonlyArray<string> } = JSON.parse(
      Fs.readFileSync(Path.join(root, "package.json"), "utf8")
    )
    const links = Array.from(text.matchAll(/\]\(([^)\s]+)\)/g), ([, link]) => link)
    assert.isAbove(links.length, 20)
    for (const link of links.filter((link) => !link.startsWith("#") && !link.startsWith("https://"))) {
      assert.match(link, /^[\w-]+(?:[/.][\w-]+)*(?:#[\w-]+)?$/, "a path without dots at its start, or a scheme")
      const [path] = link.split("#")
      assert.isTrue(Fs.existsSync(Path.join(root, path)), link)
      assert.isTrue(path === "LICENSE" || files.includes(path.split("/")[0]), `${link} is not in the package`)
    }
  })
})
