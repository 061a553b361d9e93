import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import * as Migrations from "../src/Migrations.js"
import { directory } from "./internal/cli/process.js"
import { dialects, forEachDialect, layer, make, postgres, sqliteFile } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"

vi.setConfig({ testTimeout: 240_000 })

type Record = Parameters<typeof Migrations.fromRecord>[0]

const optionsOf = (migrations: Record) => ({ loader: Migrations.fromRecord(migrations), progress: () => Effect.void })

const run = (migrations: Record) => Migrations.run(optionsOf(migrations))

const status = (migrations: Record) => Migrations.status(optionsOf(migrations))

const ids = (migrations: ReadonlyArray<Migrations.Migration>) => migrations.map(({ id }) => id)

const errorOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, Migrations.MigrationError)
    return error
  })

const messageOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.map(errorOf(effect), ({ message }) => message)

const values = (text: string) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(text).values)

const execute = (text: string) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(text).unprepared)

const parentAndChild = `CREATE TABLE parent (id integer PRIMARY KEY, name text);
CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent (id) ON DELETE CASCADE);
INSERT INTO parent VALUES (1, 'a'), (2, 'b');
INSERT INTO child VALUES (10, 1), (20, 2)`

// SQLite's 12 steps, from the fourth to the seventh.
const rebuildStatements = [
  "CREATE TABLE new_parent (id integer PRIMARY KEY, name text NOT NULL)",
  "INSERT INTO new_parent SELECT id, name FROM parent",
  "DROP TABLE parent",
  "ALTER TABLE new_parent RENAME TO parent"
]

const loseParent = "DELETE FROM parent WHERE id = 2"

const rows = values("SELECT c.id, p.name FROM child c LEFT JOIN parent p ON p.id = c.parent ORDER BY 1")

const all = (statements: ReadonlyArray<string>) => Effect.forEach(statements, execute, { discard: true })

for (const dialect of dialects.filter(({ dialect }) => dialect === "sqlite")) {
  describe(`A migration that rebuilds tables, on ${dialect.name}`, () => {
    const forms: ReadonlyArray<readonly [string, (statements: ReadonlyArray<string>) => Record[string]]> = [
      ["with a header", (statements) => `-- sqlayer: rebuild\n${statements.join(";\n")};\n`],
      ["as a definition of SQL", (statements) => ({ up: statements.join("; "), rebuild: true })],
      ["as an Effect", (statements) => ({ up: all(statements), rebuild: true })]
    ]
    for (const [form, migration] of forms) {
      it.live(`keeps the rows that refer to them, ${form}, and enforces the keys afterwards`, () =>
        Effect.gen(function*() {
          const migrations = { "1_tables": parentAndChild, "2_rebuild": migration(rebuildStatements) }
          assert.deepStrictEqual(ids(yield* run(migrations)), [1, 2])
          assert.deepStrictEqual(yield* rows, [[10, "a"], [20, "b"]])
          assert.deepStrictEqual(yield* values("PRAGMA foreign_keys"), [[1]])
          const error = yield* Effect.flip(execute("INSERT INTO child VALUES (30, 9)"))
          assert.propertyVal(error.cause, "_tag", "ForeignKeyViolation")
        }).pipe(Effect.provide(layer(dialect))))

      it.live(`fails if a row refers to none any more, ${form}, and names it`, () =>
        Effect.gen(function*() {
          const broken = { "1_tables": parentAndChild, "2_rebuild": migration([...rebuildStatements, loseParent]) }
          const error = yield* errorOf(run(broken))
          assert.deepInclude(error, { kind: "failed", migration: "2_rebuild" })
          assert.propertyVal(error.cause, "_tag", "ForeignKeyViolation")
          assert.propertyVal(error.cause, "table", "child")
          assert.include(error.message, "a row of child (rowid 20) refers to a row of parent that does not exist")
          assert.deepStrictEqual(yield* rows, [[10, "a"], [20, "b"]])
          assert.deepStrictEqual(yield* values("PRAGMA foreign_keys"), [[1]])
          assert.deepStrictEqual(ids((yield* status(broken)).pending), [2])
        }).pipe(Effect.provide(layer(dialect))))
    }

    it.live("enforces the keys again after a failure and an interruption", () =>
      Effect.gen(function*() {
        yield* run({ "1_tables": parentAndChild })
        const failing = { up: Effect.zipRight(all(rebuildStatements), Effect.fail("no")), rebuild: true }
        assert.match(
          yield* messageOf(run({ "1_tables": parentAndChild, "2_a": failing })),
          /^migration 2_a failed: no$/
        )
        assert.deepStrictEqual(yield* values("PRAGMA foreign_keys"), [[1]])
        const reached = yield* Deferred.make<void>()
        const waiting = Effect.zipRight(
          all(rebuildStatements),
          Effect.zipRight(Deferred.succeed(reached, undefined), Effect.never)
        )
        const fiber = yield* Effect.fork(run({ "1_tables": parentAndChild, "2_a": { up: waiting, rebuild: true } }))
        yield* Deferred.await(reached)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* values("PRAGMA foreign_keys"), [[1]])
        assert.deepStrictEqual(yield* rows, [[10, "a"], [20, "b"]])
      }).pipe(Effect.provide(layer(dialect))))

    it.live("is needed, since a pragma that is ignored in a transaction is refused with the reason", () =>
      Effect.gen(function*() {
        yield* run({ "1_tables": parentAndChild })
        for (const pragma of ["PRAGMA foreign_keys=OFF", "/* x */ pragma main.foreign_keys (0)"]) {
          for (const up of [`${pragma}; ${rebuildStatements.join("; ")}`, all([pragma, ...rebuildStatements])]) {
            const error = yield* errorOf(run({ "1_tables": parentAndChild, "2_a": up }))
            assert.propertyVal(error.cause, "_tag", "InvalidStatement")
            assert.match(error.message, /foreign_keys.*transaction.*rebuild/)
          }
        }
        assert.deepStrictEqual(yield* rows, [[10, "a"], [20, "b"]])
      }).pipe(Effect.provide(layer(dialect))))
  })
}

