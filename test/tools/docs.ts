/**
 * Checks the code and the links of README.md and of docs/.
 *
 * - Every `ts` block is a module of its own and must compile.
 * - A `ts run` block must also run and exit with 0. It runs in an empty directory with APP_ENV=test and no database
 *   configured.
 * - A `ts file=docs/examples/some.ts` block must be an excerpt of that file, which is compiled with the rest.
 * - A relative link must lead to a file of the published package, and its fragment to a heading of that file.
 *
 * A block is compiled at its line in the Markdown file, so that compiler errors show that line.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

interface Block {
  readonly source: string
  readonly line: number
  readonly words: ReadonlyArray<string>
  readonly code: string
}

const root = fileURLToPath(new URL("../..", import.meta.url))
const out = path.join(root, "build", "snippets")
const problems: Array<string> = []

const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")
const lineOf = (text: string, index: number) => text.slice(0, index).split("\n").length
const dedent = (text: string) => {
  const lines = text.split("\n")
  const indents = lines.filter((line) => line.trim() !== "").map((line) => line.search(/\S/))
  return lines.map((line) => line.slice(Math.min(...indents))).join("\n").trim()
}

const fence = /^( *)(```+) *(\S*)([^\n]*)\n([\s\S]*?)^\1\2 *$/gm

const blocksOf = (source: string): Array<Block> => {
  const text = read(source)
  const blocks: Array<Block> = []
  for (const { index, 3: language, 4: info, 5: code } of text.matchAll(fence)) {
    if (language === "ts" || language === "typescript") {
      blocks.push({ source, line: lineOf(text, index), words: info.split(/\s+/).filter(Boolean), code })
    }
  }
  return blocks
}

/** The text of a page with its code blocks blanked out, so that lines keep their numbers. */
const proseOf = (source: string) => read(source).replace(fence, (block) => block.replace(/[^\n]/g, " "))

/** The fragments of a page's headings, as GitHub and npm make them. */
const fragmentsOf = (source: string): ReadonlySet<string> =>
  new Set(Array.from(
    proseOf(source).matchAll(/^#+ +(.+)$/gm),
    ([, heading]) => heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replace(/\s/g, "-")
  ))

const published = ["README.md", "LICENSE", ...JSON.parse(read("package.json")).files as ReadonlyArray<string>]

const isPublished = (file: string) => published.some((entry) => file === entry || file.startsWith(`${entry}/`))

const checkLinks = (source: string) => {
  const text = proseOf(source)
  for (const { index, 1: link } of text.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(link)) {
      continue
    }
    const [target, fragment] = link.split("#")
    const file = target === "" ? source : path.join(path.dirname(source), target)
    const report = (problem: string) => problems.push(`${source}:${lineOf(text, index)}: the link ${link} ${problem}`)
    if (!fs.existsSync(path.join(root, file))) {
      report("points to a file that does not exist")
    } else if (!isPublished(file)) {
      report("points to a file that is not in the package")
    } else if (fragment !== undefined && !fragmentsOf(file).has(fragment)) {
      report("points to a heading that does not exist")
    }
  }
}

/** The file that a block is written to, named after the block's page and line. */
const fileOf = (block: Block) =>
  path.join(out, `${block.source.replace(/\.md$/, "").replace(/[^\w-]/g, "-")}-${block.line}.ts`)

const excerptOf = (block: Block) => block.words.find((word) => word.startsWith("file="))?.slice("file=".length)

const checkExcerpt = (block: Block, file: string) => {
  if (!fs.existsSync(path.join(root, file))) {
    problems.push(`${block.source}:${block.line}: shows a file that does not exist: ${file}`)
    return
  }
  const lines = read(file).split("\n")
  const code = dedent(block.code)
  const height = code.split("\n").length
  if (!lines.some((_, start) => dedent(lines.slice(start, start + height).join("\n")) === code)) {
    problems.push(`${block.source}:${block.line}: is not an excerpt of ${file}`)
  }
}

const compile = (blocks: ReadonlyArray<Block>) => {
  fs.rmSync(out, { recursive: true, force: true })
  fs.mkdirSync(out, { recursive: true })
  fs.writeFileSync(
    path.join(out, "tsconfig.json"),
    JSON.stringify({
      extends: "../../tsconfig.json",
      compilerOptions: { noUnusedLocals: false, noUnusedParameters: false },
      include: ["*.ts"]
    })
  )
  for (const block of blocks) {
    fs.writeFileSync(fileOf(block), "\n".repeat(block.line) + block.code)
  }
  if (blocks.length > 0) {
    const tsc = path.join(root, "node_modules", ".bin", "tsc")
    const { status, stdout } = spawnSync(tsc, ["--pretty", "false", "-p", out], { cwd: root, encoding: "utf8" })
    if (status !== 0) {
      problems.push(stdout.trim())
    }
  }
}

const run = (block: Block) => {
  const cwd = fs.mkdtempSync(path.join(os.tmpdir(), "sqlayer-docs-"))
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    APP_ENV: "test",
    TSX_TSCONFIG_PATH: path.join(root, "tsconfig.json")
  }
  for (const name of Object.keys(env)) {
    if (name.startsWith("DATABASE_") || name.startsWith("PG")) {
      delete env[name]
    }
  }
  const { error, status, stderr, stdout } = spawnSync(
    process.execPath,
    ["--import", import.meta.resolve("tsx"), fileOf(block)],
    { cwd, env, encoding: "utf8", timeout: 60_000 }
  )
  if (status !== 0) {
    problems.push(`${block.source}:${block.line}: exited with ${error ?? status}\n${stdout}${stderr}`)
  }
  fs.rmSync(cwd, { recursive: true, force: true })
}

const sources = [
  "README.md",
  ...fs.readdirSync(path.join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => path.join("docs", file))
]
const blocks = sources.flatMap(blocksOf)
sources.forEach(checkLinks)
for (const block of blocks) {
  const file = excerptOf(block)
  if (file !== undefined) {
    checkExcerpt(block, file)
  }
}
const modules = blocks.filter((block) => excerptOf(block) === undefined)
compile(modules)
const runnable = modules.filter((block) => block.words.includes("run"))
if (problems.length === 0) {
  runnable.forEach(run)
}
if (problems.length > 0) {
  console.error(problems.join("\n"))
  process.exitCode = 1
} else {
  console.log(
    `${sources.length} Markdown files: ${modules.length} blocks compile, ${runnable.length} of them run, `
      + `${blocks.length - modules.length} are excerpts`
  )
}
