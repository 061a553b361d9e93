import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import { split, SplitError } from "../../../src/internal/migrations/splitter.js"
import { Engine } from "../../../src/internal/postgres/engine.js"
import { migrations as postgresMigrations } from "../../../src/internal/postgres/migrations.js"
import { migrations as sqliteMigrations } from "../../../src/internal/sqlite/migrations.js"
import { layer, postgres } from "../../support/dialects.js"
import { random } from "../../support/random.js"

vi.setConfig({ testTimeout: 240_000 })

const { lexicon: sqlite } = sqliteMigrations(undefined)
const { lexicon: pg } = postgresMigrations(new Engine())

const texts = (text: string, lexicon = pg) => split(text, lexicon, true).map(({ text }) => text)

const refusal = (text: string, lexicon = pg): string => {
  try {
    split(text, lexicon, true)
  } catch (error) {
    assert.instanceOf(error, SplitError)
    return error.message
  }
  return "none"
}

// What stands between two tokens, and names that are keywords elsewhere.
const gaps = [" ", "\n", "\t", " /* ; end; */ ", " -- begin; 'x\n", "\r\n", "  "]

/** A statement with other space between its tokens. */
const spread = (statement: string, pick: (items: ReadonlyArray<string>) => string): string =>
  statement.replaceAll(
    /[eE]?'(?:[^'\\]|\\.|'')*'|"[^"]*"|`[^`]*`|\$end\$[^]*?\$end\$|--[^\n]*|\/\*[^]*?\*\/|( )/g,
    (token, space?: string) => space === undefined ? token : pick(gaps)
  )

const names = ["begin", "end", "\"end\"", "\"a;b\"", "atomic", "copy", "kind"]

describe("the statements of SQLite", () => {
  const sqliteNames = [...names.filter((name) => name !== "atomic"), "[case]", "`end`", "[;]", "end$x", "ünd"]

  const trigger = (pick: <A>(values: ReadonlyArray<A>) => A, i: number): string => {
    const column = pick(["begin", "end", "\"case\""])
    const bodies = [
      `UPDATE t SET ${column} = CASE WHEN new.begin = ';' THEN 1 ELSE CASE WHEN 1 THEN new.end END END WHERE begin = 1`,
      `INSERT INTO t (begin, end) SELECT begin, new.end FROM t WHERE end = 'END;'`,
      `DELETE FROM t WHERE (end) = begin`,
      `SELECT CASE new.begin WHEN 1 THEN raise(ABORT, 'begin; end') END`
    ]
    const body = Array.from({ length: 1 + (i % 3) }, () => `${pick(bodies)};`).join(pick(gaps))
    const event = pick(["INSERT", "DELETE", `UPDATE OF ${column}, begin`])
    return `CREATE${pick([" ", " TEMP ", "/**/temporary\n"])}TRIGGER x${i} AFTER ${event} ON t ` +
      `${pick(["", "FOR EACH ROW "])}BEGIN${pick(gaps)}${event === "DELETE" ? body.replaceAll("new.", "old.") : body}${
        pick(gaps)
      }END`
  }

  it("are those that SQLite runs", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { pick } = random(seed)
      const statements = [
        "CREATE TABLE t (begin integer, end text, \"case\" text)",
        ...Array.from({ length: 8 }, (_, i) =>
          pick([
            () => trigger(pick, i),
            () => `CREATE TABLE n${i} (${pick(sqliteNames)} text DEFAULT ';''', "x" text)`,
            () => `CREATE VIEW v${i} AS SELECT CASE WHEN begin THEN ';' END AS ${pick(sqliteNames)} FROM t`,
            () => `INSERT INTO t (begin, end) VALUES (${i}, 'it''s; -- ''')`
          ])())
      ]
      const separators = [";", ";;", " ;\n", "; -- x;\n", ";\n/* ; */ ;"]
      const text = pick(["", "\uFEFF", "-- first;\n", ";"]) +
        statements.map((statement) => spread(statement, pick) + pick(separators)).join(pick(gaps))
      const [one, other] = [new Sqlite(":memory:"), new Sqlite(":memory:")]
      one.exec(text.replace(/^\uFEFF/, ""))
      for (const statement of texts(text, sqlite)) {
        other.prepare(statement).run()
      }
      const content = (db: Sqlite.Database) => [
        db.prepare("SELECT type, name, sql FROM sqlite_schema UNION ALL SELECT type, name, sql FROM sqlite_temp_schema")
          .all(),
        db.prepare("SELECT * FROM t").all()
      ]
      assert.deepStrictEqual(content(other), content(one), `seed ${seed}: ${text}`)
      one.close()
      other.close()
    }
  })

  it("are not the commands of its shell", () => {
    assert.strictEqual(
      refusal("CREATE TABLE a (b);\n.mode csv\n", sqlite),
      "line 2: .mode is a command of the sqlite3 shell, and not SQL"
    )
  })
})

