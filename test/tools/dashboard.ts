/**
 * Writes src/internal/databaseHttp/dashboard/script.ts: the modules of the dashboard's script as one text, which bundlers
 * take along as they would not take files. Run it after a change to dashboard/browser.
 */
import * as Fs from "node:fs"
import { fileURLToPath } from "node:url"

const folder = new URL("../../src/internal/databaseHttp/dashboard/", import.meta.url)

/** In the order in which they import each other. */
const modules = ["dom", "plot", "rows", "sessions", "statements", "database", "client"]

/** The file to write. */
export const target = fileURLToPath(new URL("script.ts", folder))

/** Without imports and exports, since all files have the same path, under which they cannot import each other. */
const lines = () =>
  modules.flatMap((name) => Fs.readFileSync(new URL(`browser/${name}.js`, folder), "utf8").trimEnd().split("\n"))
    .filter((line) => !line.startsWith("import "))
    .map((line) => line.replace(/^export /, ""))

/** What the file contains. */
export const generate = (): string =>
  [
    "/**",
    " * The script of the page. Written by test/tools/dashboard.ts from the modules in `browser`, which are to be edited.",
    " */",
    "export const script = [",
    lines().map((line) => `  ${JSON.stringify(line)}`).join(",\n"),
    "].join(\"\\n\")",
    ""
  ].join("\n")

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  Fs.writeFileSync(target, generate())
}
