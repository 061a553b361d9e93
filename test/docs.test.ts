import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

const read = (file: string) => Fs.readFileSync(Path.join(root, file), "utf8")

const pages = [
  "README.md",
  ...Fs.readdirSync(Path.join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file}`)
]

/** The files and folders of the repository that a page names in code spans. */
const namedFiles = (page: string): ReadonlyArray<string> =>
  Array.from(read(page).matchAll(/`((?:src|test|docs|\.ci)\/[\w./-]+?)`/g), ([, file]) => file)

/** A file that a page says a test is in, and the title of the test. */
type NamedTest = readonly [file: string, title: string]

const namedTests = (page: string): ReadonlyArray<NamedTest> =>
  Array.from(read(page).matchAll(/^- `(test\/[\w./-]+)`: ("[^]*?)(?=\n\n|\n- )/gm)).flatMap(([, file, text]) =>
    Array.from(text.matchAll(/"([^"]+)"/g), ([, title]): NamedTest => [file, title.replaceAll(/\s+/g, " ")])
  )

/** The source of a test, with concatenated strings joined. */
const sourceOf = (file: string) => read(file).replaceAll(/["`]\s*\+\s*["`]/g, "")

describe("the files that the guide names exist", () => {
  for (const page of pages) {
    it(`in ${page}`, () => {
      assert.deepStrictEqual(namedFiles(page).filter((file) => !Fs.existsSync(Path.join(root, file))), [])
    })
  }

  it("and there are some in the architecture and in the contributing guide", () => {
    for (const page of ["docs/architecture.md", "docs/contributing.md"]) {
      assert.isAbove(namedFiles(page).length, 5, page)
    }
  })
})

it("the tests that the guide names exist", () => {
  const named = namedTests("docs/reliability.md")
  assert.isAbove(named.length, 100)
  assert.deepStrictEqual(named.filter(([file, title]) => !sourceOf(file).includes(title)), [])
})

it("the page of each recipe shows all of its code, names its test, and is in the list", () => {
  const recipes = Fs.readdirSync(Path.join(root, "docs/recipes")).filter((file) => file.endsWith(".ts"))
  assert.isAbove(recipes.length, 8)
  const list = read("docs/recipes.md")
  for (const file of recipes) {
    const page = file.replace(/\.ts$/, ".md")
    const text = read(`docs/recipes/${page}`)
    assert.include(text, `\`\`\`ts file=docs/recipes/${file}\n${read(`docs/recipes/${file}`)}\`\`\``, page)
    assert.match(text, /`test\/recipes\/[\w-]+\.test\.ts`/, page)
    assert.include(list, `](recipes/${page})`)
  }
})

describe("from-effect-sql.md", () => {
  const page = read("docs/from-effect-sql.md")

  /** The names of the fields of an interface, as its source declares them. */
  const fieldsOf = (file: string, name: string): ReadonlyArray<string> => {
    const [, body = ""] = new RegExp(`export interface ${name}\\b[^{]*\\{\\n([^]*?)\\n\\}`).exec(read(file)) ?? []
    return Array.from(body.matchAll(/^ +readonly (\w+)\??:/gm), ([, field]) => field)
  }

  /** The rows of the table under a heading, as texts of their cells. */
  const rowsUnder = (heading: string) => {
    const [, section] = page.split(`## ${heading}\n`)
    return Array.from(section.split("\n## ")[0].matchAll(/^\| (`.*) \|$/gm), ([, row]) => row.split(" | "))
  }

  const codes = (cell: string) => Array.from(cell.matchAll(/`(\w+)`/g), ([, code]) => code)

  const tables = {
    PgClient: [
      ...fieldsOf("node_modules/@effect/sql-pg/dist/dts/PgClient.d.ts", "PgClientConfig"),
      ...fieldsOf("node_modules/@effect/sql-pg/dist/dts/PgClient.d.ts", "PgClientFromPoolOptions")
    ],
    SqliteClient: fieldsOf("node_modules/@effect/sql-sqlite-node/dist/dts/SqliteClient.d.ts", "SqliteClientConfig")
  }

  it.each(Object.entries(tables))("has every option of %s, and no other", (name, fields) => {
    assert.isAtLeast(fields.length, 8)
    const named = rowsUnder(`The options of ${name}.layer`).flatMap(([option]) => codes(option))
    assert.sameMembers(named, Array.from(new Set(fields)))
  })

  it("names options of ours that exist", () => {
    const ours = fieldsOf("src/DatabaseConfig.ts", "Options")
    const named = Object.keys(tables).flatMap((name) =>
      rowsUnder(`The options of ${name}.layer`).flatMap(([, own]) => codes(own))
    )
    assert.isAbove(named.length, 20)
    assert.deepStrictEqual(named.filter((option) => !ours.includes(option)), [])
  })
})