describe("the statements of PostgreSQL", () => {
  it("are those that PostgreSQL runs", () =>
    Effect.runPromise(
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const functions = (schema: string) =>
          sql`SELECT p.proname, replace(pg_get_functiondef(p.oid), ${schema}, '') AS def
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ${schema} ORDER BY 1`
        for (let seed = 1; seed <= 8; seed++) {
          const { pick } = random(seed)
          const statements = Array.from({ length: 10 }, (_, i) =>
            pick([
              () =>
                `CREATE OR REPLACE FUNCTION f${i}(begin integer, ${pick(["atomic", "stop"])} text DEFAULT ';') ` +
                `RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN begin = 1 THEN 2 END AS end; ` +
                `SELECT x.end FROM (SELECT begin AS end) x; ${pick(["", "SELECT 'end;'; "])}SELECT begin; END`,
              () => `CREATE FUNCTION f${i}(begin integer) RETURNS integer LANGUAGE sql RETURN begin`,
              () =>
                `CREATE FUNCTION f${i}(begin integer, end_ integer) RETURNS void LANGUAGE sql AS $end$ SELECT 1; $end$`,
              () => `CREATE PROCEDURE p${i}("end" integer) BEGIN ATOMIC END`,
              () => `CREATE FUNCTION f${i}() RETURNS text LANGUAGE sql AS E'SELECT \\'it;\\'\\'s\\'::text'`,
              () => `CREATE TABLE t${i} (begin integer, "end" text DEFAULT U&';\\0041')`
            ])())
          const text = statements.map((statement) => spread(statement, pick))
            .join(pick([";\n", " ; ;", ";/* ; /* nested; */ */"]))
          for (const schema of [`whole${seed}`, `parts${seed}`]) {
            yield* sql`CREATE SCHEMA ${sql(schema)}`
          }
          yield* sql.withTransaction(sql.unsafe(`SET LOCAL search_path = whole${seed}; ${text}`).unprepared)
          yield* sql.withTransaction(Effect.zipRight(
            sql.unsafe(`SET LOCAL search_path = parts${seed}`),
            Effect.forEach(texts(text), (statement) => sql.unsafe(statement).unprepared)
          ))
          const whole = yield* functions(`whole${seed}`)
          assert.isNotEmpty(whole)
          assert.deepStrictEqual(yield* functions(`parts${seed}`), whole, `seed ${seed}: ${text}`)
        }
      }).pipe(Effect.provide(layer(postgres)))
    ))

  it("may have parameters and columns that are called as keywords", () => {
    for (
      const statement of [
        "CREATE FUNCTION f(begin integer, \"end\" integer) RETURNS integer LANGUAGE sql AS 'SELECT 1; SELECT 2'",
        "CREATE FUNCTION begin(atomic integer) RETURNS integer LANGUAGE sql RETURN atomic",
        "CREATE TRIGGER t AFTER UPDATE OF begin ON a FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE FUNCTION f() RETURNS TABLE (begin integer, case_ text) LANGUAGE sql BEGIN ATOMIC SELECT 1, t.end FROM t; END",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO u VALUES (1); INSERT INTO u VALUES (2))"
      ]
    ) {
      assert.deepStrictEqual(texts(`${statement};\nSELECT 1`), [statement, "SELECT 1"])
    }
  })

  it("are followed by the data of a COPY", () => {
    const text =
      "-- data\nCOPY public.t (a, b)\n  FROM stdin;\n1\tx;y\n2\t\\\\.\n\\.\n\nSELECT 1;\nCOPY t FROM stdin;\n\\.\n"
    assert.deepStrictEqual(split(text, pg, true), [
      { text: "COPY public.t (a, b)\n  FROM stdin", line: 2, copy: { data: "1\tx;y\n2\t\\\\.\n", line: 4 } },
      { text: "SELECT 1", line: 8, copy: undefined },
      { text: "COPY t FROM stdin", line: 9, copy: { data: "", line: 10 } }
    ])
    assert.strictEqual(
      refusal("SELECT 1;\nCOPY t FROM stdin;\n1\n"),
      "the data of the COPY that begins on line 2 has no end"
    )
    assert.strictEqual(refusal("COPY t FROM stdin"), "the data of the COPY that begins on line 1 has no end")
    assert.match(
      refusal("COPY t FROM stdin; SELECT 1;\n\\.\n"),
      /^line 1: nothing can follow COPY FROM STDIN on its line/
    )
  })

  it("are not the commands of psql, but for those around a dump", () => {
    assert.deepStrictEqual(texts("\\restrict Abc\nSELECT 1;\n\\unrestrict Abc\n"), ["SELECT 1"])
    for (const command of ["\\connect other", "\\i more.sql", "\\set x 1", "\\restricted"]) {
      assert.strictEqual(
        refusal(`SELECT 1;\n${command}\n`),
        `line 2: ${command.split(" ")[0]} is a command of psql, and not SQL`
      )
    }
  })

  it("are sent in UTF-8", () => {
    assert.deepStrictEqual(texts("SET client_encoding = 'UTF8'; SET NAMES 'utf-8'").length, 2)
    assert.strictEqual(
      refusal("SELECT 1;\nSET client_encoding TO latin1"),
      "line 2: the text is sent in UTF-8, so client_encoding cannot be another one"
    )
    assert.strictEqual(refusal("SELECT 1;\n\0"), "line 2: there is a NUL character")
  })
})
