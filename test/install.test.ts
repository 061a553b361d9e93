import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

interface Manifest {
  readonly name: string
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean }>>
}

const manifest: Manifest = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))

/** What npm is told, so that it takes no newer major version than the package works with: `effect@3`. */
const specifiers = new Map(
  Object.entries(manifest.peerDependencies).map(([name, range]) => {
    const [, major] = /^>=(\d+)\./.exec(range) ?? []
    return [name, `${name}@${major}`] as const
  })
)

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
  it("is in the README what the package needs", () => {
    const needed = Array.from(specifiers.keys()).filter((name) => !manifest.peerDependenciesMeta[name]?.optional)
    const [first = [], ...others] = packagesIn("README.md")
    assert.deepStrictEqual(others, [])
    assert.strictEqual(first[0], manifest.name)
    assert.sameMembers(first.slice(1), needed.map((name) => specifiers.get(name) ?? name))
  })

  it("is in the right major version everywhere", () => {
    for (const { file, packages } of commands) {
      for (const specifier of packages.filter((specifier) => specifier !== manifest.name)) {
        assert.include(Array.from(specifiers.values()), specifier, file)
      }
    }
    const files = commands.map(({ file }) => file)
    assert.includeMembers(files, ["README.md", "docs/cli.md", "docs/http.md", "src/internal/cli/main.ts"])
  })

  it("is for the command line the same in its message and in the guide", () => {
    assert.deepStrictEqual(packagesIn("docs/cli.md"), packagesIn("src/internal/cli/main.ts"))
  })
})
