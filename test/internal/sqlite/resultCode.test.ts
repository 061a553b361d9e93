import SqliteDatabase from "better-sqlite3"
import * as FastCheck from "effect/FastCheck"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import * as DatabaseError from "../../../src/DatabaseError.js"
import type { Context } from "../../../src/internal/makeError.js"
import { fromSqlite } from "../../../src/internal/sqlite/resultCode.js"
import { assertHolds, assertHoldsNot } from "../renderings.js"
import { expected } from "./resultCodes.js"

type Connection = SqliteDatabase.Database

let directory: string

beforeAll(() => {
  directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-result-code-"))
})

afterAll(() => {
  Fs.rmSync(directory, { recursive: true, force: true })
})

const thrownBy = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return error
  }
  return assert.fail("nothing was thrown")
}

const withMemory = <A>(f: (db: Connection) => A): A => {
  const db = new SqliteDatabase(":memory:")
  try {
    return f(db)
  } finally {
    db.close()
  }
}

/** Runs the statements, and classifies what the last of them fails with, if it fails. */
const attempt = (
  setup: ReadonlyArray<string>,
  statement: string,
  params: ReadonlyArray<unknown> = [],
  phase: Context["phase"] = "statement"
): DatabaseError.DatabaseError | undefined =>
  withMemory((db) => {
    setup.forEach((sql) => db.exec(sql))
    try {
      const prepared = db.prepare(statement)
      void (prepared.reader ? prepared.all(...params) : prepared.run(...params))
      return undefined
    } catch (error) {
      return fromSqlite(error, { phase, statement, params })
    }
  })

const failing = (...args: Parameters<typeof attempt>): DatabaseError.DatabaseError =>
  attempt(...args) ?? assert.fail("it did not fail")

const pairs = Object.entries(expected).flatMap(([tag, codes]) =>
  codes.split(/\s+/).filter((code) => code !== "").map((code) => [`SQLITE_${code}`, tag] as const)
)

