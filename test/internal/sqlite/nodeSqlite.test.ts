/**
 * The SQLite libraries behind the interface that the engine uses.
 */
import Sqlite from "better-sqlite3"
import { assert, describe, it } from "vitest"
import * as BetterSqlite3 from "../../../src/internal/sqlite/betterSqlite3.js"
import { type Database, SqliteError } from "../../../src/internal/sqlite/binding.js"
import { nameOfCode } from "../../../src/internal/sqlite/codeNames.js"
import { builtIn } from "../../../src/internal/sqlite/loadBinding.js"
import { explainText, isBlank, parametersOf, writesByText } from "../../../src/internal/sqlite/statementText.js"

// Where the tests run on node:sqlite, what they import as better-sqlite3 is node:sqlite too.
const better = "SqliteError" in Sqlite ? BetterSqlite3.makeBinding(Sqlite) : undefined
// Node before 24 has none that reads exactly.
const bindings = [better, builtIn()].filter((binding) => binding !== undefined)

const open = { readOnly: false, immutable: false, mustExist: false }
const objects = { asArray: false, safeIntegers: false }
const arrays = { asArray: true, safeIntegers: true }

const statements = [
  "SELECT * FROM t",
  "VALUES (1), (2)",
  "WITH a AS (SELECT 1) SELECT * FROM a",
  "WITH a AS (SELECT 5 AS n) INSERT INTO t (a) SELECT n FROM a",
  "WITH a AS (SELECT 5 AS n) DELETE FROM t WHERE a IN (SELECT n FROM a) RETURNING a",
  "INSERT INTO t (a) VALUES (10) RETURNING *",
  "UPDATE t SET b = 1",
  "REPLACE INTO t (a) VALUES (11)",
  "CREATE TABLE IF NOT EXISTS t (a)",
  "CREATE TEMP TABLE IF NOT EXISTS u (a)",
  "BEGIN",
  "BEGIN IMMEDIATE",
  "SAVEPOINT a",
  "ROLLBACK",
  "COMMIT",
  "ANALYZE",
  "REINDEX",
  "VACUUM",
  "DROP TABLE IF EXISTS missing",
  "ATTACH ':memory:' AS other",
  "PRAGMA user_version",
  "PRAGMA user_version = 3",
  "PRAGMA table_info(t)",
  "PRAGMA journal_mode",
  "PRAGMA wal_checkpoint",
  "PRAGMA optimize",
  "EXPLAIN SELECT 1",
  "EXPLAIN INSERT INTO t (a) VALUES (1)",
  "EXPLAIN QUERY PLAN UPDATE t SET b = 2",
  "-- a comment\n/* another */ SELECT 1 ; -- the end"
]

const prepared = (database: Database) => {
  database.exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
  return statements.map((sql) => {
    const { isReadOnly, returnsRows } = database.prepare(sql)
    return [sql, isReadOnly, returnsRows]
  })
}

describe("the text of a statement", () => {
  it("tells its parameters", () => {
    const none = { count: 0, areNamed: false }
    assert.deepStrictEqual(parametersOf("SELECT 1"), none)
    assert.deepStrictEqual(
      parametersOf("SELECT '?', \"?\", `?`, [?], a$b FROM t -- ?\n/* ? */ WHERE '' = 'it''s ?'"),
      none
    )
    assert.deepStrictEqual(parametersOf("SELECT ?,?+?"), { count: 3, areNamed: false })
    for (const named of [":a", "@a", "$a", "?1"]) {
      assert.deepStrictEqual(parametersOf(`SELECT ${named}, ?`), { count: 1, areNamed: true })
    }
  })

  it("tells whether there is a statement", () => {
    for (const sql of ["", " \n", ";;", "-- SELECT 1", "/* a */ ; -- b\n /* not ended"]) {
      assert.isTrue(isBlank(sql), sql)
    }
    for (const sql of ["SELECT 1", "/* a */ /* b */ SELECT 1 /* c */", ";SELECT 1", "- 1"]) {
      assert.isFalse(isBlank(sql), sql)
    }
  })

  it("tells whether it writes, for the most frequent statements", () => {
    assert.isFalse(writesByText("/* a */ select 1"))
    assert.isTrue(writesByText("insert into t values (1)"))
    assert.isUndefined(writesByText("WITH a AS (SELECT 1) DELETE FROM t"))
    assert.strictEqual(explainText("-- a\nEXPLAIN QUERY PLAN\nSELECT 1"), "EXPLAIN SELECT 1")
  })

  it("is not needed for the name of a result code", () => {
    assert.strictEqual(nameOfCode(0), "SQLITE_OK")
    assert.strictEqual(nameOfCode(5), "SQLITE_BUSY")
    assert.strictEqual(nameOfCode(517), "SQLITE_BUSY_SNAPSHOT")
    assert.strictEqual(nameOfCode(516), "SQLITE_ABORT_ROLLBACK")
    assert.strictEqual(nameOfCode(2067), "SQLITE_CONSTRAINT_UNIQUE")
    assert.strictEqual(nameOfCode(5 + 200 * 256), "SQLITE_BUSY")
    assert.strictEqual(nameOfCode(99), "UNKNOWN_SQLITE_ERROR_99")
  })
})

