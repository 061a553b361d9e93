import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import {
  endsTransactionAndGoesOn,
  harmlessFunctions,
  isRollback,
  mayCommit,
  mayCommitInPart,
  mayWrite
} from "../../../src/internal/postgres/statementText.js"
import { query, url } from "../../support/postgres.js"

/** What each predicate says of texts. */
const table = (
  name: string,
  predicate: (text: string) => boolean,
  texts: { readonly yes: ReadonlyArray<string>; readonly no: ReadonlyArray<string> }
): void => {
  describe(`whether ${name}`, () => {
    it("says yes", () => {
      for (const text of texts.yes) {
        assert.isTrue(predicate(text), text)
      }
    })
    it("says no", () => {
      for (const text of texts.no) {
        assert.isFalse(predicate(text), text)
      }
    })
  })
}

table("a statement may write", mayWrite, {
  yes: [
    "INSERT INTO t VALUES (1)",
    "update t set a = 1",
    "DELETE FROM t",
    "MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING",
    "WITH d AS (DELETE FROM t RETURNING a) SELECT a FROM d",
    "WITH RECURSIVE d (a) AS (INSERT INTO t VALUES (1) RETURNING a) SELECT a FROM d",
    "SELECT 1; INSERT INTO t VALUES (1)",
    "SELECT * INTO s FROM t",
    "SELECT mine()",
    "SELECT mine (1)",
    "SELECT \"mine\"()",
    "SELECT \"COUNT\"(1)",
    "SELECT other.count(1)",
    "SELECT \"select\"()",
    "SELECT nextval('s')",
    "SELECT setval('s', 1)",
    "SELECT pg_advisory_lock(1)",
    "SELECT set_config('a.b', '1', false)",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_terminate_backend(1)",
    "SELECT lo_create(0)",
    "SELECT dblink_exec('', '')",
    "SELECT a FROM t FOR UPDATE",
    "SELECT a FROM t FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT a FROM t FOR SHARE",
    "SELECT a FROM t FOR /* a */ KEY SHARE",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1",
    "CALL p()",
    "DO $$ BEGIN END $$",
    "EXECUTE prepared",
    "PREPARE p AS INSERT INTO t VALUES (1)",
    "COPY t TO STDOUT",
    "CREATE TABLE t (a INT)",
    "VACUUM",
    "COMMIT",
    "END",
    "PREPARE TRANSACTION 'a'",
    "ROLLBACK PREPARED 'a'",
    "COMMIT PREPARED 'a'",
    "NOTIFY a",
    "TRUNCATE t",
    "LOCK TABLE t",
    "(SELECT 1) UNION (SELECT mine())",
    "SELECT '' /* ' */ , mine()",
    "SELECT E'\\'', mine()",
    "SELECT $a$ $b$ $a$, mine()",
    "SELECT U&\"mine\"()",
    "DECLARE c CURSOR FOR SELECT 1",
    "something that is not known"
  ],
  no: [
    "",
    ";",
    "-- nothing",
    "SELECT 1",
    "  /* a /* b */ c */ select 1",
    "-- INSERT\nSELECT 1",
    "(SELECT 1)",
    "((SELECT 1) UNION ALL (VALUES (2)))",
    "SELECT count(*) FROM t WHERE a IN (1, 2) AND EXISTS (SELECT 1)",
    "SELECT pg_catalog.count(*) FROM t",
    "SELECT 'INSERT INTO t', \"update\" FROM \"delete\"",
    "SELECT $$ INSERT $$, E'it\\'s', U&'x', 'it''s' FROM t",
    "SELECT a::numeric(10, 2), CAST(a AS varchar(3)), a::timestamp(3) FROM t",
    "WITH c (a, b) AS (SELECT 1, 2) SELECT a FROM c",
    "WITH c (a, b) AS MATERIALIZED (SELECT 1, 2), d (e) AS NOT MATERIALIZED (SELECT 1) SELECT a FROM c, d",
    "SELECT sum(a) OVER (PARTITION BY b ORDER BY c) FROM t",
    "SELECT sum(a) FILTER (WHERE b) FROM t GROUP BY ROLLUP (b)",
    "SELECT now(), CURRENT_TIMESTAMP, random(), gen_random_uuid()",
    "VALUES (1), (2)",
    "TABLE t",
    "SHOW ALL",
    "EXPLAIN SELECT 1",
    "FETCH 5 FROM c",
    "MOVE 5 IN c",
    "CLOSE c",
    "BEGIN",
    "START TRANSACTION READ ONLY",
    "ROLLBACK",
    "ROLLBACK TO SAVEPOINT a",
    "SAVEPOINT a",
    "RELEASE a",
    "SET a.b = 1",
    "RESET ALL",
    "LISTEN a",
    "UNLISTEN *",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "SELECT x.analyze, x.share FROM x",
    "SELECT substring(a FROM 2 FOR 3) FROM t",
    "BEGIN; SELECT 1; ROLLBACK"
  ]
})

