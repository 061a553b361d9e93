import * as Migrator from "@effect/sql/Migrator"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { PassThrough } from "node:stream"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import * as Migrations from "../src/Migrations.js"
import * as Session from "../src/Session.js"
import * as TestDatabase from "../src/TestDatabase.js"
import { dialects, forEachDialect, make, postgres } from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { query } from "./support/postgres.js"

const account = "CREATE TABLE account (id integer PRIMARY KEY, owner text NOT NULL UNIQUE)"

const fill = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO account VALUES (1, 'ada')`)

const two = { "0001_create_account": account, "0002_fill": fill }

const run = (migrations: Parameters<typeof Migrations.fromRecord>[0], options: Partial<Migrations.Options> = {}) =>
  Migrations.run({ loader: Migrations.fromRecord(migrations), ...options })

const status = (migrations: Parameters<typeof Migrations.fromRecord>[0], options: Partial<Migrations.Options> = {}) =>
  Migrations.status({ loader: Migrations.fromRecord(migrations), ...options })

const count = (table: string) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const rows = yield* sql<{ n: number }>`SELECT CAST(count(*) AS integer) AS n FROM ${sql(table)}`
    return rows[0].n
  })

const tables = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql.onDialectOrElse({
    pg: () => sql<{ name: string }>`SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY 1`,
    orElse: () => sql<{ name: string }>`SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1`
  })
  return rows.map(({ name }) => name)
})

const ids = (migrations: ReadonlyArray<Migrations.Migration>) => migrations.map(({ id }) => id)

const fieldsOf = (error: Migrations.MigrationError) => ({
  kind: error.kind,
  message: error.message,
  id: error.id,
  migration: error.migration
})

const migrationError = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, Migrations.MigrationError)
    return error
  })

forEachDialect((name, layer, dialect) => {
  describe(`Migrations on ${name}`, () => {
    it.live("applies what is pending, in order and once", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* run(two), [{ id: 1, name: "create_account" }, { id: 2, name: "fill" }])
        assert.deepStrictEqual(yield* run(two), [])
        assert.strictEqual(yield* count("account"), 1)
        assert.deepStrictEqual(ids(yield* run({ "0003_more": "INSERT INTO account VALUES (2, 'bob')", ...two })), [3])
        assert.strictEqual(yield* count("account"), 2)
      }).pipe(Effect.provide(layer)))

    it.live("tells the status, and writes nothing for it", () =>
      Effect.gen(function*() {
        const before = yield* status(two)
        assert.deepStrictEqual(yield* tables, [])
        assert.deepStrictEqual(before, {
          applied: [],
          pending: [{ id: 1, name: "create_account" }, { id: 2, name: "fill" }],
          problems: [],
          ahead: []
        })
        yield* run({ "0001_create_account": account })
        const half = yield* status(two)
        assert.deepStrictEqual(ids(half.applied), [1])
        assert.deepStrictEqual(half.pending, [{ id: 2, name: "fill" }])
        assert.approximately(half.applied[0].at.getTime(), Date.now(), 240_000)
      }).pipe(Effect.provide(layer)))

    it.live("leaves nothing behind of one that fails, and names it", () =>
      Effect.gen(function*() {
        const failing = {
          ...two,
          "0003_twice": Effect.gen(function*() {
            const sql = yield* SqlClient.SqlClient
            yield* sql`CREATE TABLE half (id integer)`
            yield* fill
          }),
          "0004_never": "CREATE TABLE never (id integer)"
        }
        const error = yield* migrationError(run(failing))
        assert.deepInclude(fieldsOf(error), { kind: "failed", id: 3, migration: "0003_twice" })
        assert.propertyVal(error.cause, "_tag", "UniqueViolation")
        assert.match(error.message, /^migration 0003_twice failed: UniqueViolation: /)
        const now = yield* status(failing)
        assert.deepStrictEqual([ids(now.applied), ids(now.pending)], [[1, 2], [3, 4]])
        const present = yield* tables
        assert.notInclude(present, "half")
        assert.notInclude(present, "never")
        assert.deepStrictEqual(ids(yield* run({ ...failing, "0003_twice": "CREATE TABLE half (id integer)" })), [3, 4])
      }).pipe(Effect.provide(layer)))

    it.live("names the line of a statement that fails", () =>
      Effect.gen(function*() {
        const error = yield* migrationError(
          run({ "1_lines": `${account};\n\n-- a comment\nINSERT INTO account\nVALUES (1, NULL);` })
        )
        assert.match(error.message, /^migration 1_lines failed on line 4: NotNullViolation: /)
        assert.propertyVal(error.cause, "_tag", "NotNullViolation")
        assert.notInclude(yield* tables, "account")
      }).pipe(Effect.provide(layer)))

    it.live("takes a defect for a failure of the migration", () =>
      Effect.gen(function*() {
        const error = yield* migrationError(run({ ...two, "0003_throws": Effect.die(new Error("no such luck")) }))
        assert.strictEqual(error.message, "migration 0003_throws failed: no such luck")
        assert.strictEqual((error.cause as Error).message, "no such luck")
        assert.deepStrictEqual(ids((yield* status(two)).applied), [1, 2])
      }).pipe(Effect.provide(layer)))

    it.live("names one whose commit fails", () =>
      Effect.gen(function*() {
        const error = yield* migrationError(run({
          "1_deferred": `CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (parent integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
INSERT INTO child VALUES (1)`
        }))
        assert.deepInclude(fieldsOf(error), { kind: "failed", migration: "1_deferred" })
        assert.propertyVal(error.cause, "_tag", "ForeignKeyViolation")
        assert.notInclude(yield* tables, "child")
      }).pipe(Effect.provide(layer)))

    // In memory everything is gone with the connection.
    for (const committed of name === "sqlite :memory:" ? [] : [true, false]) {
      it.live(`finds out what became of one whose commit got no answer: ${committed ? "done" : "undone"}`, () =>
        Effect.gen(function*() {
          const url = yield* dialect.url
          const faults = TestDatabase.faults([
            // The first is that of the history's tables.
            { on: "commit", nth: 3, committed, error: TestDatabase.error("CommitOutcomeUnknown") }
          ])
          const database = Database.layerFrom({ url, environment: "test" })
          const told: Array<string> = []
          const progress = (event: Migrations.Progress) => Effect.sync(() => told.push(event._tag))
          const applied = yield* run(two, { progress }).pipe(Effect.provide(Layer.provide(database, faults)))
          assert.deepStrictEqual(ids(applied), [1, 2])
          const again = committed ? [] : ["Started"]
          assert.deepStrictEqual(told, ["Started", "Applied", "Started", ...again, "Applied"])
          assert.strictEqual(yield* Effect.provide(count("account"), database), 1)
        }).pipe(Effect.scoped))
    }

    if (name !== "sqlite :memory:") {
      it.live("says that it is not known what became of one where that cannot be found out, and the next run knows", () =>
        Effect.gen(function*() {
          const database = Database.layerFrom({ url: yield* dialect.url, environment: "test" })
          const faults = TestDatabase.faults([
            { on: "commit", nth: 3, committed: true, error: TestDatabase.error("CommitOutcomeUnknown") },
            { on: "begin", nth: 4, error: TestDatabase.error("ConnectionFailed") }
          ])
          const error = yield* migrationError(run(two).pipe(Effect.provide(Layer.provide(database, faults))))
          assert.deepInclude(fieldsOf(error), { kind: "failed", migration: "0002_fill" })
          assert.propertyVal(error.cause, "_tag", "CommitOutcomeUnknown")
          assert.deepStrictEqual(yield* Effect.provide(run(two), database), [])
        }).pipe(Effect.scoped))
    }

    it.live("runs each in a session of its own", () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const note = (what: string) => Effect.sync(() => seen.push(what))
        const step = (what: string) =>
          Effect.gen(function*() {
            yield* note(`${what} in ${(yield* Session.Session).name}`)
            yield* Session.afterCommit(note(`${what} committed`))
          })
        yield* run({ "1_a": step("a"), "2_b": step("b") })
        assert.deepStrictEqual(seen, ["a in migrate 1_a", "a committed", "b in migrate 2_b", "b committed"])
      }).pipe(Effect.provide(layer)))

    it.live("reports an edited one, and applies nothing then", () =>
      Effect.gen(function*() {
        yield* run(two)
        const edited = { ...two, "0001_create_account": `${account} `, "0003_more": "CREATE TABLE more (id integer)" }
        const error = yield* migrationError(run(edited))
        assert.deepInclude(fieldsOf(error), {
          kind: "edited",
          id: 1,
          migration: "0001_create_account",
          message: "migration 0001_create_account was edited after it was applied"
        })
        assert.notInclude(yield* tables, "more")
        const { pending, problems } = yield* status(edited)
        assert.deepStrictEqual(problems.map(({ id, name, problem }) => ({ id, name, problem })), [
          { id: 1, name: "create_account", problem: "edited" }
        ])
        assert.deepStrictEqual(ids(pending), [3])
      }).pipe(Effect.provide(layer)))

    it.live("takes other ends of lines for no edit, and another name for one", () =>
      Effect.gen(function*() {
        yield* run({ "1_lines": "CREATE TABLE\nlines (id integer)" })
        assert.deepStrictEqual((yield* status({ "1_lines": "\uFEFFCREATE TABLE\r\nlines (id integer)" })).problems, [])
        const error = yield* migrationError(run({ "1_line": "CREATE TABLE\nlines (id integer)" }))
        assert.strictEqual(error.message, "migration 1_lines is applied, and now called 1_line")
        assert.strictEqual(error.kind, "edited")
      }).pipe(Effect.provide(layer)))

    it.live("reports a missing one", () =>
      Effect.gen(function*() {
        yield* run(two)
        const error = yield* migrationError(run({ "0002_fill": fill, "0003_more": "CREATE TABLE more (id integer)" }))
        assert.deepInclude(fieldsOf(error), { kind: "missing", id: 1, migration: "1_create_account" })
        assert.notInclude(yield* tables, "more")
        const { problems } = yield* status({ "0002_fill": fill })
        assert.deepStrictEqual(problems.map(({ id, problem }) => [id, problem]), [[1, "missing"]])
      }).pipe(Effect.provide(layer)))

    it.live("goes on where a newer version of the application was before it", () =>
      Effect.gen(function*() {
        yield* run({ ...two, "0005_newer": "CREATE TABLE newer (id integer)" })
        const progress = yield* Ref.make<ReadonlyArray<Migrations.Progress>>([])
        const older = { ...two, "0003_older": "CREATE TABLE older (id integer)" }
        const before = yield* status(older)
        assert.deepStrictEqual(before.ahead, [{ id: 5, name: "newer" }])
        assert.deepStrictEqual(before.problems, [])
        assert.deepStrictEqual(
          ids(yield* run(older, { progress: (event) => Ref.update(progress, (events) => [...events, event]) })),
          [3]
        )
        assert.deepStrictEqual((yield* progress)[0], { _tag: "Ahead", migrations: [{ id: 5, name: "newer" }] })
      }).pipe(Effect.provide(layer)))

    it.live("applies one that was merged late", () =>
      Effect.gen(function*() {
        yield* run({ "1_a": "CREATE TABLE a (id integer)", "3_c": "CREATE TABLE c (id integer)" })
        const all = {
          "1_a": "CREATE TABLE a (id integer)",
          "2_b": "CREATE TABLE b (id integer)",
          "3_c": "CREATE TABLE c (id integer)"
        }
        assert.deepStrictEqual(ids((yield* status(all)).pending), [2])
        assert.deepStrictEqual(ids(yield* run(all)), [2])
      }).pipe(Effect.provide(layer)))

    it.live("goes on where @effect/sql's Migrator stopped, and lets it go on", () =>
      Effect.gen(function*() {
        const stock = (migrations: Record<string, Effect.Effect<void, unknown, SqlClient.SqlClient>>) =>
          Migrator.make({})({ loader: Migrator.fromRecord(migrations) })
        const sql = yield* SqlClient.SqlClient
        const create = Effect.asVoid(sql.unsafe(account))
        yield* stock({ "0001_create_account": create })

        assert.deepStrictEqual(ids((yield* status(two)).applied), [1])
        assert.deepStrictEqual(ids(yield* run(two)), [2])
        // From then on an edit of what was adopted is seen.
        assert.strictEqual((yield* migrationError(run({ ...two, "0001_create_account": "SELECT 1" }))).kind, "edited")

        const later = { "0001_create_account": create, "0002_fill": Effect.asVoid(fill), "0003_more": Effect.void }
        assert.deepStrictEqual(yield* stock(later), [[3, "more"]])
        assert.deepStrictEqual(ids(yield* run(later)), [])
      }).pipe(Effect.provide(layer)))

    it.live("takes the Migrator's loaders", () =>
      Effect.gen(function*() {
        const module = { default: fill }
        const sql = yield* SqlClient.SqlClient
        const create = sql.unsafe(account)
        yield* Migrations.run({
          loader: Migrator.fromGlob({ "./migrations/0001_create_account.ts": async () => ({ default: create }) })
        })
        yield* Migrations.run({
          loader: Migrator.fromBabelGlob({
            _0001_create_accountTs: { default: create },
            _0002_fillJs: { default: module }
          })
        })
        assert.strictEqual(yield* count("account"), 1)
      }).pipe(Effect.provide(layer)))

    it.live("finds what cannot be loaded before it applies anything", () =>
      Effect.gen(function*() {
        const glob = (module: () => Promise<unknown>) =>
          Migrations.run({
            loader: Migrator.fromGlob({
              "1_good.js": async () => ({ default: Effect.void }),
              "2_bad.js": module
            })
          })
        const threw = yield* migrationError(glob(() => Promise.reject(new Error("no such module"))))
        assert.deepInclude(fieldsOf(threw), { kind: "load", id: 2, migration: "2_bad" })
        assert.strictEqual(threw.message, "migration 2_bad cannot be loaded: no such module")
        const empty = yield* migrationError(glob(async () => ({})))
        assert.strictEqual(empty.message, "migration 2_bad has no Effect as its default export")
        const failing = yield* migrationError(Migrations.run({
          loader: Effect.fail(new Migrator.MigrationError({ reason: "failed", message: "no directory" }))
        }))
        assert.deepInclude(fieldsOf(failing), { kind: "load", message: "no directory" })
        assert.deepStrictEqual(yield* tables, [])
      }).pipe(Effect.provide(layer)))

    it.live("refuses names and numbers that are not valid", () =>
      Effect.gen(function*() {
        const refused = (migrations: Record<string, string>, options?: Partial<Migrations.Options>) =>
          Effect.map(migrationError(run(migrations, options)), ({ kind, message }) => `${kind}: ${message}`)
        assert.strictEqual(
          yield* refused({ create: "" }),
          "invalid: \"create\" is not the name of a migration: <number>_<name> is accepted (0001_create_account)"
        )
        assert.strictEqual(
          yield* refused({ "0_a": "" }),
          "invalid: migration 0_a: its number must be a whole one from 1 to 9007199254740991"
        )
        assert.match(yield* refused({ "99999999999999999999_a": "" }), /^invalid: .* must be a whole one from 1 /)
        assert.strictEqual(
          yield* refused({ "1_a": "", "01_b": "" }),
          "duplicate: two migrations have the number 1: 1_a and 01_b"
        )
        assert.strictEqual(
          yield* refused({}, { table: "a.b.c" }),
          "invalid: the table \"a.b.c\" is not valid: a name, or a schema and a name, are accepted"
        )
        assert.deepStrictEqual(yield* tables, [])
      }).pipe(Effect.provide(layer)))

    it.live("takes a time for a number", () =>
      Effect.gen(function*() {
        const migrations = { "20260102030405_a": "CREATE TABLE a (id integer)" }
        assert.deepStrictEqual(ids(yield* run(migrations)), [20260102030405])
        assert.deepStrictEqual(yield* run(migrations), [])
        assert.deepStrictEqual(ids((yield* status(migrations)).applied), [20260102030405])
      }).pipe(Effect.provide(layer)))

    it.live("refuses SQL that would end the migration's transaction", () =>
      Effect.gen(function*() {
        for (
          const [sql, line, word] of [
            ["BEGIN;\nCREATE TABLE a (id integer);\nCOMMIT", 1, "BEGIN"],
            ["CREATE TABLE a (id integer);\ncommit work;", 2, "COMMIT"],
            ["/* x */ Start -- y\n transaction", 1, "START"],
            ["SAVEPOINT a; ROLLBACK", 1, "ROLLBACK"],
            ["END", 1, "END"]
          ] as const
        ) {
          const error = yield* migrationError(run({ "1_a": "CREATE TABLE before (id integer)", "2_b": sql }))
          assert.deepInclude(fieldsOf(error), { kind: "invalid", id: 2, migration: "2_b" })
          assert.strictEqual(
            error.message,
            `migration 2_b: line ${line}: ${word} is not accepted, since each migration is a transaction of its own`
          )
        }
        assert.deepStrictEqual(yield* tables, [])
        yield* run({ "1_a": "SAVEPOINT a; CREATE TABLE a (id integer); ROLLBACK TO a; RELEASE a" })
        assert.notInclude(yield* tables, "a")
      }).pipe(Effect.provide(layer)))

    it.live("takes large texts, in a time that grows no faster than they do", () =>
      Effect.gen(function*() {
        const value = "''".repeat(100_000) + "x".repeat(10_000_000)
        const large = { "1_large": `CREATE TABLE large (a text);\nINSERT INTO large VALUES ('${value}')` }
        yield* run(large)
        const sql = yield* SqlClient.SqlClient
        assert.deepStrictEqual(yield* sql`SELECT length(a) AS n FROM large`, [{ n: 10_100_000 }])

        const many = "INSERT INTO large\n  VALUES ('a line''s end');\n".repeat(50_000)
        // If the time grew with the square of the text's length, the test would time out.
        const error = yield* migrationError(run({ ...large, "2_many": `${many}COMMIT` }))
        assert.match(error.message, /^migration 2_many: line 100001: COMMIT is not accepted/)
      }).pipe(Effect.provide(layer)))

    it.live("refuses SQL whose quotes, comments or bodies have no end", () =>
      Effect.gen(function*() {
        const message = (sql: string) => Effect.map(migrationError(run({ "1_a": sql })), ({ message }) => message)
        assert.strictEqual(
          yield* message("SELECT 1;\nSELECT 'it''s"),
          "migration 1_a: the quoted text that begins on line 2 has no end"
        )
        assert.strictEqual(
          yield* message("\n\nSELECT 1 /* ; "),
          "migration 1_a: the comment that begins on line 3 has no end"
        )
        assert.strictEqual(
          yield* message(
            `SELECT 1;\nCREATE ${
              dialect.dialect === "postgres"
                ? "FUNCTION a() RETURNS integer BEGIN ATOMIC"
                : "TRIGGER a AFTER INSERT ON b BEGIN"
            } SELECT 1; COMMIT; SELECT 2`
          ),
          "migration 1_a: the statement that begins on line 2 has a BEGIN without an END"
        )
      }).pipe(Effect.provide(layer)))

    it.live("understands quotes and comments", () =>
      Effect.gen(function*() {
        yield* run({
          "1_quotes": `
-- one; two
CREATE TABLE quotes ("a;b" text /* ; ' */, c text DEFAULT ';''' /* " */); ;
INSERT INTO quotes ("a;b") VALUES ('x;--y'), (NULL) -- ' last;`
        })
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql`SELECT coalesce("a;b", 'none') AS a, c FROM quotes ORDER BY 1`.values
        assert.deepStrictEqual(rows, [["none", ";'"], ["x;--y", ";'"]])
      }).pipe(Effect.provide(layer)))

    it.live("runs when the layer is built, and then tells the status", () =>
      Effect.gen(function*() {
        const migrated = Migrations.layer({ loader: Migrations.fromRecord(two) }).pipe(Layer.provideMerge(layer))
        yield* Effect.gen(function*() {
          const { status } = yield* Migrations.Migrations
          assert.deepStrictEqual(ids((yield* status).applied), [1, 2])
          assert.strictEqual(yield* count("account"), 1)
          const sql = yield* SqlClient.SqlClient
          yield* sql`DELETE FROM effect_sql_migrations WHERE migration_id = 2`
          assert.deepStrictEqual(ids((yield* status).pending), [2])
        }).pipe(Effect.provide(migrated))
        const failing = Migrations.layer({ loader: Migrations.fromRecord({ "1_a": "SELECT nothing" }) })
        const error = yield* migrationError(Layer.build(Layer.provide(failing, layer)))
        assert.strictEqual(error.migration, "1_a")
      }).pipe(Effect.scoped))

    it.live("only watches, where something else runs them", () =>
      Effect.gen(function*() {
        const { status } = yield* Migrations.Migrations
        assert.deepStrictEqual(ids((yield* status).pending), [1, 2])
        yield* run(two)
        assert.deepStrictEqual(ids((yield* status).pending), [])
      }).pipe(
        Effect.provide(
          Migrations.layerStatus({ loader: Migrations.fromRecord(two) }).pipe(Layer.provideMerge(layer))
        )
      ))

    it.live("keeps to another table when told", () =>
      Effect.gen(function*() {
        yield* run(two, { table: "history" })
        assert.sameMembers([...yield* tables], ["account", "history", "history_checksum"])
        assert.deepStrictEqual(yield* run(two, { table: "history" }), [])
        assert.deepStrictEqual(ids((yield* status(two)).pending), [1, 2])
      }).pipe(Effect.provide(layer)))

    it.live("tells what happens", () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const progress = (event: Migrations.Progress) =>
          Effect.sync(() => {
            seen.push("migration" in event ? `${event._tag} ${event.migration.id}` : event._tag)
            if ("duration" in event) {
              assert.isAtLeast(Duration.toMillis(event.duration), 0)
            }
          })
        yield* migrationError(run({ ...two, "3_bad": "SELECT nothing" }, { progress }))
        assert.deepStrictEqual(seen, ["Started 1", "Applied 1", "Started 2", "Applied 2", "Started 3", "Failed 3"])
      }).pipe(Effect.provide(layer)))

    it.live("rolls back the one that is under way when it is interrupted", () =>
      Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(run({
          ...two,
          "0003_slow": Effect.gen(function*() {
            const sql = yield* SqlClient.SqlClient
            yield* sql`CREATE TABLE slow (id integer)`
            yield* Deferred.succeed(started, undefined)
            yield* Effect.never
          })
        }))
        yield* Deferred.await(started)
        yield* Fiber.interrupt(fiber)
        assert.notInclude(yield* tables, "slow")
        assert.deepStrictEqual(ids((yield* status(two)).applied), [1, 2])
      }).pipe(Effect.provide(layer)))

    it.live("does not mind how names are transformed", () =>
      Effect.gen(function*() {
        yield* run(two)
        assert.deepStrictEqual(ids((yield* status(two)).applied), [1, 2])
        assert.deepStrictEqual(yield* run(two), [])
      }).pipe(
        Effect.provide(Layer.unwrapScoped(Effect.map(
          make(dialects.find((dialect) => dialect.name === name)!, {
            transformQueryNames: (text) => text.toUpperCase(),
            transformResultNames: (text) => text.toUpperCase()
          }),
          (database) =>
            Layer.merge(
              Layer.succeed(Database.Database, database),
              Layer.succeedContext(database.context)
            )
        )))
      ))

    const create = (sql: SqlClient.SqlClient, name: string) => sql`CREATE TABLE ${sql(name)} (id integer)`

    /** What a migration does between its beginning and its end, so that its transaction ends by a statement of its own. */
    const endings: Readonly<
      Record<
        string,
        { readonly migration: Effect.Effect<unknown, unknown, SqlClient.SqlClient>; readonly kept: string }
      >
    > = {
      "commits in the middle": {
        migration: Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => Effect.all([create(sql, "a"), sql`COMMIT`, create(sql, "b")])
        ),
        kept: "a"
      },
      "commits last": {
        migration: Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.all([create(sql, "a"), sql`COMMIT`])),
        kept: "a"
      },
      "commits and fails by itself": {
        migration: Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => Effect.all([create(sql, "a"), sql`COMMIT`, Effect.fail({ message: "no" })])
        ),
        kept: "a"
      },
      "commits, and catches what fails after it": {
        migration: Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => Effect.all([create(sql, "a"), sql`COMMIT`, Effect.ignore(create(sql, "b"))])
        ),
        kept: "a"
      },
      "commits and begins another": {
        migration: Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => Effect.all([create(sql, "a"), sql`COMMIT`, sql`BEGIN`, create(sql, "b")])
        ),
        kept: "a"
      },
      "rolls back": {
        migration: Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.all([create(sql, "a"), sql`ROLLBACK`])),
        kept: ""
      },
      "rolls back and goes on": {
        migration: Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => Effect.all([create(sql, "a"), sql`ROLLBACK`, create(sql, "b")])
        ),
        kept: ""
      },
      ...(name !== "postgres" ? {} : {
        "commits and chains": {
          migration: Effect.flatMap(
            SqlClient.SqlClient,
            (sql) => Effect.all([create(sql, "a"), sql`COMMIT AND CHAIN`, create(sql, "b")])
          ),
          kept: "a"
        },
        "commits in a text of several statements": {
          migration: Effect.flatMap(
            SqlClient.SqlClient,
            (sql) => sql.unsafe("CREATE TABLE a (id integer); COMMIT; CREATE TABLE b (id integer)")
          ),
          kept: "a,b"
        },
        "commits and begins in a text of several statements": {
          migration: Effect.flatMap(
            SqlClient.SqlClient,
            (sql) => sql.unsafe("CREATE TABLE a (id integer); COMMIT; BEGIN; CREATE TABLE b (id integer)").unprepared
          ),
          kept: "a"
        }
      })
    }

    for (const [what, { kept, migration }] of Object.entries(endings)) {
      it.live(`fails, and the next run too, naming it, when a migration ${what}`, () =>
        Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const migrations = { "0001_whole": "CREATE TABLE whole (id integer)", "0002_half": migration }
          const first = yield* migrationError(run(migrations))
          assert.deepInclude(fieldsOf(first), { kind: "failed", id: 2, migration: "0002_half" })
          if (what === "commits and fails by itself") {
            assert.propertyVal(first.cause, "message", "no")
          } else {
            assert.propertyVal(first.cause, "_tag", "TransactionAborted")
            assert.match(first.message, /TransactionAborted: one of its own statements ended its transaction/)
          }
          assert.match(
            first.message,
            /part of it may be applied\. .* delete the row with migration_id 2 from effect_sql/
          )
          const isOurs = (table: string) => table === "a" || table === "b"
          assert.strictEqual((yield* tables).filter(isOurs).join(), kept)

          const now = yield* status(migrations)
          assert.deepStrictEqual([ids(now.applied), now.pending], [[1], []])
          assert.deepStrictEqual(now.problems.map(({ id, name, problem }) => ({ id, name, problem })), [
            { id: 2, name: "half", problem: "unfinished" }
          ])
          const repaired = "CREATE TABLE never (id integer)"
          for (const next of [migrations, { ...migrations, "0002_half": Effect.void, "0003_never": repaired }]) {
            const again = yield* migrationError(run(next))
            assert.deepInclude(fieldsOf(again), { kind: "unfinished", id: 2, migration: "0002_half" })
            assert.match(again.message, /^migration 0002_half is unfinished: .*COMMIT or ROLLBACK/)
          }
          assert.strictEqual((yield* tables).filter(isOurs).join(), kept)
          assert.notInclude(yield* tables, "never")

          // Both repairs that the message names.
          yield* sql`DELETE FROM effect_sql_migrations_checksum WHERE migration_id = 2`
          assert.deepStrictEqual(ids((yield* status(migrations)).pending), [2])
          yield* migrationError(run({ ...migrations, "0002_half": migration }))
          yield* sql`INSERT INTO effect_sql_migrations (migration_id, name) VALUES (2, 'half')`
          const finished = { ...migrations, "0002_half": "CREATE TABLE c (id integer)" }
          assert.deepStrictEqual(yield* run(finished), [])
          assert.deepInclude(yield* status(finished), { pending: [], problems: [] })
          const [{ checksum }] = yield* sql<
            { checksum: string }
          >`SELECT checksum FROM effect_sql_migrations_checksum WHERE migration_id = 2`
          assert.match(checksum, /^sql:/)
        }).pipe(Effect.provide(layer)))
    }

    it.live("leaves the tables to @effect/sql's Migrator after one that is unfinished", () =>
      Effect.gen(function*() {
        const commits = Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.all([create(sql, "a"), sql`COMMIT`]))
        yield* migrationError(run({ "0001_create_account": account, "0002_half": commits }))
        const migrate = Migrator.make({})({
          loader: Migrator.fromRecord({
            "0001_create_account": Effect.fail("applied"),
            "0003_other": Effect.flatMap(SqlClient.SqlClient, (sql) => create(sql, "other"))
          })
        })
        assert.deepStrictEqual(yield* migrate, [[3, "other"]])
        assert.deepStrictEqual(ids((yield* status({ "0001_create_account": account, "0003_other": fill })).applied), [
          1,
          3
        ])
      }).pipe(Effect.provide(layer)))

    it.live("leaves no marker of a migration that fails, succeeds or is interrupted", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const markers = sql`SELECT * FROM effect_sql_migrations_checksum WHERE checksum LIKE 'running:%'`
        const inside = yield* Deferred.make<void>()
        yield* run({ "0001_one": Effect.void, "0002_two": "CREATE TABLE two (id integer)" })
        assert.deepStrictEqual(yield* markers, [])
        yield* migrationError(
          run({ "0003_three": Effect.fail("no"), "0001_one": Effect.void, "0002_two": Effect.void })
        )
        yield* migrationError(run({ "0003_three": "SELECT no", "0001_one": Effect.void, "0002_two": Effect.void }))
        const fiber = yield* Effect.fork(run({
          "0001_one": Effect.void,
          "0002_two": Effect.void,
          "0003_three": Effect.zipRight(Deferred.succeed(inside, undefined), Effect.never)
        }))
        yield* Deferred.await(inside)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* markers, [])
        const rows = yield* sql<{ id: unknown }>`SELECT migration_id AS id FROM effect_sql_migrations_checksum`
        assert.deepStrictEqual(rows.map(({ id }) => Number(id)), [2])
      }).pipe(Effect.provide(layer)))

    for (const [what, after] of [["last", "SELECT 1"], ["in the middle", "CREATE TABLE later (id integer)"]] as const) {
      it.live(`blames the migration and the statement whose failure it caught, ${what}`, () =>
        Effect.gen(function*() {
          const catching = Effect.flatMap(SqlClient.SqlClient, (sql) =>
            Effect.all([
              create(sql, "early"),
              Effect.ignore(sql`INSERT INTO early VALUES (${"secret-value"}, 2, 3)`),
              what === "last" ? Effect.void : sql.unsafe(after)
            ]))
          const error = yield* migrationError(
            run({ "0001_one": account, "0002_catching": catching, "0003_next": fill })
          )
          assert.deepInclude(fieldsOf(error), { kind: "failed", id: 2, migration: "0002_catching" })
          assert.match(
            error.message,
            /a statement of it failed, and its error was caught: InvalidStatement: .* in INSERT INTO early/s
          )
          assert.notInclude(error.message, "secret-value")
          assert.notInclude(error.message, "effect_sql_migrations")
          assert.propertyVal(error.cause, "_tag", "TransactionAborted")
          assert.match((error.cause as { readonly statement: string }).statement, /^INSERT INTO early/)
          assert.propertyVal((error.cause as { readonly cause: unknown }).cause, "_tag", "InvalidStatement")
          const now = yield* status({ "0001_one": account, "0002_catching": catching })
          assert.deepStrictEqual([ids(now.applied), ids(now.pending), now.problems], [[1], [2], []])
          assert.notInclude(yield* tables, "early")
        }).pipe(Effect.provide(layer)))
    }

    it.live("takes a failure that was caught in a nested session for none", () =>
      Effect.gen(function*() {
        const nested = Effect.flatMap(SqlClient.SqlClient, (sql) =>
          Effect.zipRight(Effect.ignore(sql.withTransaction(sql`SELECT nothing`)), create(sql, "kept")))
        assert.deepStrictEqual(ids(yield* run({ "0001_nested": nested })), [1])
        assert.include(yield* tables, "kept")
      }).pipe(Effect.provide(layer)))
  })
})