describe.each(bindings)("$name", (own) => {
  const database = () => own.open(":memory:", open)

  const codeOf = (f: () => unknown): string | undefined => {
    try {
      f()
    } catch (error) {
      return error instanceof SqliteError ? error.code : own.codeOf(error) ?? (error as Error).message
    }
    return undefined
  }

  it("tells what a statement does", () => {
    assert.deepStrictEqual(prepared(database()), prepared(bindings[0].open(":memory:", open)))
  })

  it("reads rows as plain objects or arrays, few or many, also where names repeat", () => {
    const db = database()
    db.exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'x'), (2, x'0102')")
    db.exec("INSERT INTO t SELECT a + 2, b FROM t")
    const expected = [{ a: 1, b: "x" }, { a: 2, b: Buffer.from([1, 2]) }, { a: 3, b: "x" }]
    const statement = db.prepare("SELECT a, b FROM t WHERE a < 4 ORDER BY a")
    for (let i = 0; i < 3; i++) {
      assert.deepStrictEqual(statement.all([], objects), expected)
      assert.deepStrictEqual([...statement.iterate([], objects)], expected)
      assert.deepStrictEqual(statement.all([], arrays), [[1n, "x"], [2n, Buffer.from([1, 2])], [3n, "x"]])
    }
    const twice = db.prepare("SELECT a, b AS c, a AS c FROM t ORDER BY a")
    for (let i = 0; i < 2; i++) {
      const rows = [1, 2, 3, 4].map((a) => ({ a, c: a }))
      assert.deepStrictEqual(twice.all([], objects), rows)
      assert.deepStrictEqual([...twice.iterate([], objects)], rows)
    }
    assert.deepStrictEqual(twice.all([], arrays)[0], [1n, "x", 1n])
  })

  it("reads the names of columns that were renamed after the statement was prepared", () => {
    const db = database()
    db.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)")
    const statement = db.prepare("SELECT * FROM t")
    for (const name of ["a", "b", "c"]) {
      assert.deepStrictEqual(statement.all([], objects), [1, 2, 3].map((value) => ({ [name]: value })))
      assert.deepStrictEqual([...statement.iterate([], objects)], [1, 2, 3].map((value) => ({ [name]: value })))
      db.exec(`ALTER TABLE t RENAME COLUMN ${name} TO ${name === "a" ? "b" : name === "b" ? "c" : "d"}`)
    }
  })

  it("binds what better-sqlite3 binds, and refuses what SQLite would take for NULL", () => {
    const db = database()
    const select = db.prepare("SELECT ? AS a, ? AS b")
    assert.deepStrictEqual(select.all([undefined, "x"], objects), [{ a: null, b: "x" }])
    assert.include(codeOf(() => select.all([1], objects)), "Too few")
    assert.include(codeOf(() => select.all([1, 2, 3], objects)), "Too many")
    assert.include(codeOf(() => db.prepare("SELECT :a").all([], objects)), "Missing named")
    assert.include(codeOf(() => db.prepare("SELECT 1; SELECT 2")), "more than one statement")
    assert.include(codeOf(() => db.prepare("-- nothing")), "no statements")
    assert.deepStrictEqual(db.prepare("CREATE TABLE t (a)").run([]).changes, 0)
    assert.deepStrictEqual(db.prepare("INSERT INTO t VALUES (?)").run([1]), {
      changes: 1,
      lastInsertRowid: 1n
    })
  })

  it("reads a text with a NUL character whole", () => {
    const db = database()
    const text = "x\0y"
    const select = db.prepare("SELECT 'x' || char(0) || 'y' AS a, ? AS b")
    const expected = [{ a: text, b: text }]
    assert.deepStrictEqual(select.all([text], objects), expected)
    assert.deepStrictEqual(select.all([text], objects, () => {}), expected)
    assert.deepStrictEqual([...select.iterate([text], objects)], expected)
  })

  it("binds empty bytes as such", () => {
    const select = database().prepare("SELECT typeof(?) AS a")
    for (const bytes of [new Uint8Array(0), Buffer.alloc(0), new Uint8Array(new ArrayBuffer(0))]) {
      assert.deepStrictEqual(select.all([bytes], objects), [{ a: "blob" }])
    }
  })

  it("reads the columns that were added after the statement was prepared, and not those that were dropped", () => {
    const db = database()
    db.exec("CREATE TABLE t (a, z); INSERT INTO t VALUES (1, 2)")
    const select = db.prepare("SELECT * FROM t")
    const insert = db.prepare("INSERT INTO t (a) VALUES (1) RETURNING *")
    assert.deepStrictEqual(select.all([], objects), [{ a: 1, z: 2 }])
    db.exec("ALTER TABLE t ADD COLUMN b DEFAULT 3")
    assert.deepStrictEqual(select.all([], objects), [{ a: 1, z: 2, b: 3 }])
    assert.deepStrictEqual(insert.all([], objects), [{ a: 1, z: null, b: 3 }])
    db.exec("ALTER TABLE t DROP COLUMN z; DELETE FROM t WHERE rowid = 2")
    assert.deepStrictEqual(select.all([], objects), [{ a: 1, b: 3 }])
    assert.deepStrictEqual(insert.all([], objects), [{ a: 1, b: 3 }])
  })

  it("passes texts with a NUL character whole to functions, and from them", () => {
    const db = database()
    const options = { deterministic: true, varargs: false }
    db.defineFunction("f", options, (text) => `${String(text)}\0z`)
    db.defineAggregate("g", {
      ...options,
      start: () => "",
      step: (_, text) => text,
      inverse: undefined,
      result: (text) => `${String(text)}\0z`
    })
    for (const name of ["f", "g"]) {
      const select = db.prepare(`SELECT hex(${name}('x' || char(0) || 'y')) AS a`)
      assert.deepStrictEqual(select.all([], objects), [{ a: "780079007A" }], name)
    }
  })

  it("reads an integer that a number cannot hold as a bigint only", () => {
    const db = database()
    const statement = db.prepare("SELECT 9007199254740993 AS a")
    const reads = [
      () => statement.all([], objects),
      () => statement.all([], objects, () => {}),
      () => statement.all([], { asArray: true, safeIntegers: false }),
      () => [...statement.iterate([], objects)]
    ]
    for (const read of reads) {
      assert.strictEqual(codeOf(read), "SQLITE_RANGE")
    }
    assert.deepStrictEqual(statement.all([], { asArray: false, safeIntegers: true }), [{ a: 9007199254740993n }])
    // It is usable afterwards.
    assert.deepStrictEqual([...statement.iterate([], arrays)], [[9007199254740993n]])
  })

  it("reports the extended result codes", () => {
    const db = database()
    db.exec("PRAGMA foreign_keys = ON; CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE, c NOT NULL CHECK (c > 0))")
    db.exec("CREATE TABLE u (a REFERENCES t); INSERT INTO t VALUES (1, 1, 1)")
    for (
      const [sql, code] of [
        ["INSERT INTO t VALUES (1, 2, 1)", "SQLITE_CONSTRAINT_PRIMARYKEY"],
        ["INSERT INTO t VALUES (2, 1, 1)", "SQLITE_CONSTRAINT_UNIQUE"],
        ["INSERT INTO t VALUES (2, 2, NULL)", "SQLITE_CONSTRAINT_NOTNULL"],
        ["INSERT INTO t VALUES (2, 2, 0)", "SQLITE_CONSTRAINT_CHECK"],
        ["INSERT INTO u VALUES (9)", "SQLITE_CONSTRAINT_FOREIGNKEY"],
        ["SELEC", "SQLITE_ERROR"]
      ]
    ) {
      assert.strictEqual(codeOf(() => db.prepare(sql).run([])), code)
    }
    assert.match(String(codeOf(() => own.open("/missing/directory/a.db", open))), /SQLITE_CANTOPEN|does not exist/)
    assert.strictEqual(
      codeOf(() => own.open("/tmp/no such file.db", { readOnly: false, immutable: false, mustExist: true })),
      "SQLITE_CANTOPEN"
    )
  })
})
