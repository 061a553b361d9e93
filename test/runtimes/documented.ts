/**
 * What the documentation tells users: its install commands, the README's program, and the settings for Next.js.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))

const pages = (): ReadonlyArray<string> => [
  "README.md",
  ...Fs.readdirSync(Path.join(root, "docs"), { encoding: "utf8", recursive: true })
    .filter((file) => file.endsWith(".md"))
    .map((file) => Path.join("docs", file))
    .sort()
]

const read = (file: string): string => Fs.readFileSync(Path.join(root, file), "utf8")

/** An `npm install` on a line of its own. */
export interface InstallCommand {
  readonly file: string
  readonly packages: ReadonlyArray<string>
}

/** The install commands, the README's first. */
export const installCommands = (): ReadonlyArray<InstallCommand> =>
  pages().flatMap((file) =>
    Array.from(read(file).matchAll(/^npm install ((?:@?[\w-][\w./@-]*(?: |$))+)/gm), ([, packages]) => ({
      file,
      packages: packages.trim().split(" ")
    }))
  )

/** The README's program. */
export const readmeProgram = (): string => {
  const [, program] = /^```ts run\n([\s\S]*?)^```$/m.exec(read("README.md")) ?? []
  if (program === undefined) {
    throw new Error("README.md has no program")
  }
  return program
}

/** The settings for a standalone server of Next.js. */
export const nextConfiguration = (): string => {
  const [, configuration] = /^## Next\.js\n[\s\S]*?^```js\n([\s\S]*?)^```$/m.exec(read("docs/bundling.md")) ?? []
  if (configuration === undefined) {
    throw new Error("docs/bundling.md has no settings for Next.js")
  }
  return configuration
}
