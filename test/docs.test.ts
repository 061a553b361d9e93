import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

const read = (file: string) => Fs.readFileSync(Path.join(root, file), "utf8")

const pages = [
  "README.md",
  ...Fs.readdirSync(Path.join(root, "docs")).filter((file) => file.endsWith(".md")).map((file) => `docs/${file}`)
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