// A database in memory has no second runner.
for (const dialect of dialects.filter(({ name }) => name !== "sqlite :memory:")) {
  describe(`Several runners on ${dialect.name}`, () => {
    const open = (url: string) =>
      Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0, connectTimeout: "1 minute" })

    const blocked = Effect.gen(function*() {
      const url = yield* dialect.url
      const [one, other] = [yield* open(url), yield* open(url)]
      const started = yield* Deferred.make<void>()
      const proceed = yield* Deferred.make<void>()
      const migrations = {
        "1_slow": Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          yield* sql`CREATE TABLE slow (id integer)`
          yield* Deferred.succeed(started, undefined)
          yield* Deferred.await(proceed)
        })
      }
      const first = yield* Effect.forkScoped(Effect.provideService(run(migrations), Database.Database, one))
      yield* Deferred.await(started)
      return { first, other, proceed, migrations }
    })

    it.live("applies each once, whoever starts at the same time", () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const applied: Array<string> = []
        const migrations = Object.fromEntries(
          [1, 2, 3, 4, 5, 6].map((n) => [
            `${n}_step`,
            Effect.zipRight(Effect.sync(() => applied.push(`${n}`)), Effect.sleep("20 millis"))
          ])
        )
        const runs = yield* Effect.forEach(
          [1, 2, 3, 4],
          () =>
            Effect.flatMap(
              open(url),
              (database) => Effect.provideService(run(migrations), Database.Database, database)
            ),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(applied, ["1", "2", "3", "4", "5", "6"])
        assert.deepStrictEqual(ids(runs.flat()).sort((a, b) => a - b), [1, 2, 3, 4, 5, 6])
      }).pipe(Effect.scoped))

    it.live("waits for the other one, and says so", () =>
      Effect.gen(function*() {
        const { first, migrations, other, proceed } = yield* blocked
        const events: Array<string> = []
        const second = yield* Effect.forkScoped(Effect.provideService(
          run(migrations, { progress: ({ _tag }) => Effect.sync(() => events.push(_tag)) }),
          Database.Database,
          other
        ))
        yield* eventually(Effect.sync(() => events.length > 0), { timeout: "20 seconds" })
        yield* Deferred.succeed(proceed, undefined)
        assert.deepStrictEqual(ids(yield* Fiber.join(first)), [1])
        assert.deepStrictEqual(yield* Fiber.join(second), [])
        assert.deepStrictEqual(events, ["Waiting"])
      }).pipe(Effect.scoped))

    it.live("gives up in time when told, and at once when interrupted", () =>
      Effect.gen(function*() {
        const { first, migrations, other, proceed } = yield* blocked
        const error = yield* migrationError(
          Effect.provideService(run(migrations, { lockTimeout: "200 millis" }), Database.Database, other)
        )
        assert.strictEqual(error.kind, "locked")
        assert.strictEqual(error.message, "another runner is migrating, and did not finish within 200ms")
        const waiting = yield* Effect.fork(Effect.provideService(run(migrations), Database.Database, other))
        yield* Effect.sleep("200 millis")
        // The first runner holds the lock until it may proceed, so the interruption does not wait for the lock.
        yield* Fiber.interrupt(waiting)
        yield* Deferred.succeed(proceed, undefined)
        assert.deepStrictEqual(ids(yield* Fiber.join(first)), [1])
      }).pipe(Effect.scoped))

    it.live("tells the status while another one works", () =>
      Effect.gen(function*() {
        const { first, migrations, other, proceed } = yield* blocked
        const now = yield* Effect.provideService(status(migrations), Database.Database, other)
        assert.deepStrictEqual(ids(now.pending), [1])
        yield* Deferred.succeed(proceed, undefined)
        yield* Fiber.join(first)
      }).pipe(Effect.scoped))
  })
}

