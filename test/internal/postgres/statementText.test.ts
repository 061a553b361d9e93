import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import {
  endsTransactionAndGoesOn,
  harmlessFunctions,
  isRollback,
  leavesState,
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

table("a text may leave something on its connection", leavesState, {
  yes: [
    "SELECT set_config('app.tenant', $1, false)",
    "select set_config('a', 'b', $1)",
    "SELECT set_config('a','b', false or true)",
    "select pg_catalog.\"set_config\"('a','b',false)",
    "SELECT /* x */ set_config -- (\n ('a', 'b', false)",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_lock(1, 2)",
    "select setseed(0.5)",
    "CALL p()",
    "DO $$ begin end $$",
    "LOAD 'x'",
    "create temp table t (a int)",
    "create table pg_temp.t (a int)",
    "select 1 into temp t",
    "with x as (select 1) select * into temporary table t from x",
    "declare c cursor with hold for select 1",
    "select my_function(1)",
    "select public.lower('a')",
    "explain analyze select set_config('a','b',false)",
    "explain (analyze, verbose) create temp table x as select 1",
    "EXPLAIN ANALYZE EXECUTE p",
    "copy (select f(1)) to stdout",
    "set search_path to x",
    "set session characteristics as transaction read only",
    "SET SESSION a.b = 'x'",
    "set \"local\" to 1",
    "reset all",
    "discard all",
    "listen x",
    "prepare p as select 1",
    "execute p",
    "select 1; select set_config('a','b',false)",
    "insert into t (a) values (f(1))",
    "update t set a = app.f(a)",
    "select 1 -- x\rset_config('a','b',false)",
    "select -- x\r set_config('a','b',false)",
    "select E'\\'' || set_config('a', E'\\'', false)",
    "select E'a'\n'\\'' , set_config('a','b',false)",
    "select '\\' , set_config('a', 'b', false) --'",
    "select nextval('s')",
    "select distinct on (a) f(b) from t",
    "SELECT f (1)",
    "select \"F\"(1)",
    "select U&\"\\0073et_config\"('a','b',false)",
    "delete from t where set_config('a', '1', false) = '1'",
    "select * from t order by set_config('a', id::text, false)",
    "select (set_config('a','b',false))",
    "values (set_config('a','b',false))",
    "select x from (select 1) t(x), f(x)",
    "table t; set a.b = 1",
    "select/**/set_config/**/('a','b',false)",
    "select set_config(variadic array['a','b'])",
    "create table t as select f(1)",
    "create table t as select * from a join b on f(a.id)",
    "alter table t alter a type int using f(a)",
    "create index on t (f(a))",
    "create extension x",
    "create temporary view v as select 1",
    "refresh materialized view v",
    "select 1 ".repeat(2_000)
  ],
  no: [
    "SELECT 1",
    "select * from t where id = $1 and name in ($2, $3)",
    "INSERT INTO account (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET (b) = ($3) RETURNING (id)",
    "insert into app.t(id) select unnest($1::int[])",
    "INSERT INTO \"T\"(a) values (now())",
    "with x(a) as (select 1) select * from x",
    "update t set a = coalesce($1, a)::numeric(10,2), (b, c) = (1, 2)",
    "delete from t using (values (1)) v(a) where v.a = t.a",
    "SET LOCAL app.tenant = 'x'",
    "set constraints all deferred",
    "set transaction isolation level serializable",
    "SELECT set_config('app.tenant', $1, true)",
    "select pg_catalog.set_config('a', lower($1), TRUE) as x, 1",
    "select pg_advisory_xact_lock(hashtext($1))",
    "explain (analyze, buffers) select lower('x')",
    "explain analyze select 1",
    "COPY t (a, b) FROM STDIN",
    "copy (select a from t) to stdout",
    "truncate t",
    "declare c cursor for select * from t",
    "fetch 10 from c",
    "select 'set_config(''a'', ''b'', false)'",
    "select '\\d+' ~ a from t",
    "select $$ set_config('a','b',false) $$",
    "-- set_config('a','b',false)\nselect 1",
    "/* DO $$ */ select 1",
    "MERGE INTO t USING s ON (t.a = s.a) WHEN NOT MATCHED THEN INSERT (a) VALUES (s.a)",
    "select count(*) filter (where a), row_number() over (partition by b) from t",
    "(select 1) union (select 2)",
    "",
    "BEGIN",
    "SELECT x::vector(3)",
    "select a from t for update",
    "select * from json_to_recordset($1) as r(a int)",
    "select * from unnest($1::int[]) with ordinality u(a, n)",
    "INSERT INTO t (a) SELECT * FROM unnest($1::text[]) RETURNING *",
    "LOCK TABLE t",
    "INSERT INTO t AS x (a) VALUES (1)",
    "select * from \"My Table\" t where t.\"set_config\" = 1",
    "insert into t (note) values ('call p(); do $$ $$; set x = 1')",
    "SELECT pg_try_advisory_xact_lock(1), pg_notify('a', 'b'), currval('s')",
    "select (array_agg(a))[1] from t group by b having count(*) > 1",
    "update t set (a, b) = (select 1, 2) where c = any($1) returning *",
    "with moved as (delete from t returning *) insert into u (a) select a from moved",
    "CREATE TABLE IF NOT EXISTS app.t (id int PRIMARY KEY, n numeric(10, 2) CHECK (n > 0), UNIQUE (n), FOREIGN KEY (n) REFERENCES u (n))",
    "CREATE TABLE copied AS SELECT lower(a) FROM t",
    "CREATE INDEX CONCURRENTLY ON t USING gin (a) INCLUDE (b)",
    "CREATE UNIQUE INDEX i ON t (lower(a)) WHERE (b)",
    "CREATE OR REPLACE FUNCTION app.f(a int) RETURNS int LANGUAGE sql AS $$ SELECT set_config('a', 'b', false) $$",
    "ALTER TABLE t ADD COLUMN c varchar(10) DEFAULT now()",
    "CREATE TYPE mood AS ENUM ('ok')",
    "UNLISTEN a; CLOSE ALL; DEALLOCATE ALL; NOTIFY a; COMMIT"
  ]
})

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
