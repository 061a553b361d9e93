/** A connection comes back with nothing of its borrower on it, whichever way that has used it. */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import type { DatabaseError } from "../src/DatabaseError.js"
import * as Migrations from "../src/Migrations.js"
import { freshDatabase, query } from "./support/postgres.js"

const setup = `
  CREATE TABLE invoice (id int, tenant text);
  CREATE SEQUENCE numbers;
  CREATE SCHEMA elsewhere;
  CREATE FUNCTION enter(tenant text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', tenant, false) $$;
  CREATE PROCEDURE enter_by_call(tenant text) LANGUAGE sql AS $$ SELECT set_config('app.tenant', tenant, false) $$;
  CREATE FUNCTION lower(tenant text, lasting boolean) RETURNS text LANGUAGE sql AS
    $$ SELECT set_config('app.tenant', tenant, NOT lasting) $$;
  CREATE FUNCTION make_temporary() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN CREATE TEMP TABLE left_over (id int); RETURN 1; END $$;
  CREATE FUNCTION fail_with_lock() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_lock(7); RAISE 'no'; END $$;
`

/** What a borrower can leave, by name. A text that begins with `!` fails. */
const leaving: ReadonlyArray<readonly [name: string, text: string]> = [
  ["a setting", "SET app.tenant = 'first'"],
  ["a setting by a function of the server", "SELECT set_config('app.tenant', 'first', false)"],
  ["the same, quoted and commented", "SELECT/* (*/pg_catalog.\"set_config\" -- )\n('app.tenant', 'first', false)"],
  [
    "the same behind a comment that ends with a carriage return",
    "SELECT -- x\r set_config('app.tenant', 'first', false)"
  ],
  ["the same in an INSERT", "INSERT INTO invoice (id, tenant) VALUES (1, set_config('app.tenant', 'first', false))"],
  ["the same in an UPDATE", "UPDATE invoice SET tenant = set_config('app.tenant', 'first', false)"],
  ["the same where it is explained", "EXPLAIN (ANALYZE, COSTS off) SELECT set_config('app.tenant', 'first', false)"],
  ["a function of the application", "SELECT enter('first')"],
  ["one that has the name of the server's", "SELECT public.lower('first', true)"],
  ["a procedure", "CALL enter_by_call('first')"],
  ["an anonymous block", "DO $$ BEGIN PERFORM enter('first'); END $$"],
  ["one of several commands", "SELECT 1; SELECT enter('first'); SELECT 2"],
  ["a search path", "SET search_path TO elsewhere, public"],
  ["a role", "SET ROLE pg_monitor"],
  ["a session's authorization", "SET SESSION AUTHORIZATION pg_monitor"],
  ["the characteristics of later transactions", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
  ["an advisory lock", "SELECT pg_advisory_lock(7)"],
  ["one that was only tried for", "SELECT pg_try_advisory_lock_shared(1, 2)"],
  ["one of a function that has failed", "!SELECT fail_with_lock()"],
  ["a temporary table", "CREATE TEMP TABLE left_over (id int)"],
  ["one from a query", "SELECT 1 AS id INTO TEMPORARY left_over"],
  ["one by a function", "SELECT make_temporary()"],
  ["one where it is explained", "EXPLAIN ANALYZE CREATE TEMP TABLE left_over AS SELECT 1"],
  ["a prepared statement", "PREPARE left_over AS SELECT 1"],
  ["a prepared statement of a block", "DO $$ BEGIN EXECUTE 'PREPARE left_over AS SELECT 1'; END $$"],
  ["a cursor", "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1"],
  ["a channel", "LISTEN left_over"],
  ["a sequence's number", "SELECT nextval('numbers')"]
]

const look = `
  SELECT coalesce(current_setting('app.tenant', true), '') AS tenant, current_setting('search_path') AS path,
    current_user = session_user AS self, current_setting('default_transaction_read_only') AS readonly,
    (SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
    (SELECT count(*)::int FROM pg_class WHERE relname = 'left_over') AS temporary,
    (SELECT count(*)::int FROM pg_prepared_statements WHERE from_sql) AS prepared,
    (SELECT count(*)::int FROM pg_cursors WHERE is_holdable) AS cursors,
    (SELECT count(*)::int FROM pg_listening_channels()) AS channels,
    NOT lastval_is_known() AS sequences`

const lastval = `
  CREATE FUNCTION lastval_is_known() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN PERFORM lastval(); RETURN true; EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN false; END $$`

const clean = {
  tenant: "",
  path: "\"$user\", public",
  self: true,
  readonly: "off",
  locks: 0,
  temporary: 0,
  prepared: 0,
  cursors: 0,
  channels: 0,
  sequences: true
}

type Run = (db: Database.Service, text: string) => Effect.Effect<unknown, SqlError | DatabaseError>

const unsafe: Run = (db, text) => db.sql.unsafe(text)
const session: Run = (db, text) => db.session(db.sql.unsafe(text))

const isSingle = (text: string) => !/^(?!DO).*;/.test(text)
const returnsRows = (text: string) => isSingle(text) && /^!?(?:SELECT(?!.*INTO)|INSERT|UPDATE|EXPLAIN)/.test(text)

/** The ways to use a connection, and the texts that can be run in them. */
const ways: ReadonlyArray<readonly [name: string, run: Run, accepts: (text: string) => boolean]> = [
  ["outside of a session", unsafe, (text) => !text.startsWith("DECLARE")],
  ["in a session", session, () => true],
  ["in a nested session", (db, text) => db.session(db.session(db.sql.unsafe(text))), () => true],
  ["in a transaction of @effect/sql", (db, text) => db.sql.withTransaction(db.sql.unsafe(text)), () => true],
  [
    "by a handle",
    (db, text) =>
      Effect.scoped(
        Effect.flatMap(db.acquireSession(), (handle) => Effect.zipRight(handle.run(db.sql.unsafe(text)), handle.commit))
      ),
    () => true
  ],
  [
    "in a session that is rolled back",
    (db, text) => Effect.ignore(db.session(Effect.zipRight(db.sql.unsafe(text), Effect.fail("no")))),
    () => true
  ],
  [
    "on a reserved connection",
    (db, text) =>
      Effect.scoped(Effect.flatMap(db.sql.reserve, (reserved) => reserved.executeUnprepared(text, [], undefined))),
    (text) => !text.startsWith("DECLARE")
  ],
  ["as values", (db, text) => db.sql.unsafe(text).values, returnsRows],
  ["as the server gives it", (db, text) => db.sql.unsafe(text).raw, returnsRows],
  ["as a stream", (db, text) => Stream.runDrain(db.sql.unsafe(text).stream), returnsRows],
  ["as a stream of a session", (db, text) => db.session(Stream.runDrain(db.sql.unsafe(text).stream)), returnsRows]
]

describe("what a borrower leaves", () => {
  for (const [way, run, accepts] of ways) {
    it.scopedLive(`${way} does not reach the next one`, () =>
      Effect.gen(function*() {
        const url = yield* freshDatabase
        yield* query(url, setup)
        yield* query(url, lastval)
        const db = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
        const { sql } = db
        for (const [name, given] of leaving) {
          const text = given.replace(/^!/, "")
          if (!accepts(text)) {
            continue
          }
          for (const next of ["statement", "session", "stream", "idle"]) {
            const ran = yield* Effect.either(run(db, text))
            assert.strictEqual(
              ran._tag,
              given.startsWith("!") && !way.includes("rolled back") ? "Left" : "Right",
              `${name}: ${ran._tag === "Left" ? String(ran.left) : ""}`
            )
            if (next === "idle") {
              yield* Effect.sleep("25 millis")
            }
            const found = next === "session"
              ? yield* db.session(sql.unsafe(look))
              : next === "stream"
              ? Array.from(yield* Stream.runCollect(sql.unsafe(look).stream))
              : yield* sql.unsafe(look)
            assert.deepStrictEqual([...found], [clean], `${name}, then a ${next}`)
          }
        }
        // It was one connection all the time.
        assert.strictEqual((yield* db.poolStats).created, 1)
      }), 120_000)
  }

  it.scopedLive("is not that of a migration, whose own view may do what its text does not say", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const loader = Migrations.fromRecord({
        "0001_functions": setup,
        "0002_view": "CREATE VIEW entering AS SELECT enter('first') AS tenant",
        "0003_table": "INSERT INTO invoice SELECT 1, tenant FROM entering"
      })
      yield* Effect.provideService(Migrations.run({ loader }), Database.Database, db)
      const rows = yield* db.sql`SELECT tenant, coalesce(current_setting('app.tenant', true), '') AS now FROM invoice`
      assert.deepStrictEqual([...rows], [{ tenant: "first", now: "" }])
    }))

  it.scopedLive("does not reach a COPY, and what a COPY leaves reaches nobody", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, setup)
      const db = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const now = "SELECT 'now ' || coalesce(current_setting('app.tenant', true), '') AS tenant"
      const enter = db.sql.unsafe("SELECT enter('first')")
      const copied = (text: string) =>
        Stream.runFold(db.copyTo(text), "", (all, part) => all + Buffer.from(part).toString())
      yield* enter
      assert.strictEqual(yield* copied(now), "now \n")
      assert.strictEqual(yield* copied("SELECT enter('first')"), "first\n")
      assert.deepStrictEqual([...(yield* db.sql.unsafe(now))], [{ tenant: "now " }])
      yield* db.session(copied("SELECT enter('first')"))
      assert.deepStrictEqual([...(yield* db.session(db.sql.unsafe(now)))], [{ tenant: "now " }])
      yield* enter
      yield* db.sql.unsafe(
        "ALTER TABLE invoice ALTER tenant SET DEFAULT coalesce(current_setting('app.tenant', true), '')"
      )
      yield* enter
      yield* db.copyFrom("invoice", ["id"])(Stream.make([1]))
      assert.deepStrictEqual([...(yield* db.sql`SELECT tenant FROM invoice`)], [{ tenant: "" }])
    }))

  it.scopedLive("is not what random() gives", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const db = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0 })
      const random = Effect.map(db.sql<{ readonly n: number }>`SELECT random() AS n`, ([{ n }]) => n)
      const seen = new Set<number>()
      for (let i = 0; i < 10; i++) {
        yield* db.sql`SELECT setseed(0.5)`
        seen.add(yield* random)
      }
      assert.strictEqual(seen.size, 10)
    }))

  it.scopedLive("does not reach another tenant's session under concurrency", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, setup)
      const db = yield* Database.make({ environment: "test", url, poolSize: 4, poolMaxOverflow: 2 })
      const tenant = Effect.map(
        db.sql<{ readonly tenant: string }>`SELECT coalesce(current_setting('app.tenant', true), '') AS tenant`,
        ([row]) => row.tenant
      )
      yield* Effect.forEach(
        Array.from({ length: 64 }, (_, i) => `tenant ${i}`),
        (name, i) =>
          Effect.repeatN(
            db.session(Effect.gen(function*() {
              assert.strictEqual(yield* tenant, "")
              yield* i % 2 === 0
                ? db.sql`SELECT enter(${name})`
                : db.sql`SELECT set_config('app.tenant', ${name}, false)`
              assert.strictEqual(yield* tenant, name)
            })),
            5
          ),
        { concurrency: "unbounded" }
      )
    }), 240_000)

  it.scopedLive("unseen, by a trigger, is cleaned with always", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, setup)
      yield* query(
        url,
        "CREATE FUNCTION entered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM enter(NEW.tenant); RETURN NEW; END $$"
      )
      yield* query(url, "CREATE TRIGGER entered BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION entered()")
      const db = yield* Database.make({ environment: "test", url, poolSize: 1, poolMaxOverflow: 0, reset: "always" })
      yield* db.sql`INSERT INTO invoice VALUES (1, 'first')`
      assert.deepStrictEqual(
        [...(yield* db.sql`SELECT coalesce(current_setting('app.tenant', true), '') AS tenant`)],
        [{ tenant: "" }]
      )
    }))
})