describe("Migrations on a PostgreSQL server", () => {
  it.live("tells the status to a role that may only read", () =>
    Effect.gen(function*() {
      const url = yield* postgres.url
      const { pathname } = new URL(url)
      const owner = yield* Database.make({ environment: "test", url })
      yield* Effect.provideService(run(two), Database.Database, owner)
      const role = `reader_${pathname.slice(1)}`
      yield* query(
        url,
        `CREATE ROLE ${role} LOGIN PASSWORD 'reader'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`
      )
      yield* Effect.addFinalizer(() => query(url, `DROP OWNED BY ${role}; DROP ROLE ${role}`))
      const readerUrl = new URL(url)
      readerUrl.username = role
      readerUrl.password = "reader"
      const reader = yield* Database.make({ environment: "test", url: readerUrl.toString() })
      const asReader = Effect.provideService(Database.Database, reader)
      assert.deepStrictEqual(ids((yield* asReader(status(two))).applied), [1, 2])
      // Where nothing is to be done, nothing but reading is needed.
      assert.deepStrictEqual(yield* asReader(run(two)), [])
      const denied = yield* Effect.flip(asReader(run({ ...two, "0003_more": "SELECT 1" })))
      assert.deepInclude(fieldsOf(denied as Migrations.MigrationError), { kind: "failed", migration: "0003_more" })
    }).pipe(Effect.scoped))

  it.live("keeps its tables in a schema when told, and creates it", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* run(two, { table: "app.history" })
      assert.deepStrictEqual(yield* run(two, { table: "app.history" }), [])
      const rows = yield* sql<
        { name: string }
      >`SELECT tablename AS name FROM pg_tables WHERE schemaname = 'app' ORDER BY 1`
      assert.deepStrictEqual(rows.map(({ name }) => name), ["history", "history_checksum"])
    }).pipe(Effect.provide(Layer.unwrapScoped(Effect.map(postgres.url, (url) =>
      Database.layerFrom({ environment: "test", url }))))))

  it.live("understands what PostgreSQL quotes", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* run({
        "1_functions": `
CREATE FUNCTION one() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END; $$;
CREATE FUNCTION two() RETURNS text LANGUAGE sql AS $body$ SELECT '$$;'::text; $body$;
CREATE FUNCTION three(a integer) RETURNS integer LANGUAGE sql
BEGIN ATOMIC
  SELECT 1;
  SELECT CASE WHEN a > 1 THEN 3 ELSE 4 END;
END;
CREATE TABLE a$b (id integer, list integer[] DEFAULT '{1}');
CREATE RULE doubled AS ON INSERT TO a$b DO ALSO (SELECT 1; SELECT 2);
/* outer /* inner; */ ; */
SELECT E'it\\'s;', U&"oid" FROM (SELECT 1 AS oid) q;
DO $do$ BEGIN EXECUTE 'CREATE TABLE made (id integer)'; END $do$;`
      })
      assert.deepStrictEqual(yield* sql`SELECT one(), two(), three(2), (SELECT count(*)::int FROM made)`.values, [
        [1, "$$;", 3, 0]
      ])
    }).pipe(Effect.provide(Layer.unwrapScoped(Effect.map(postgres.url, (url) =>
      Database.layerFrom({ environment: "test", url }))))))
})