const concurrently = {
  postgres: ["CREATE INDEX CONCURRENTLY person_name ON person (name)", "VACUUM person"],
  sqlite: ["CREATE INDEX person_name ON person (name)", "VACUUM"]
}

forEachDialect((name, layer, { dialect, single, name: kind }) => {
  describe(`Options of a migration on ${name}`, () => {
    const person = { "0001_person": "CREATE TABLE person (id integer PRIMARY KEY, name text)" }
    const statements = concurrently[dialect]
    const none: ReadonlyArray<readonly [string, Record[string]]> = [
      ["with a header", `-- sqlayer: transaction: none\n${statements.join(";\n")};\n`],
      ["as a definition", { up: statements.join("; "), transaction: "none" }],
      ["as an Effect", { up: all(statements), transaction: "none" }]
    ]
    for (const [form, migration] of none) {
      it.live(`runs one without a transaction, ${form}`, () =>
        Effect.gen(function*() {
          const migrations = { ...person, "0002_index": migration, "0003_more": "INSERT INTO person VALUES (1, 'ada')" }
          assert.deepStrictEqual(ids(yield* run(migrations)), [1, 2, 3])
          const { pending, problems } = yield* status(migrations)
          assert.deepStrictEqual([pending, problems], [[], []])
          assert.deepStrictEqual(yield* run(migrations), [])
        }).pipe(Effect.provide(layer)))
    }

    it.live("keeps what one without a transaction did before it failed, says what to do, and marks it", () =>
      Effect.gen(function*() {
        const half = {
          ...person,
          "0002_half":
            "-- sqlayer: transaction: none\nINSERT INTO person VALUES (1, 'ada');\nINSERT INTO person VALUES (1, 'bob')",
          "0003_after": "INSERT INTO person VALUES (3, 'eve')"
        }
        const error = yield* errorOf(run(half))
        assert.deepInclude(error, { kind: "failed", migration: "0002_half" })
        assert.match(
          error.message,
          /^migration 0002_half failed on line 3: UniqueViolation: .*without a transaction.*migrate resolve/
        )
        assert.deepStrictEqual(yield* values("SELECT id FROM person"), [[1]])
        const again = yield* errorOf(run(half))
        assert.deepInclude(again, { kind: "unfinished", id: 2, migration: "0002_half" })
        assert.match(again.message, /without a transaction, and was begun, but has not completed.*--as rolled-back 2/)
        assert.deepStrictEqual(ids((yield* status(half)).pending), [3])

        yield* execute("DELETE FROM person")
        yield* Migrations.resolve(optionsOf(half), 2, "rolled back")
        assert.deepStrictEqual(ids((yield* status(half)).pending), [2, 3])
        yield* errorOf(run(half))
        yield* Migrations.resolve(optionsOf(half), 2, "applied")
        assert.deepStrictEqual(ids(yield* run(half)), [3])
        assert.match(
          yield* messageOf(Migrations.resolve(optionsOf(half), 2, "applied")),
          /^no migration with the number 2 is unfinished$/
        )
      }).pipe(Effect.provide(layer)))

    it.live("lets BEGIN and COMMIT be where there is no transaction around them, but not a transaction without an end", () =>
      Effect.gen(function*() {
        yield* run({
          ...person,
          "0002_own": "-- sqlayer: transaction: none\nBEGIN; INSERT INTO person VALUES (1, 'ada'); COMMIT; SELECT 1"
        })
        assert.deepStrictEqual(yield* values("SELECT id FROM person"), [[1]])
        const open = { up: "BEGIN; INSERT INTO person VALUES (2, 'bob')", transaction: "none" } as const
        const error = yield* errorOf(
          run({ ...person, "0002_own": "x", "0003_open": open }).pipe(Effect.catchIf(
            (error) => error._tag === "MigrationError" && error.kind === "edited",
            () => run({ ...person, "0002_own": Effect.void, "0003_open": open })
          ))
        )
        assert.propertyVal(error.cause, "_tag", "TransactionAborted")
        assert.deepStrictEqual(yield* values("SELECT id FROM person"), [[1]])
      }).pipe(Effect.provide(layer)))

    it.live("has only those that are for this dialect", () =>
      Effect.gen(function*() {
        const other = dialect === "postgres" ? "sqlite" : "postgres"
        const path = yield* directory({
          "0001_a.postgres.sql": `CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY, pg integer)`,
          "0001_a.sqlite.sql": `CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT, lite integer)`,
          [`0002_b.${other}.sql`]: "not SQL",
          "0003_c.sql": `-- sqlayer: dialect: ${other}\nnot SQL`,
          "0004_d.sql": `-- sqlayer: dialect: ${dialect}, timeout: 1 minute\nCREATE TABLE d (id integer)`
        })
        const options = { loader: Migrations.fromDirectory(path), progress: () => Effect.void }
        assert.deepStrictEqual(ids(yield* Migrations.run(options)), [1, 4])
        yield* values(`SELECT ${dialect === "postgres" ? "pg" : "lite"} FROM a`)
        assert.deepStrictEqual(yield* Migrations.run(options), [])
        assert.deepStrictEqual(
          ids(
            yield* run({
              "0001_a": Effect.void,
              "0004_d": Effect.void,
              "0005_e": { up: "not SQL", dialect: other },
              "0006_e": { up: "SELECT 1", dialect }
            })
          ),
          [6]
        )
        Fs.writeFileSync(Path.join(path, "0002_b.mysql.sql"), "")
        assert.match(yield* messageOf(Migrations.run(options)), /0002_b\.mysql\.sql is not a migration/)
      }).pipe(Effect.scoped, Effect.provide(layer)))

    it.live("ends one after its timeout", () =>
      Effect.gen(function*() {
        const error = yield* errorOf(run({
          ...person,
          "0002_slow": {
            up: Effect.zipRight(execute("INSERT INTO person VALUES (1, 'a')"), Effect.never),
            timeout: "50 millis"
          }
        }))
        assert.deepInclude(error, { kind: "failed", migration: "0002_slow" })
        assert.propertyVal(error.cause, "_tag", "SessionTimeout")
        assert.deepStrictEqual(yield* values("SELECT id FROM person"), [])
      }).pipe(Effect.provide(layer)))

    it.live("ends one after its timeout that has no transaction, and leaves it unfinished", () =>
      Effect.gen(function*() {
        const count = dialect === "postgres"
          ? "SELECT pg_sleep(60)"
          : "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n"
        const migrations = {
          ...person,
          "0002_slow": { up: `INSERT INTO person VALUES (1, 'a'); ${count}`, transaction: "none", timeout: "50 millis" }
        } as const
        const error = yield* errorOf(run(migrations))
        assert.deepInclude(error, { kind: "failed", migration: "0002_slow" })
        assert.include(["SessionTimeout", "StatementTimeout"], (error.cause as { readonly _tag: string })._tag)
        assert.deepStrictEqual(yield* values("SELECT id FROM person"), [[1]])
        const { problems } = yield* status(migrations)
        assert.deepStrictEqual(problems.map(({ id, problem }) => [id, problem]), [[2, "unfinished"]])
      }).pipe(Effect.provide(layer)))

    it.live("refuses headers and options that are not valid, by their line, before anything is applied", () =>
      Effect.gen(function*() {
        const path = yield* directory({ "0001_a.sql": "CREATE TABLE a (id integer)" })
        for (
          const [text, reason] of [
            [
              "-- sqlayer: transactoin: none",
              /0002_b\.sql: line 1: there is no header "transactoin": "transaction: none", /
            ],
            ["/* x\n */\n-- sqlayer: transaction: off", /line 3: transaction: expected none, but was given "off"$/],
            [
              "-- x\r\n\r\n-- sqlayer: timeout: soon",
              /line 3: timeout: expected a duration such as 10 minutes, but was given "soon"$/
            ],
            ["-- sqlayer: rebuild, rebuild", /line 1: rebuild is given twice$/],
            ["-- sqlayer: dialect: mysql", /line 1: dialect: expected postgres or sqlite, but was given "mysql"$/],
            ["SELECT 1;\n-- sqlayer: rebuild", /line 2: a header must come before the first statement$/]
          ] as const
        ) {
          Fs.writeFileSync(Path.join(path, "0002_b.sql"), text)
          const error = yield* errorOf(Migrations.run({ loader: Migrations.fromDirectory(path) }))
          assert.deepInclude(error, { kind: "invalid", id: 2, migration: "0002_b" })
          assert.match(error.message, reason)
        }
        const wrong = { up: "SELECT 1", transaction: "off" } as unknown as string
        assert.match(yield* messageOf(run({ "1_a": wrong })), /^migration 1_a: its transaction is not valid: "off"$/)
        const unknown = { up: "SELECT 1", rebuilds: true } as unknown as string
        assert.match(yield* messageOf(run({ "1_a": unknown })), /^migration 1_a: there is no option rebuilds$/)
        assert.deepStrictEqual(ids((yield* status({ "0001_a": "" })).pending), [1])
      }).pipe(Effect.scoped, Effect.provide(layer)))

    // In memory every database is another one.
    if (kind !== "sqlite :memory:") {
      it.live("waits for a runner that applies one without a transaction", () =>
        Effect.gen(function*() {
          const url = yield* (dialect === "postgres" ? postgres : sqliteFile).url
          const [one, other] = yield* Effect.all([1, 2].map(() => Database.make({ environment: "test", url })))
          const [started, released] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
          const migrations = {
            ...person,
            "0002_long": {
              up: Effect.zipRight(Deferred.succeed(started, undefined), Deferred.await(released)),
              transaction: "none"
            }
          } as const
          const first = yield* Effect.fork(Effect.provideService(run(migrations), Database.Database, one))
          yield* Deferred.await(started)
          const events: Array<string> = []
          const second = yield* Effect.fork(Effect.provideService(
            Migrations.run({
              ...optionsOf({ ...migrations, "0003_more": "INSERT INTO person VALUES (1, 'x')" }),
              progress: ({ _tag }) => Effect.sync(() => events.push(_tag))
            }),
            Database.Database,
            other
          ))
          yield* eventually(Effect.sync(() => events.includes("Waiting")))
          const given = yield* errorOf(Effect.provideService(
            Migrations.run({ ...optionsOf(migrations), lockTimeout: "100 millis" }),
            Database.Database,
            other
          ))
          assert.strictEqual(given.kind, "locked")
          assert.strictEqual(single, dialect === "sqlite")
          yield* Deferred.succeed(released, undefined)
          assert.deepStrictEqual(ids(yield* Fiber.join(first)), [1, 2])
          assert.deepStrictEqual(ids(yield* Fiber.join(second)), [3])
          if (dialect === "sqlite") {
            const file = new URL(url).pathname.slice(1)
            assert.deepStrictEqual(
              Fs.readdirSync(Path.dirname(file)).filter((name) => name.includes("migration")),
              []
            )
          }
        }).pipe(Effect.scoped))
    }
  })

  describe(`A database that migrations change in other ways, on ${name}`, () => {
    const three = {
      "0001_a": { up: "CREATE TABLE a (id integer)", down: "DROP TABLE a" },
      "0002_b": { up: "CREATE TABLE b (id integer)", down: Effect.asVoid(execute("DROP TABLE b")) },
      "0003_c": "CREATE TABLE c (id integer)"
    }

    it.live("is at a number without running anything", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(ids(yield* Migrations.baseline(optionsOf(three), 2)), [1, 2])
        assert.deepStrictEqual(yield* Migrations.baseline(optionsOf(three), 1), [])
        const { applied, pending, problems } = yield* status(three)
        assert.deepStrictEqual([ids(applied), ids(pending), problems], [[1, 2], [3], []])
        assert.strictEqual(
          yield* messageOf(Migrations.baseline(optionsOf(three), 7)),
          "there is no migration with the number 7"
        )
        assert.deepStrictEqual(ids(yield* run(three)), [3])
        const error = yield* errorOf(run({ ...three, "0001_a": "CREATE TABLE other (id integer)" }))
        assert.strictEqual(error.kind, "edited")
      }).pipe(Effect.provide(layer)))

    it.live("takes back the last one, or down to a number, each in a transaction", () =>
      Effect.gen(function*() {
        const two = { "0001_a": three["0001_a"], "0002_b": three["0002_b"] }
        yield* run(three)
        assert.strictEqual(
          yield* messageOf(Migrations.down(optionsOf(three))),
          "migration 0003_c cannot be taken back: it has neither a file 0003_c.down.sql nor down"
        )
        assert.match(yield* messageOf(Migrations.down(optionsOf(two))), /^migration 3_c is applied, and not known here/)
        const withDown = { ...three, "0003_c": { up: three["0003_c"], down: "DROP TABLE c; SELECT nothing" } }
        assert.match(
          yield* messageOf(Migrations.down({ ...optionsOf(withDown), to: 0 })),
          /^migration 0003_c failed on line 1/
        )
        assert.deepStrictEqual(ids((yield* status(withDown)).applied), [1, 2, 3])
        yield* values("SELECT id FROM c")
        const right = { ...three, "0003_c": { up: three["0003_c"], down: "DROP TABLE c" } }
        assert.deepStrictEqual(ids(yield* Migrations.down(optionsOf(right))), [3])
        assert.match(yield* messageOf(Migrations.down({ ...optionsOf(right), to: 3 })), /number 3 is applied/)
        assert.deepStrictEqual(ids(yield* run(right)), [3])
        assert.deepStrictEqual(ids(yield* Migrations.down({ ...optionsOf(right), to: 1 })), [3, 2])
        assert.deepStrictEqual(ids((yield* status(right)).pending), [2, 3])
        assert.deepStrictEqual(ids(yield* Migrations.down({ ...optionsOf(right), to: 0 })), [1])
        assert.deepStrictEqual(yield* Migrations.down(optionsOf(right)), [])
        assert.deepStrictEqual(ids(yield* run(right)), [1, 2, 3])
      }).pipe(Effect.provide(layer)))

    it.live("is unfinished after a down that ended its transaction by itself", () =>
      Effect.gen(function*() {
        const migrations = { "1_a": { up: "CREATE TABLE a (id integer)", down: all(["DROP TABLE a", "COMMIT"]) } }
        yield* run(migrations)
        const error = yield* errorOf(Migrations.down(optionsOf(migrations)))
        assert.propertyVal(error.cause, "_tag", "TransactionAborted")
        assert.deepStrictEqual((yield* status(migrations)).problems.map(({ problem }) => problem), ["unfinished"])
      }).pipe(Effect.provide(layer)))

    it.live("reads what takes one back from a file", () =>
      Effect.gen(function*() {
        const path = yield* directory({
          "0001_a.sql": "CREATE TABLE a (id integer)",
          "0001_a.down.sql": "DROP TABLE a",
          "0002_b.sqlite.sql": "CREATE TABLE b (id integer)",
          "0002_b.sqlite.down.sql": "DROP TABLE b",
          "0002_b.postgres.sql": "CREATE TABLE b (id bigint)",
          "0002_b.postgres.down.sql": "DROP TABLE b"
        })
        const options = { loader: Migrations.fromDirectory(path), progress: () => Effect.void }
        yield* Migrations.run(options)
        Fs.appendFileSync(Path.join(path, "0001_a.down.sql"), " /* edited */")
        assert.deepStrictEqual(ids(yield* Migrations.down({ ...options, to: 0 })), [2, 1])
        Fs.writeFileSync(Path.join(path, "0003_c.down.sql"), "SELECT 1")
        assert.strictEqual(
          yield* messageOf(Migrations.status(options)),
          "migration 0003_c: 0003_c.down.sql has no migration to take back"
        )
      }).pipe(Effect.scoped, Effect.provide(layer)))

    it.live("takes nothing back in production unless that is said twice", () =>
      Effect.gen(function*() {
        const database = yield* make(
          dialects.find((dialect) => dialect.name === name)!,
          { environment: "production" }
        )
        const migrations = { "0001_a": three["0001_a"], "0002_b": three["0002_b"] }
        const down = (options: Partial<Migrations.DownOptions>) =>
          Effect.provideService(Migrations.down({ ...optionsOf(migrations), ...options }), Database.Database, database)
        yield* Effect.provideService(run(migrations), Database.Database, database)
        for (
          const options of [{}, { production: true }, { confirm: "0002_b" }, { production: true, confirm: "0001_a" }]
        ) {
          assert.match(
            yield* messageOf(down({ ...options, to: 0 })),
            /^this is production, and 0002_b, 0001_a would be taken back/
          )
        }
        assert.deepStrictEqual(ids(yield* down({ production: true, confirm: "0002_b" })), [2])
      }).pipe(Effect.scoped))

    it.live("tells what would run, in order", () =>
      Effect.gen(function*() {
        const index = concurrently[dialect][0]
        const planned = yield* Migrations.dryRun(optionsOf({
          ...three,
          "0002_b": { up: "CREATE TABLE b (id integer);\nDELETE FROM b", rebuild: true },
          "0003_c": Effect.void,
          "0004_d": { up: index, transaction: "none" }
        }))
        assert.deepStrictEqual(
          planned.map(({ isRebuild, isTransactional, label, statements }) => [
            label,
            isTransactional,
            isRebuild,
            statements?.map(({ line, sql }) => [line, sql])
          ]),
          [
            ["0001_a", true, false, [[1, "CREATE TABLE a (id integer)"]]],
            ["0002_b", true, true, [[1, "CREATE TABLE b (id integer)"], [2, "DELETE FROM b"]]],
            ["0003_c", true, false, undefined],
            ["0004_d", false, false, [[1, index]]]
          ]
        )
        if (dialect === "postgres") {
          assert.match(planned[3].statements![0].locks!, /^person: SHARE UPDATE EXCLUSIVE/)
          assert.match(planned[1].statements![1].locks!, /^b: ROW EXCLUSIVE/)
        }
        assert.deepStrictEqual(yield* Effect.map(status(three), ({ applied }) => applied), [])
      }).pipe(Effect.provide(layer)))
  })
})