table("a text may commit an open transaction", mayCommit, {
  yes: [
    "COMMIT",
    "/* a */ commit work",
    "END",
    "COMMIT AND CHAIN",
    "INSERT INTO t VALUES (1); COMMIT",
    "ROLLBACK; COMMIT",
    "PREPARE TRANSACTION 'a'",
    "SELECT 1;; END"
  ],
  no: [
    "",
    "INSERT INTO t VALUES (1)",
    "SELECT 'COMMIT'",
    "SELECT \"commit\"",
    "-- COMMIT",
    "/* ; COMMIT */",
    "SELECT $$ ; COMMIT ; $$",
    "CALL p()",
    "DO $$ BEGIN COMMIT; END $$",
    "PREPARE p AS SELECT 1",
    "ROLLBACK",
    "SELECT CASE WHEN a THEN 1 END"
  ]
})

table("a text may commit a part of itself", mayCommitInPart, {
  yes: ["CALL p()", "DO $$ BEGIN COMMIT; END $$", "BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1/0", "END"],
  no: ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1); SELECT 1/0", "SELECT 1", "BEGIN"]
})

table("a text is nothing but a rollback", isRollback, {
  yes: [
    "ROLLBACK",
    "rollback;",
    ";; Abort ;",
    "/* a */ ROLLBACK -- b",
    "ROLLBACK WORK",
    "ABORT TRANSACTION",
    "ROLLBACK AND NO CHAIN",
    "rollback /* ; insert */ work and no chain"
  ],
  no: [
    "",
    "ROLLBACK; SELECT 1",
    "ROLLBACK; ROLLBACK",
    "ROLLBACK AND CHAIN",
    "ROLLBACK WORK AND CHAIN",
    "ABORT; INSERT INTO t VALUES (1)",
    "ROLLBACK TO a",
    "ROLLBACK TO SAVEPOINT a",
    "ROLLBACK PREPARED 'a'",
    "\"rollback\"",
    "'rollback'",
    "COMMIT",
    "rollback_all()"
  ]
})

table("a text ends its transaction and does more", endsTransactionAndGoesOn, {
  yes: [
    "ROLLBACK; INSERT INTO t VALUES (1)",
    "abort; select 1",
    "COMMIT; SELECT 1",
    "/* a */ end; -- b\n select 1",
    "ROLLBACK AND CHAIN",
    "COMMIT WORK AND CHAIN",
    "SELECT 1; ROLLBACK; SELECT 2",
    "ROLLBACK; BEGIN"
  ],
  no: [
    "ROLLBACK",
    "ROLLBACK;",
    "SELECT 1; ROLLBACK",
    "ROLLBACK AND NO CHAIN",
    "ROLLBACK TO a; SELECT 1",
    "ROLLBACK WORK TO SAVEPOINT a; SELECT 1",
    "SELECT 'ROLLBACK'; SELECT 1",
    "COMMIT",
    "SELECT 1; SELECT 2"
  ]
})

/** Volatile functions that only tell a time, a random value, a size or a state, or that wait. */
const volatile = new Set(
  ("clock_timestamp current_query timeofday random gen_random_uuid pg_sleep pg_sleep_for pg_sleep_until pg_database_size " +
    "pg_indexes_size pg_relation_size pg_table_size pg_tablespace_size pg_total_relation_size pg_is_in_recovery " +
    "pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_current_wal_lsn pg_xact_status")
    .split(" ")
)

describe("the functions that are taken for harmless", () => {
  it.live("are the server's, and volatile only where that is known to be without an effect", () =>
    Effect.gen(function*() {
      const found = yield* query(
        url(),
        "SELECT proname AS name, bool_or(provolatile = 'v') AS volatile FROM pg_proc " +
          "WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname"
      )
      const known = new Map<string, boolean>(found.map(({ name, volatile }) => [name, volatile]))
      const missing = Array.from(harmlessFunctions).filter((name) => !known.has(name))
      assert.deepStrictEqual(missing, [])
      const unexpected = Array.from(harmlessFunctions).filter((name) => known.get(name) === true && !volatile.has(name))
      assert.deepStrictEqual(unexpected, [])
      assert.deepStrictEqual(Array.from(volatile).filter((name) => !harmlessFunctions.has(name)), [])
    }))

  it("are remembered by text, however many there are", () => {
    for (let i = 0; i < 3_000; i++) {
      assert.isFalse(mayWrite(`SELECT ${i}`))
      assert.isTrue(mayWrite(`SELECT mine(${i})`))
    }
    const long = `SELECT 1 /* ${"x".repeat(20_000)} */`
    assert.isFalse(mayWrite(long))
    assert.isFalse(mayWrite(long))
  })

  it("take time in proportion to the text", () => {
    const started = performance.now()
    for (const part of ["/*", "*/", "'", "$a$", "\"", "(", ";", "--", "a ", "E'\\", "with a ("]) {
      mayWrite(`SELECT ${part.repeat(20_000)}`)
      mayCommit(part.repeat(20_000))
    }
    assert.isBelow(performance.now() - started, 20_000)
  })
})