describe("every result code", () => {
  it.each(pairs)("%s is %s", (code, tag) => {
    const error = fromSqlite({ code, message: "what happened" }, { phase: "statement", statement: "SELECT 1" })
    assert.strictEqual(error._tag, tag)
    assert.strictEqual(error.code, code)
    assert.strictEqual(error.dialect, "sqlite")
    assert.strictEqual(error.statement, "SELECT 1")
    assert.include(error.message, "what happened")
    assert.include(error.message, code)
  })

  it("is in the table that this SQLite was built from", () => {
    const require = Path.join(process.cwd(), "node_modules/better-sqlite3/deps/sqlite3/sqlite3.h")
    const header = Fs.readFileSync(require, "utf8")
    const primary = [...header.matchAll(/^#define (SQLITE_[A-Z]+) +\d+ +\/\* /gm)]
      .map((found) => found[1])
      .slice(0, 31)
    const extended = [...header.matchAll(/^#define (SQLITE_[A-Z_]+) +\((SQLITE_[A-Z]+) *\| *\(\d+<<8\)\)/gm)]
      .filter((found) => primary.includes(found[2]))
      .map((found) => found[1])
    assert.strictEqual(primary.at(-1), "SQLITE_DONE")
    assert.deepStrictEqual(
      Array.from(new Set([...primary, ...extended])).filter((code) => !code.startsWith("SQLITE_OPEN_")).sort(),
      pairs.map(([code]) => code).sort()
    )
  })

  it("falls back to its primary code when it is newer than the table", () => {
    const tagOf = (code: string) => {
      const error = fromSqlite({ code, message: "?" }, { phase: "statement" })
      return [error._tag, error.code]
    }
    assert.deepStrictEqual(tagOf("SQLITE_IOERR_OF_TOMORROW"), ["ConnectionLost", "SQLITE_IOERR_OF_TOMORROW"])
    assert.deepStrictEqual(tagOf("SQLITE_OF_TOMORROW"), ["UnknownDatabaseError", "SQLITE_OF_TOMORROW"])
    // What better-sqlite3 says when it has no name for a number: SQLITE_BUSY_TIMEOUT, and one that no SQLite has.
    assert.deepStrictEqual(tagOf("UNKNOWN_SQLITE_ERROR_773"), ["LockTimeout", "SQLITE_BUSY"])
    assert.deepStrictEqual(tagOf("UNKNOWN_SQLITE_ERROR_99"), ["UnknownDatabaseError", "UNKNOWN_SQLITE_ERROR_99"])
    const names =
      `OK ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL CANTOPEN
      PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE NOTADB NOTICE WARNING`.split(
        /\s+/
      )
    for (const [number, name] of [...names.entries(), [100, "ROW"], [101, "DONE"]] as const) {
      assert.deepStrictEqual(tagOf(`UNKNOWN_SQLITE_ERROR_${number + 200 * 256}`), tagOf(`SQLITE_${name}`))
    }
  })
})

const accounts = [
  "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, age INTEGER CHECK (age >= 18))",
  "INSERT INTO account VALUES (1, 'a@example.com', 30)"
]

interface Provoked {
  readonly tag: DatabaseError.DatabaseError["_tag"]
  readonly code: string
  readonly setup?: ReadonlyArray<string>
  readonly statement: string
  readonly params?: ReadonlyArray<unknown>
  readonly phase?: Context["phase"]
  readonly names?: {
    readonly schema?: string
    readonly table?: string
    readonly column?: string
    readonly constraint?: string
  }
}

const provoked: ReadonlyArray<Provoked> = [
  {
    tag: "UniqueViolation",
    code: "SQLITE_CONSTRAINT_UNIQUE",
    setup: accounts,
    statement: "INSERT INTO account VALUES (2, ?, 40)",
    params: ["a@example.com"],
    names: { table: "account", column: "email" }
  },
  {
    tag: "UniqueViolation",
    code: "SQLITE_CONSTRAINT_PRIMARYKEY",
    setup: accounts,
    statement: "INSERT INTO account VALUES (1, 'b@example.com', 40)",
    names: { table: "account", column: "id" }
  },
  {
    tag: "UniqueViolation",
    code: "SQLITE_CONSTRAINT_ROWID",
    setup: ["CREATE TABLE t (a)", "INSERT INTO t (rowid, a) VALUES (1, 1)"],
    statement: "INSERT INTO t (rowid, a) VALUES (1, 2)",
    names: { table: "t", column: "rowid" }
  },
  {
    tag: "UniqueViolation",
    code: "SQLITE_CONSTRAINT_UNIQUE",
    setup: ["CREATE TABLE t (a, b, UNIQUE (a, b))", "INSERT INTO t VALUES (1, 2)"],
    statement: "INSERT INTO t VALUES (1, 2)",
    names: { table: "t" }
  },
  {
    tag: "UniqueViolation",
    code: "SQLITE_CONSTRAINT_UNIQUE",
    setup: ["CREATE TABLE t (a)", "CREATE UNIQUE INDEX lower_a ON t (lower(a))", "INSERT INTO t VALUES ('x')"],
    statement: "INSERT INTO t VALUES ('X')",
    names: { constraint: "lower_a" }
  },
  {
    tag: "ForeignKeyViolation",
    code: "SQLITE_CONSTRAINT_FOREIGNKEY",
    setup: [...accounts, "CREATE TABLE child (account REFERENCES account)"],
    statement: "INSERT INTO child VALUES (99)"
  },
  {
    tag: "ForeignKeyViolation",
    code: "SQLITE_CONSTRAINT_FOREIGNKEY",
    setup: [
      ...accounts,
      "CREATE TABLE child (account REFERENCES account DEFERRABLE INITIALLY DEFERRED)",
      "BEGIN",
      "INSERT INTO child VALUES (99)"
    ],
    statement: "COMMIT",
    phase: "commit"
  },
  {
    tag: "NotNullViolation",
    code: "SQLITE_CONSTRAINT_NOTNULL",
    setup: accounts,
    statement: "INSERT INTO account (age) VALUES (20)",
    names: { table: "account", column: "email" }
  },
  {
    tag: "CheckViolation",
    code: "SQLITE_CONSTRAINT_CHECK",
    setup: accounts,
    statement: "INSERT INTO account VALUES (2, 'b@example.com', 3)",
    names: { constraint: "age >= 18" }
  },
  {
    tag: "CheckViolation",
    code: "SQLITE_CONSTRAINT_CHECK",
    setup: ["CREATE TABLE t (a CONSTRAINT adult CHECK (a >= 18))"],
    statement: "INSERT INTO t VALUES (3)",
    names: { constraint: "adult" }
  },
  {
    tag: "CheckViolation",
    code: "SQLITE_CONSTRAINT_DATATYPE",
    setup: ["CREATE TABLE t (a INTEGER) STRICT"],
    statement: "INSERT INTO t VALUES (?)",
    params: ["no number"],
    names: { table: "t", column: "a" }
  },
  {
    tag: "CheckViolation",
    code: "SQLITE_CONSTRAINT_TRIGGER",
    setup: ["CREATE TABLE t (a)", "CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'not today'); END"],
    statement: "INSERT INTO t VALUES (1)"
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    statement: "SELECT * FROM nowhere",
    names: { table: "nowhere" }
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    statement: "SELECT * FROM main.nowhere",
    names: { schema: "main", table: "nowhere" }
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    setup: accounts,
    statement: "SELECT a.emial FROM account a",
    names: { table: "a", column: "emial" }
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    setup: accounts,
    statement: "SELECT \"emial\" FROM account",
    names: { column: "emial" }
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    setup: accounts,
    statement: "INSERT INTO account (emial) VALUES (1)",
    names: { table: "account", column: "emial" }
  },
  {
    tag: "InvalidStatement",
    code: "SQLITE_ERROR",
    setup: accounts,
    statement: "CREATE TABLE account (a)",
    names: { table: "account" }
  },
  { tag: "InvalidStatement", code: "SQLITE_ERROR", statement: "SELEKT 1" },
  { tag: "InvalidStatement", code: "SQLITE_ERROR", statement: "SELECT 1; SELECT 2" },
  { tag: "InvalidStatement", code: "SQLITE_ERROR", statement: "" },
  { tag: "InvalidStatement", code: "SQLITE_ERROR", statement: "RELEASE nothing" },
  { tag: "InvalidData", code: "SQLITE_MISMATCH", setup: accounts, statement: "INSERT INTO account (id) VALUES ('x')" },
  { tag: "InvalidData", code: "SQLITE_MISMATCH", statement: "SELECT ?", params: [new Date()] },
  { tag: "InvalidData", code: "SQLITE_MISMATCH", statement: "SELECT ?", params: [Symbol("x")] },
  { tag: "InvalidData", code: "SQLITE_TOOBIG", statement: "SELECT ?", params: [2n ** 80n] },
  { tag: "InvalidData", code: "SQLITE_TOOBIG", statement: "SELECT zeroblob(2147483647)" },
  { tag: "InvalidData", code: "SQLITE_RANGE", statement: "SELECT ?, ?", params: [1] },
  { tag: "InvalidData", code: "SQLITE_RANGE", statement: "SELECT ?", params: [1, 2] },
  { tag: "InvalidData", code: "SQLITE_RANGE", statement: "SELECT :a", params: [{ b: 1 }] },
  { tag: "InvalidData", code: "SQLITE_RANGE", statement: "SELECT :a", params: [] },
  { tag: "InvalidData", code: "SQLITE_RANGE", statement: "SELECT :a", params: [{ a: 1 }, { a: 1 }] },
  {
    tag: "ReadOnlyViolation",
    code: "SQLITE_READONLY",
    setup: ["PRAGMA query_only = 1"],
    statement: "CREATE TABLE t (a)"
  },
  {
    tag: "ResourceExhausted",
    code: "SQLITE_FULL",
    setup: ["CREATE TABLE t (a)", "PRAGMA max_page_count = 2"],
    statement: "INSERT INTO t VALUES (zeroblob(100000))"
  },
  { tag: "TransactionAborted", code: "SQLITE_ERROR", statement: "COMMIT", phase: "commit" },
  // The same answer to a COMMIT that the application wrote itself is a wrong statement.
  { tag: "InvalidStatement", code: "SQLITE_ERROR", statement: "COMMIT" }
]

describe("a real SQLite", () => {
  it.each(provoked)(
    "answers `$statement` with $code: $tag",
    ({ code, names, params, phase, setup, statement, tag }) => {
      const error = failing(setup ?? [], statement, params, phase)
      assert.strictEqual(error._tag, tag, error.message)
      assert.strictEqual(error.code, code)
      assert.deepStrictEqual(
        { schema: error.schema, table: error.table, column: error.column, constraint: error.constraint },
        { schema: undefined, table: undefined, column: undefined, constraint: undefined, ...names }
      )
      assert.strictEqual(error.statement, statement)
      assert.notProperty(error, "cause")
    }
  )

  it("names a column with a comma, and a table with a space", () => {
    const error = failing(
      ["CREATE TABLE \"the t\" (\"a, b\" UNIQUE)", "INSERT INTO \"the t\" VALUES (1)"],
      "INSERT INTO \"the t\" VALUES (1)"
    )
    assert.strictEqual(error._tag, "UniqueViolation")
    assert.strictEqual(error.table, "the t")
  })

  it("is busy: LockTimeout", () => {
    const file = Path.join(directory, "busy.db")
    const [one, two] = [new SqliteDatabase(file, { timeout: 0 }), new SqliteDatabase(file, { timeout: 0 })]
    one.exec("CREATE TABLE t (a)")
    one.exec("BEGIN IMMEDIATE")
    const error = fromSqlite(thrownBy(() => two.exec("BEGIN IMMEDIATE")), { phase: "statement" })
    assert.strictEqual(error._tag, "LockTimeout")
    assert.strictEqual(error.code, "SQLITE_BUSY")
    assert.isTrue(DatabaseError.isRetryable(error))
    one.close()
    two.close()
  })

  it("has a newer snapshot: SerializationFailure", () => {
    const file = Path.join(directory, "snapshot.db")
    const [one, two] = [new SqliteDatabase(file, { timeout: 0 }), new SqliteDatabase(file, { timeout: 0 })]
    one.pragma("journal_mode = wal")
    one.exec("CREATE TABLE t (a)")
    two.exec("BEGIN")
    two.prepare("SELECT * FROM t").all()
    one.exec("INSERT INTO t VALUES (1)")
    const error = fromSqlite(thrownBy(() => two.exec("INSERT INTO t VALUES (2)")), { phase: "statement" })
    assert.strictEqual(error._tag, "SerializationFailure")
    assert.strictEqual(error.code, "SQLITE_BUSY_SNAPSHOT")
    one.close()
    two.close()
  })

  it("is locked by its own reader: LockTimeout", () => {
    const error = withMemory((db) => {
      db.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
      db.unsafeMode()
      const rows = db.prepare("SELECT * FROM t").iterate()
      rows.next()
      const thrown = thrownBy(() => db.exec("DROP TABLE t"))
      rows.return!()
      return fromSqlite(thrown, { phase: "statement" })
    })
    assert.strictEqual(error._tag, "LockTimeout")
    assert.strictEqual(error.code, "SQLITE_LOCKED")
  })

  it("is opened for reading only: ReadOnlyViolation", () => {
    const file = Path.join(directory, "readonly.db")
    new SqliteDatabase(file).exec("CREATE TABLE t (a)").close()
    const db = new SqliteDatabase(file, { readonly: true })
    const error = fromSqlite(thrownBy(() => db.exec("INSERT INTO t VALUES (1)")), { phase: "statement" })
    assert.strictEqual(error._tag, "ReadOnlyViolation")
    db.close()
  })

  it("is no database, or damaged: DatabaseCorrupt", () => {
    const none = Path.join(directory, "none.db")
    Fs.writeFileSync(none, "this is a letter to my grandmother, and nothing that SQLite could read".repeat(100))
    const noDatabase = fromSqlite(
      thrownBy(() => new SqliteDatabase(none).prepare("SELECT * FROM sqlite_schema").all()),
      { phase: "connect", description: none }
    )
    assert.strictEqual(noDatabase._tag, "DatabaseCorrupt")
    assert.strictEqual(noDatabase.code, "SQLITE_NOTADB")
    assert.include(noDatabase.message, `could not open ${none}: file is not a database`)

    const damaged = Path.join(directory, "damaged.db")
    const db = new SqliteDatabase(damaged)
    db.exec("CREATE TABLE t (a)")
    db.prepare("INSERT INTO t VALUES (?)").run("x".repeat(10_000))
    db.close()
    const bytes = Fs.readFileSync(damaged)
    bytes.fill(0x7f, 4096, 8192)
    Fs.writeFileSync(damaged, bytes)
    const again = new SqliteDatabase(damaged)
    const corrupt = fromSqlite(thrownBy(() => again.prepare("SELECT * FROM t").all()), { phase: "statement" })
    assert.strictEqual(corrupt._tag, "DatabaseCorrupt")
    again.close()
  })

  it("cannot be opened: ConnectionFailed, which says what", () => {
    const missing = Path.join(directory, "no", "such", "directory.db")
    const noDirectory = fromSqlite(thrownBy(() => new SqliteDatabase(missing)), {
      phase: "connect",
      description: missing
    })
    const isDirectory = fromSqlite(thrownBy(() => new SqliteDatabase(directory)), {
      phase: "connect",
      description: directory
    })
    const missingFile = Path.join(directory, "missing.db")
    const mustExist = fromSqlite(thrownBy(() => new SqliteDatabase(missingFile, { fileMustExist: true })), {
      phase: "connect",
      description: missingFile
    })
    for (
      const [error, where] of [[noDirectory, missing], [isDirectory, directory], [mustExist, missingFile]] as const
    ) {
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.match(error.code, /^SQLITE_CANTOPEN/)
      assert.include(error.message, `could not open ${where}: `)
      assert.isFalse(DatabaseError.isRetryable(error))
    }
    assert.include(noDirectory.message, "directory does not exist")
  })

  it("was closed: ConnectionLost", () => {
    const db = new SqliteDatabase(":memory:")
    db.close()
    const error = fromSqlite(thrownBy(() => db.prepare("SELECT 1")), { phase: "statement", description: "the.db" })
    assert.strictEqual(error._tag, "ConnectionLost")
    assert.include(error.message, "the connection to the.db was lost: The database connection is not open")
  })

  it("is used in the wrong way: InvalidStatement", () => {
    const error = withMemory((db) =>
      fromSqlite(thrownBy(() => db.prepare("CREATE TABLE t (a)").all()), { phase: "statement" })
    )
    assert.strictEqual(error._tag, "InvalidStatement")
    assert.strictEqual(error.code, "SQLITE_MISUSE")
  })
})

describe("the client's own errors", () => {
  it("have tags and codes, and are not looked for in other texts", () => {
    const cases: ReadonlyArray<readonly [text: string, tag: string, code: string]> = [
      ["SQLite3 can only bind numbers", "InvalidData", "SQLITE_MISMATCH"],
      ["The bound string, buffer, or bigint is too big", "InvalidData", "SQLITE_TOOBIG"],
      ["Too few parameter values were provided", "InvalidData", "SQLITE_RANGE"],
      ["Too many parameter values were provided", "InvalidData", "SQLITE_RANGE"],
      ["Missing named parameter \"a\"", "InvalidData", "SQLITE_RANGE"],
      ["Named parameters can only be passed within plain objects", "InvalidData", "SQLITE_MISMATCH"],
      ["You cannot specify named parameters in two different objects", "InvalidData", "SQLITE_RANGE"],
      ["User-defined function f() returned an invalid value", "InvalidData", "SQLITE_MISMATCH"],
      ["The supplied SQL string contains no statements", "InvalidStatement", "SQLITE_ERROR"],
      ["This statement does not return data. Use run() instead", "InvalidStatement", "SQLITE_MISUSE"],
      ["Array overflow (too many rows returned)", "ResourceExhausted", "SQLITE_NOMEM"],
      ["Out of memory", "ResourceExhausted", "SQLITE_NOMEM"],
      ["The database connection is not open", "ConnectionLost", "SQLITE_MISUSE"],
      ["Cannot open database because the directory does not exist", "ConnectionFailed", "SQLITE_CANTOPEN"]
    ]
    const classified = (text: string) => {
      const { _tag, code } = fromSqlite(new TypeError(text), { phase: "statement" })
      return [_tag, code]
    }
    for (const [text, tag, code] of cases) {
      assert.deepStrictEqual(classified(text), [tag, code], text)
      assert.deepStrictEqual(classified(`it says ${text}`), ["UnknownDatabaseError", "SQLITE_ERROR"], text)
    }
    const whole = ["Too many parameter values were provided", "Out of memory", "The database connection is not open"]
    for (const text of whole) {
      assert.deepStrictEqual(classified(`${text}, it says`), ["UnknownDatabaseError", "SQLITE_ERROR"], text)
    }
    const pragma = "The columns() method is only for statements that return data"
    assert.deepStrictEqual(classified(pragma), ["InvalidStatement", "SQLITE_MISUSE"])
    assert.deepStrictEqual(classified(`${pragma}, it says`), ["UnknownDatabaseError", "SQLITE_ERROR"])
    const opening = fromSqlite(new TypeError("unable"), { phase: "connect" })
    assert.deepStrictEqual([opening._tag, opening.code], ["ConnectionFailed", "SQLITE_CANTOPEN"])
  })

  it("come from other threads without their class", () => {
    const error = fromSqlite({ code: "SQLITE_FULL", message: "full" }, { phase: "statement" })
    assert.deepStrictEqual([error._tag, error.reason], ["ResourceExhausted", "full"])
    for (const code of ["EIO", "X-SQLITE_FULL", "SQLITEFULL", 5]) {
      assert.strictEqual(fromSqlite({ code, message: "full" }, { phase: "statement" })._tag, "UnknownDatabaseError")
    }
  })
})

describe("the phase", () => {
  it("tells what an I/O error means", () => {
    const tagIn = (phase: Context["phase"]) =>
      fromSqlite({ code: "SQLITE_IOERR_FSYNC", message: "disk I/O error" }, { phase })._tag
    assert.strictEqual(tagIn("connect"), "ConnectionFailed")
    assert.strictEqual(tagIn("statement"), "ConnectionLost")
    assert.strictEqual(tagIn("commit"), "CommitOutcomeUnknown")
  })

  it("does not leave a commit unknown that found its file gone", () => {
    const tags = (["connect", "statement", "commit"] as const).map((phase) =>
      fromSqlite({ code: "SQLITE_READONLY_DBMOVED", message: "attempt to write a readonly database" }, { phase })._tag
    )
    assert.deepStrictEqual(tags, ["ConnectionFailed", "ConnectionLost", "ConnectionLost"])
  })

  it("tells what an unexpected error means, which is kept as a cause without its values", () => {
    const thrown = new TypeError("secret-value is not iterable")
    Object.assign(thrown, { params: ["secret-value"] })
    const statement = fromSqlite(thrown, { phase: "statement", params: ["secret-value"] })
    const connect = fromSqlite(thrown, { phase: "connect", params: ["secret-value"], description: "the.db" })
    assert.strictEqual(statement._tag, "UnknownDatabaseError")
    assert.strictEqual(connect._tag, "ConnectionFailed")
    for (const error of [statement, connect]) {
      assertHoldsNot(error, "secret-value")
      assert.include((error.cause as Error).message, "*** is not iterable")
      assert.include((error.cause as Error).stack, "resultCode.test.ts")
    }
  })

  it("tells a file that may not be written from a database that may not", () => {
    const thrown = { code: "SQLITE_READONLY_DIRECTORY", message: "attempt to write a readonly database" }
    assert.strictEqual(fromSqlite(thrown, { phase: "statement" })._tag, "ReadOnlyViolation")
    const error = fromSqlite(thrown, { phase: "connect", description: "the.db" })
    assert.strictEqual(error._tag, "ConnectionFailed")
    assert.strictEqual(error.reason, "could not open the.db: attempt to write a readonly database")
  })

  it("leaves a DatabaseError as it is", () => {
    const error = fromSqlite({ code: "SQLITE_FULL", message: "full" }, { phase: "statement" })
    assert.strictEqual(fromSqlite(error, { phase: "commit" }), error)
  })
})

describe("masking", () => {
  // What a value could look like that is hard to take out again: quotes, parentheses, line ends, other alphabets.
  const secret = FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 30 })
    .map((text) => `${text.replaceAll("\0", "")}S3cr3tV4lue`)

  const raising: ReadonlyArray<readonly [setup: ReadonlyArray<string>, statement: string]> = [
    [["CREATE TABLE t (a UNIQUE)", "CREATE TABLE s (a)"], "INSERT INTO t SELECT ?1 UNION ALL SELECT ?1"],
    [["CREATE TABLE t (a INTEGER) STRICT"], "INSERT INTO t VALUES (?)"],
    [["CREATE TABLE t (a CHECK (length(a) = 0))"], "INSERT INTO t VALUES (?)"],
    [
      [
        "CREATE TABLE t (a)",
        "CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no ' || NEW.a || ' here'); END"
      ],
      "INSERT INTO t VALUES (?)"
    ],
    [
      [
        "CREATE TABLE t (a)",
        "CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no \"' || upper(NEW.a) || '\"'); END"
      ],
      "INSERT INTO t VALUES (?)"
    ],
    [["CREATE VIRTUAL TABLE f USING fts5(a)"], "SELECT * FROM f WHERE f MATCH '\"' || ?"],
    [["CREATE VIRTUAL TABLE f USING fts5(a)"], "SELECT * FROM f WHERE f MATCH ? || ':x AND ('"],
    [["CREATE VIRTUAL TABLE f USING fts5(a)"], "SELECT * FROM f WHERE f MATCH '*' || ?"],
    [["CREATE TABLE t (a)"], "SELECT json_extract('{}', ?)"],
    [["CREATE TABLE t (a)"], "ATTACH '/nowhere/' || ? AS other"]
  ]

  it.each(raising)("%s %s: the value is nowhere", (setup, statement) => {
    FastCheck.assert(
      FastCheck.property(secret, (value) => {
        const error = attempt(setup, statement, [value])
        FastCheck.pre(error !== undefined)
        assertHoldsNot(error, "S3cr3tV4lue")
        assertHolds(error, error.code)
      }),
      { numRuns: 40 }
    )
  })

  it("masks what a trigger says, even if it is what SQLite says of names", () => {
    const trigger = `CREATE TRIGGER r BEFORE INSERT ON t BEGIN
      SELECT RAISE(ABORT, 'UNIQUE constraint failed: t.' || NEW.a); END`
    const error = failing(["CREATE TABLE t (a)", trigger], "INSERT INTO t VALUES (?)", ["s3cr3t"])
    assert.deepStrictEqual([error._tag, error.reason], ["CheckViolation", "UNIQUE constraint failed: t.***"])
    assert.strictEqual(error.column, undefined)
  })

  it("masks a part of a value that is told as a name", () => {
    const error = failing(["CREATE VIRTUAL TABLE f USING fts5(a)"], "SELECT * FROM f WHERE f MATCH ?", ["hidden: x"])
    assert.strictEqual(error.reason, "no such column: ***")
    assert.strictEqual(error.column, undefined)
    const reasonOf = (message: string) =>
      fromSqlite({ code: "SQLITE_ERROR", message }, { phase: "statement", params: ["hidden: 12"] }).reason
    assert.strictEqual(reasonOf("no such column: t.hidden"), "no such column: ***")
    assert.strictEqual(reasonOf("no such column: t.12"), "no such column: ***")
    assert.strictEqual(reasonOf("no such column: end"), "no such column: end")
    assert.strictEqual(reasonOf("no such column: ?!"), "no such column: ?!")
  })

  it("keeps the names of the schema that a value happens to equal", () => {
    const error = failing(accounts, "INSERT INTO account VALUES (2, ?, 40), (3, ?, 40)", ["email", "email"])
    assert.include(error.message, "UNIQUE constraint failed: account.email")
  })

  it("keeps what the statement's text says", () => {
    const error = failing([], "SELECT nowhere.x FROM (SELECT 1) WHERE ?", ["nowhere.x"])
    assert.include(error.message, "no such column: nowhere.x")
    assert.include(failing([], "SELEKT ?", ["x"]).message, "near \"SELEKT\": syntax error")
  })
})