describe("Migrations on SQLite", () => {
  it.live("understands triggers, and what SQLite quotes", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* run({
        "1_trigger": `
CREATE TABLE [a;b] (\`c;d\` integer);
CREATE TEMP TABLE note (n integer);
CREATE TRIGGER counts AFTER INSERT ON [a;b] WHEN NEW.[c;d] > 0 BEGIN
  UPDATE [a;b] SET [c;d] = CASE WHEN [c;d] > 5 THEN 5 ELSE 1 END;
  DELETE FROM [a;b] WHERE [c;d] = 1;
END;
INSERT INTO [a;b] VALUES (9);`
      })
      assert.deepStrictEqual(yield* sql`SELECT * FROM [a;b]`.values, [[5]])
    }).pipe(Effect.provide(Database.layerFrom({ environment: "test", url: ":memory:" }))))
})

describe("Migrations.toTerminal", () => {
  const shown = (isTTY: boolean, environment: Record<string, string | undefined> = {}) =>
    Effect.gen(function*() {
      const text: Array<string> = []
      const stream = Object.assign(new PassThrough(), { isTTY })
      stream.on("data", (chunk) => text.push(String(chunk)))
      for (const [name, value] of Object.entries({ NO_COLOR: undefined, TERM: "xterm", ...environment })) {
        vi.stubEnv(name, value)
      }
      yield* migrationError(run({ ...two, "3_bad": "SELECT nothing" }, { progress: Migrations.toTerminal(stream) }))
      return text.join("").replaceAll(/\d+ ms/g, "1 ms")
    }).pipe(
      Effect.ensuring(Effect.sync(() => vi.unstubAllEnvs())),
      Effect.provide(Database.layerFrom({ environment: "test", url: ":memory:" }))
    )

  it.live("writes one line for each", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* shown(false),
        "✓ applied migration 0001_create_account in 1 ms\n✓ applied migration 0002_fill in 1 ms\n" +
          "✗ migration 3_bad failed after 1 ms\n"
      )
    }))

  it.live("says what runs on a terminal, in colours unless there shall be none", () =>
    Effect.gen(function*() {
      const plain = yield* shown(true, { NO_COLOR: "1" })
      assert.include(
        plain,
        "… applying migration 0001_create_account (1 of 3)\r\u001b[K✓ applied migration 0001_create_account in 1 ms\n"
      )
      assert.notInclude(plain, "\u001b[3")
      assert.include(yield* shown(true), "\u001b[32m✓\u001b[0m applied migration 0002_fill in 1 ms\n")
      assert.notInclude(yield* shown(true, { TERM: "dumb" }), "\u001b[3")
    }))
})
