/**
 * Rows that cross between threads.
 */
import { describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { serialize } from "node:v8"
import { assert } from "vitest"
import { pack, unpack } from "../../../src/internal/sqlite/packedRows.js"

const crossed = (value: unknown): unknown => unpack(structuredClone(pack(value)))

describe("packed rows", () => {
  it("arrive as they were", () => {
    const values: ReadonlyArray<unknown> = [
      [],
      [{ a: 1 }],
      [{ a: 1, b: "x", c: null, d: 1.5, e: -0, f: NaN, g: 2n ** 62n }, {
        a: 2,
        b: "",
        c: "y",
        d: 0,
        e: 0,
        f: 1,
        g: -1n
      }],
      [{ 2: "integer names", b: 1, 1: "first" }, { 2: "", b: 2, 1: "" }],
      [[1, "x", null], [2, "y", 3n]],
      [[[1], { a: 1 }]],
      { rows: [{ a: 1 }, { a: 2 }], done: false, isQuery: true, columns: undefined },
      { rows: [[1], [2]], done: true, isQuery: false, columns: [{ name: "a", type: "INTEGER" }] },
      { rows: [], done: true },
      { changes: 1, lastInsertRowid: 2 },
      { journalMode: "wal", file: "1:2", wal: undefined, library: undefined },
      undefined,
      "emptied"
    ]
    for (const value of values) {
      assert.deepStrictEqual(crossed(value), value)
    }
  })

  it("have their bytes in Buffers, and are ordinary objects", () => {
    const bytes = Buffer.from([1, 2, 3])
    const values: ReadonlyArray<unknown> = [
      bytes,
      [{ a: bytes, b: null }, { a: null, b: Buffer.alloc(0) }],
      [[1, bytes]],
      { rows: [{ a: bytes }], done: false }
    ]
    for (const value of values) {
      const received = crossed(value)
      assert.deepStrictEqual(received, value)
      assert.include(JSON.stringify(received), `"type":"Buffer"`)
    }
    const [row] = crossed([{ constructor: 1, toString: 2, a: 3 }]) as ReadonlyArray<object>
    assert.strictEqual(Object.getPrototypeOf(row), Object.prototype)
    assert.deepStrictEqual(Object.entries(row), [["constructor", 1], ["toString", 2], ["a", 3]])
  })

  it("keep a column whose name is that of the prototype", () => {
    const rows = JSON.parse(`[{"__proto__":1,"a":2},{"__proto__":3,"a":4}]`) as ReadonlyArray<object>
    assert.deepStrictEqual((crossed(rows) as ReadonlyArray<object>).map((row) => Object.entries(row)), [
      [["__proto__", 1], ["a", 2]],
      [["__proto__", 3], ["a", 4]]
    ])
  })

  it("are as many where the only column has the name of the prototype", () => {
    const database = new Sqlite(":memory:")
    const rows = database.prepare(`SELECT 1 AS "__proto__" UNION ALL SELECT 2`).all()
    database.close()
    assert.deepStrictEqual(crossed(rows), rows)
    assert.deepStrictEqual(crossed({ rows: [{}, {}], done: true }), { rows: [{}, {}], done: true })
  })

  it("name their columns once", () => {
    const database = new Sqlite(":memory:")
    const rows = database.prepare(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 512) SELECT i AS the_number, 'a' AS the_text FROM n"
    ).all()
    database.close()
    const text = serialize(pack(rows)).toString("latin1")
    assert.strictEqual(text.split("the_number").length, 2)
    // A number of a few bytes and a text of one letter for each row, and no index of either.
    assert.isBelow(text.length, 512 * 8)
    assert.isAbove(serialize(rows).length, 512 * 25)
  })
})
