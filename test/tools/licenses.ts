/**
 * Lists the packages that an installation of sqlayer brings, with their versions and licenses: its dependencies and peers,
 * with all that they depend on. Exits with 1 if the license of one is not among those that need no decision.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

interface Manifest {
  readonly name: string
  readonly version: string
  readonly license?: string | { readonly type?: string }
  readonly licenses?: ReadonlyArray<{ readonly type?: string }>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>
}

const root = fileURLToPath(new URL("../..", import.meta.url))

const permissive: ReadonlySet<string> = new Set([
  "0BSD",
  "Apache-2.0",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "BlueOak-1.0.0",
  "CC0-1.0",
  "ISC",
  "MIT",
  "Python-2.0",
  "Unlicense"
])

const read = (directory: string): Manifest => JSON.parse(Fs.readFileSync(Path.join(directory, "package.json"), "utf8"))

/** The directory of a package as seen from another one. Undefined if it is not installed, as optional packages may be. */
const resolve = (from: string, name: string): string | undefined => {
  for (let directory = from; directory.startsWith(root.replace(/\/$/, "")); directory = Path.dirname(directory)) {
    const candidate = Path.join(directory, "node_modules", name)
    if (Fs.existsSync(Path.join(candidate, "package.json"))) {
      return Fs.realpathSync(candidate)
    }
  }
  return undefined
}

const licenseOf = ({ license, licenses }: Manifest): string =>
  typeof license === "string" ? license : license?.type ?? licenses?.map(({ type }) => type).join(" OR ") ?? "unknown"

/** `(MIT OR WTFPL)` is permitted if one of them is, `MIT AND ISC` if both are. */
const isPermissive = (license: string): boolean =>
  license.replaceAll(/[()]/g, "").split(" OR ").some((choice) =>
    choice.split(" AND ").every((name) => permissive.has(name.trim()))
  )

const found = new Map<string, string>()

const visit = (directory: string, isRoot: boolean): void => {
  const manifest = read(directory)
  const key = `${manifest.name} ${manifest.version}`
  if (found.has(key)) {
    return
  }
  if (!isRoot) {
    found.set(key, licenseOf(manifest))
  }
  const peers = Object.keys(manifest.peerDependencies ?? {}).filter((name) =>
    isRoot || manifest.peerDependenciesMeta?.[name]?.optional !== true
  )
  for (const name of [...Object.keys(manifest.dependencies ?? {}), ...peers]) {
    const dependency = resolve(directory, name)
    if (dependency !== undefined) {
      visit(dependency, false)
    }
  }
}

visit(root.replace(/\/$/, ""), true)

const width = Math.max(...Array.from(found.keys(), (key) => key.length))
for (const [key, license] of [...found].sort(([a], [b]) => a < b ? -1 : 1)) {
  console.log(`${key.padEnd(width)}  ${license}`)
}
const others = [...found].filter(([, license]) => !isPermissive(license))
if (others.length > 0) {
  console.error(`These licenses need a decision:\n${others.map(([key, license]) => `${key}: ${license}`).join("\n")}`)
  process.exitCode = 1
}
