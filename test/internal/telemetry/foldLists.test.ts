import { assert, describe, it } from "@effect/vitest"
import { foldLists } from "../../../src/internal/telemetry/foldLists.js"

const placeholders = (count: number, first = 1) => Array.from({ length: count }, (_, i) => `$${first + i}`)

describe("foldLists", () => {
  for (
    const [what, text] of [
      ["IN", (n: number) => `SELECT 1 FROM a WHERE id IN (${placeholders(n).join(", ")})`],
      [
        "NOT IN, without blanks",
        (n: number) => `SELECT 1 FROM a WHERE id NOT IN (${placeholders(n).join(",")}) ORDER BY 1`
      ],
      [
        "two lists",
        (n: number) =>
          `SELECT 1 FROM a WHERE id IN (${placeholders(n).join()}) AND x = $${n + 1} AND y in (${
            placeholders(3, n + 2).join()
          })`
      ],
      ["a list of casts", (n: number) => `SELECT 1 WHERE x IN (${placeholders(n).map((p) => `${p}::int`).join(", ")})`],
      [
        "a list of rows",
        (n: number) => `SELECT 1 WHERE (a, b) IN (${placeholders(n).map((p) => `(${p}, 1)`).join(", ")})`
      ],
      ["rows", (n: number) => `INSERT INTO a (b) VALUES ${placeholders(n).map((p) => `(${p})`).join(",")} RETURNING b`],
      [
        "rows with calls",
        (n: number) => `INSERT INTO a VALUES ${placeholders(n).map((p) => `(${p}, now())`).join(", ")}`
      ],
      [
        "rows that begin with a call",
        (n: number) => `INSERT INTO a VALUES ${placeholders(n).map((p) => `(now(), (1), ${p})`).join(", ")}`
      ],
      [
        "rows of a table",
        (n: number) =>
          `UPDATE a SET b = v.b FROM (VALUES ${
            placeholders(n).map((p) => `(${p}::int)`).join(",")
          }) AS v (b) WHERE c = $${n + 1}`
      ],
      [
        "a list in a query in a list",
        (n: number) =>
          `SELECT 1 WHERE a IN (SELECT b FROM c WHERE d IN (${placeholders(n).join(", ")})) AND e = $${n + 1}`
      ],
      ["question marks", (n: number) => `SELECT 1 WHERE a IN (${placeholders(n).map(() => "?").join(",")}) AND b = ?`]
    ] as const
  ) {
    it(`makes one text of ${what}, however long`, () => {
      const one = text(1)
      for (const count of [2, 3, 5, 100]) {
        assert.strictEqual(foldLists(text(count)), foldLists(one))
      }
      assert.strictEqual(foldLists(one), text(1).replace(/in \(\$3,\$4,\$5\)/, "in ($3)"))
    })
  }

  it("leaves what is alike apart where it is no list of placeholders", () => {
    for (
      const text of [
        "SELECT 1",
        "SELECT a, a FROM b WHERE c IN ('x', 'x')",
        "SELECT 1 WHERE a IN (1, 2, 3) AND b = $1",
        "SELECT 'IN ($1, $2)', \"IN ($3, $4)\" FROM a -- IN ($5, $6)",
        "SELECT 1 /* VALUES ($1), ($2) */ WHERE a = $3",
        "SELECT $tag$ a IN ($1, $2) $tag$, $1",
        "SELECT $é$ a IN ($1, $2) $é$, $1",
        "SELECT coalesce($1, $2), least($3, $4)",
        "INSERT INTO a VALUES ($1, DEFAULT), (DEFAULT, $2)",
        "SELECT 1 WHERE a IN ("
      ]
    ) {
      assert.strictEqual(foldLists(text), text)
    }
  })

  it("keeps numbers that are used again, and numbers the others without gaps", () => {
    assert.strictEqual(
      foldLists("SELECT $5 WHERE a IN ($2, $3, $4) AND b = $1 AND c = $5"),
      "SELECT $3 WHERE a IN ($2) AND b = $1 AND c = $3"
    )
  })

  it("takes no longer for a text of nested or unfinished parts than for another of its length", () => {
    const many = (part: (at: number) => string) => {
      let text = ""
      for (let at = 0; text.length < 200_000; at++) {
        text += part(at)
      }
      return text
    }
    // A search from each part to the end of the text takes minutes.
    const unfinished = [
      many(() => "in("),
      `${many(() => "in(")}$1`,
      `IN ($1${many(() => ", in ($2")})`,
      `${many(() => "values(")}$1`,
      `in ($1) ${many((at) => `$a${at}$ `)}`,
      `in ($1) ${many(() => "/* a ")}`,
      `in ($1) ${many(() => "[")}`,
      `in ($1) ${many(() => "'")}`
    ]
    for (const text of unfinished) {
      assert.strictEqual(foldLists(text), text)
    }
    assert.strictEqual(foldLists(many(() => "in(?,?) ")), many(() => "in(?,?) ").replaceAll(",?", ""))
  }, 60_000)

  it("keeps elements that differ", () => {
    assert.strictEqual(foldLists("SELECT 1 WHERE a IN ($1, $2, 7, $3, $4)"), "SELECT 1 WHERE a IN ($1, 7, $2)")
  })
})