describe("Migrations in other encodings", () => {
  it.live("are refused by name and encoding, and nothing is run", () =>
    Effect.gen(function*() {
      const path = yield* directory({ "0001_a.sql": "CREATE TABLE a (id integer)" })
      const file = Path.join(path, "0002_b.sql")
      const text = "CREATE TABLE bücher (id integer);\n"
      const swapped = (bytes: Buffer) => Buffer.from(bytes).swap16()
      const utf16 = Buffer.from(text, "utf16le")
      for (
        const [bytes, encoding] of [
          [Buffer.concat([Buffer.from([0xff, 0xfe]), utf16]), "UTF-16LE"],
          [Buffer.concat([Buffer.from([0xfe, 0xff]), swapped(utf16)]), "UTF-16BE"],
          [utf16, "UTF-16LE"],
          [swapped(utf16), "UTF-16BE"],
          [Buffer.from(text, "latin1"), "Latin-1, probably (byte 0xFC on line 1)"],
          [
            Buffer.concat([Buffer.from("SELECT 1;\n-- "), Buffer.from([0x93, 0x94])]),
            "Windows-1252, probably (byte 0x93 on line 2)"
          ]
        ] as const
      ) {
        Fs.writeFileSync(file, bytes)
        const error = yield* errorOf(Migrations.run({ loader: Migrations.fromDirectory(path) }))
        assert.deepInclude(error, { kind: "invalid", migration: "0002_b" })
        assert.strictEqual(
          error.message,
          `migration 0002_b: ${file} is not UTF-8, but ${encoding}: save it as UTF-8; nothing was run`
        )
      }
      const { sql } = yield* Database.Database
      assert.deepStrictEqual(yield* sql`SELECT name FROM sqlite_schema`, [])
      Fs.writeFileSync(file, `\uFEFF${text}INSERT INTO bücher VALUES (1)`)
      assert.deepStrictEqual(ids(yield* Migrations.run({ loader: Migrations.fromDirectory(path) })), [1, 2])
    }).pipe(Effect.scoped, Effect.provide(Database.layerFrom({ environment: "test", url: ":memory:" }))))
})
