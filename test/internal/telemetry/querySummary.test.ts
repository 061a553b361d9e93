/** The summaries of statements: what gets into them, and what never does. */
import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { QuerySummaries } from "../../../src/internal/telemetry/querySummaries.js"
import { summarize } from "../../../src/internal/telemetry/querySummary.js"

describe("a summary", () => {
  const summaries: ReadonlyArray<readonly [text: string, summary: string]> = [
    // The examples of the conventions.
    ["SELECT *\n  FROM wuser_table\n WHERE username = ?", "SELECT wuser_table"],
    [
      "INSERT INTO shipping_details (order_id, address) SELECT order_id, address FROM orders WHERE order_id = ?",
      "INSERT shipping_details SELECT orders"
    ],
    ["SELECT * FROM songs, artists WHERE songs.artist_id == artists.id", "SELECT songs artists"],
    [
      "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id)",
      "SELECT SELECT orders customers"
    ],
    ["SELECT * FROM \"song list\", 'artists'", "SELECT \"song list\""],
    ["call some_stored_procedure($1)", "call some_stored_procedure"],
    // Names.
    ["select 1", "select"],
    ["INSERT INTO \"a\".\"b\" (x, y) VALUES ($1, $2), ($3, $4) ON CONFLICT (x) DO UPDATE SET y = 1", "INSERT a.b"],
    ["SELECT * FROM [my table], `tick` WHERE x = 1", "SELECT [my table] tick"],
    ["SELECT * FROM \"Account\" JOIN order_line USING (id)", "SELECT \"Account\" order_line"],
    ["SELECT \"id\" FROM \"line\nbreak\", y", "SELECT y"],
    // Comments and strings.
    ["-- FROM one\n/* x /* y */ FROM two */ SELECT 'FROM three' FROM account -- , four", "SELECT account"],
    ["SELECT $$ FROM one $$, $t$ FROM two $$ $t$ FROM three", "SELECT three"],
    ["SELECT $é$ FROM one $é$ FROM two", "SELECT two"],
    ["SELECT 'it''s FROM one' FROM two", "SELECT two"],
    ["SELECT E'it\\'s FROM one' FROM two", "SELECT"],
    ["SELECT [a'b] FROM two WHERE c = 'x FROM one'", "SELECT"],
    ["SELECT count(*) FROM a WHERE b = ANY(ARRAY[']', ' FROM one'])", "SELECT a"],
    // Queries within queries.
    [
      "WITH x AS (SELECT * FROM b), y (q) AS MATERIALIZED (DELETE FROM c RETURNING *) INSERT INTO d SELECT * FROM x, y",
      "SELECT b DELETE c INSERT d SELECT"
    ],
    ["WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t) SELECT * FROM t, u", "VALUES SELECT SELECT u"],
    ["(SELECT 1 FROM a) UNION (SELECT 2 FROM b)", "SELECT a SELECT b"],
    ["SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS t (a, b), account", "SELECT account"],
    ["SELECT extract(year FROM day), x IS DISTINCT FROM y FROM a x, b AS y ORDER BY 1, z FOR UPDATE", "SELECT a b"],
    ["EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM a", "EXPLAIN SELECT a"],
    ["EXPLAIN QUERY PLAN UPDATE t SET x = 1", "EXPLAIN UPDATE t"],
    ["UPDATE ONLY a SET x = 1, y = 2 FROM b", "UPDATE a b"],
    ["UPDATE OR IGNORE t SET x = 1", "UPDATE t"],
    ["INSERT OR REPLACE INTO t (\"update\", x) VALUES (1, 2)", "INSERT t"],
    ["DELETE FROM a USING b WHERE a.id = b.id", "DELETE a b"],
    ["MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET x = 1", "MERGE t s"],
    // Commands.
    ["CREATE TABLE IF NOT EXISTS s.account (id int, CHECK (name <> 'FROM z'))", "CREATE TABLE s.account"],
    ["CREATE TEMP TABLE recent AS SELECT * FROM account", "CREATE TABLE recent SELECT account"],
    ["CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)", "CREATE INDEX i"],
    ["DROP TABLE IF EXISTS a, b", "DROP TABLE a b"],
    ["CREATE USER someone PASSWORD 'secret'", "CREATE USER"],
    ["SET app.tenant = 'secret'", "SET"],
    ["NOTIFY channel, 'secret'", "NOTIFY"],
    ["TRUNCATE a, b", "TRUNCATE a b"],
    ["COPY account (id) FROM STDIN", "COPY account"],
    ["COPY (SELECT * FROM account) TO STDOUT", "COPY SELECT account"],
    ["REFRESH MATERIALIZED VIEW CONCURRENTLY mv", "REFRESH MATERIALIZED VIEW mv"],
    ["PREPARE x AS INSERT INTO a VALUES (1)", "PREPARE INSERT a"],
    ["CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET x = 1; DELETE FROM c; END", "CREATE TRIGGER t"],
    // Nothing that is known.
    ["frobnicate 'secret'", ""],
    ["", ""],
    [";;", ""],
    ["SELECT \"unfinished", "SELECT"]
  ]

  for (const [text, summary] of summaries) {
    it(`of ${JSON.stringify(text)}`, () => {
      assert.strictEqual(summarize(text).summary, summary)
    })
  }

  it("has the command, and the table if there is one", () => {
    const of = (text: string) => {
      const { batchSize, collection, operation, procedure } = summarize(text)
      return [operation, collection, procedure, batchSize]
    }
    assert.deepStrictEqual(of("SELECT * FROM a, a AS b"), ["SELECT", "a", undefined, undefined])
    assert.deepStrictEqual(of("INSERT INTO a SELECT * FROM b"), ["INSERT", undefined, undefined, undefined])
    assert.deepStrictEqual(of("WITH x AS (SELECT 1) DELETE FROM a"), ["DELETE", "a", undefined, undefined])
    assert.deepStrictEqual(of("CREATE  TABLE a (x int)"), ["CREATE TABLE", "a", undefined, undefined])
    assert.deepStrictEqual(of("CREATE INDEX i ON a (x)"), ["CREATE INDEX", undefined, undefined, undefined])
    assert.deepStrictEqual(of("CALL a.move($1)"), ["CALL", undefined, "a.move", undefined])
    assert.deepStrictEqual(of("DELETE FROM a; DELETE FROM a;"), ["BATCH DELETE", "a", undefined, 2])
    assert.deepStrictEqual(of("BEGIN; DELETE FROM a; COMMIT"), ["BATCH", undefined, undefined, 3])
  })

  it("of a batch says so, and what its statements have in common", () => {
    assert.strictEqual(summarize("DELETE FROM a; DELETE FROM a;").summary, "BATCH DELETE a")
    assert.strictEqual(summarize("SELECT 1; -- no more\n").summary, "SELECT")
    assert.strictEqual(summarize("BEGIN; DELETE FROM a; COMMIT").summary, "BATCH")
  })

  it("is at most 255 characters long, and ends with a whole name", () => {
    const names = Array.from({ length: 500 }, (_, i) => `table_${i}`)
    const { collection, summary } = summarize(`SELECT * FROM ${names.join(", ")}`)
    assert.isAtMost(summary.length, 255)
    assert.isAbove(summary.length, 240)
    assert.isTrue(summary.split(" ").slice(1).every((name, i) => name === names[i]))
    assert.isUndefined(collection)
    assert.strictEqual(summarize(`SELECT * FROM "${"n".repeat(300)}"`).summary, "SELECT")
    assert.strictEqual(summarize(`SELECT ${"x, ".repeat(5_000)} y FROM account`).summary, "SELECT")
    assert.strictEqual(summarize(`SELECT * FROM ${" ".repeat(3_982)}account`).summary, "SELECT")
  })

  it("holds no literal, wherever one stands", () => {
    const parts = [
      "SELECT",
      "FROM",
      "a",
      "\"b\"",
      ",",
      "(",
      ")",
      "JOIN",
      "INTO",
      "UPDATE",
      "WITH",
      "AS",
      ";",
      "--",
      "\n",
      "/*",
      "*/",
      "$$",
      "E",
      "[",
      "]",
      "`",
      "CALL",
      "CREATE TABLE",
      "IN"
    ]
    const literal = FastCheck.constantFrom(
      "'canary'",
      "'FROM canary'",
      "'x''canary'",
      "$$canary$$",
      "$t$ FROM canary $t$"
    )
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(FastCheck.oneof(FastCheck.constantFrom(...parts), literal), { maxLength: 30 }),
        (all) => {
          // A comment, a dollar quote or a name in quotes that swallows one end of a literal leaves the other as plain text.
          const isPlain = all.every((part) => !/^(?:--|\/\*|\*\/|\$\$|`|\[|\])$/.test(part))
          const query = summarize(all.join(" "))
          assert.isAtMost(query.summary.length, 255)
          if (isPlain) {
            assert.notInclude(JSON.stringify(query), "canary")
          }
        }
      ),
      { numRuns: 1_000 }
    )
  })

  it("of any text is one", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.string({ unit: "grapheme-ascii", maxLength: 300 }), (text) => {
        assert.isAtMost(summarize(text).summary.length, 255)
      }),
      { numRuns: 100 }
    )
  })
})

describe("summaries", () => {
  it("are few, however many texts and tables there are", () => {
    const queries = new QuerySummaries()
    const seen = new Set<string>()
    for (let i = 0; i < 10_000; i++) {
      seen.add(queries.of(`SELECT * FROM account WHERE id = ${i}`).summary)
    }
    assert.deepStrictEqual([...seen], ["SELECT account"])
    for (let i = 0; i < 2_000; i++) {
      const { collection, operation, summary } = queries.of(`select * from account_${i}`)
      seen.add(JSON.stringify([collection, operation, summary]))
    }
    assert.isAtMost(seen.size, 502)
    assert.deepStrictEqual(queries.of("select * from account_1999").summary, "SELECT")
    assert.deepStrictEqual(queries.of("SELECT * FROM account").summary, "SELECT account")
  })

  it("are parsed once for each text", () => {
    const queries = new QuerySummaries()
    const text = "SELECT * FROM account WHERE id = $1"
    assert.strictEqual(queries.of(text), queries.of(text))
    const long = `SELECT * FROM account WHERE id IN (${"$1, ".repeat(5_000)}$1)`
    assert.strictEqual(queries.of(long), queries.of(`${long} ORDER BY id`))
    assert.strictEqual(queries.of(long).summary, "SELECT account")
  })
})
