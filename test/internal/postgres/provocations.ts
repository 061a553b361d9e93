/**
 * Statements that fail on a real server, each with its SQLSTATE.
 */
export interface Provocation {
  readonly code: string
  readonly statement: string
  readonly params?: ReadonlyArray<unknown>
  /** Runs before it in the same transaction. */
  readonly setup?: string
  /** Cannot run in a transaction. */
  readonly outside?: boolean
}

/** Runs before each setup in the same transaction, and is rolled back with it. */
export const schema = `
  CREATE TABLE account (
    id int PRIMARY KEY, email text UNIQUE, age int CONSTRAINT adult CHECK (age >= 18), code varchar(3),
    name text NOT NULL DEFAULT 'x', during int4range, CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&)
  );
  CREATE TABLE child (account int CONSTRAINT child_account REFERENCES account (id));
  INSERT INTO account (id, email, age, during) VALUES (1, 'a@example.com', 30, '[1,3)');
`

const raise = (body: string) => `DO $$ ${body} $$`

export const provocations: ReadonlyArray<Provocation> = [
  { code: "08P01", statement: "SELECT $1::int + $2::int", params: [1] },
  { code: "0A000", statement: "CREATE TABLE t (a int CHECK (a > (SELECT 1)))" },
  { code: "0LP01", statement: "GRANT SELECT ON SCHEMA public TO PUBLIC" },
  { code: "20000", statement: raise("BEGIN CASE 1 WHEN 2 THEN NULL; END CASE; END") },
  { code: "21000", statement: "SELECT (SELECT generate_series(1, 2))" },
  {
    code: "21000",
    statement: "INSERT INTO account (id) VALUES (5), (5) ON CONFLICT (id) DO UPDATE SET code = 'x'"
  },
  { code: "22001", statement: "INSERT INTO account (id, code) VALUES (2, $1)", params: ["abcdef"] },
  { code: "22003", statement: "SELECT $1::bigint::smallint", params: ["70000"] },
  { code: "22003", statement: "SELECT $1::smallint", params: ["70000"] },
  { code: "22004", statement: "SELECT array_fill(1, NULL)" },
  { code: "22007", statement: "SELECT $1::date", params: ["yesteryear"] },
  { code: "22008", statement: "SELECT $1::date", params: ["2024-13-45"] },
  { code: "22011", statement: "SELECT substring('x' FROM 1 FOR -1)" },
  { code: "22012", statement: "SELECT 1 / $1::int", params: [0] },
  { code: "22013", statement: "SELECT sum(x) OVER (ORDER BY x ROWS -1 PRECEDING) FROM generate_series(1, 2) x" },
  { code: "22014", statement: "SELECT ntile(0) OVER ()" },
  { code: "22016", statement: "SELECT nth_value(1, 0) OVER ()" },
  { code: "2201B", statement: "SELECT 'x' ~ $1", params: ["("] },
  { code: "2201E", statement: "SELECT ln($1::float8)", params: [-1] },
  { code: "2201F", statement: "SELECT sqrt($1::float8)", params: [-1] },
  { code: "2201G", statement: "SELECT width_bucket(1, 2, 3, 0)" },
  { code: "2201W", statement: "SELECT 1 LIMIT $1", params: [-1] },
  { code: "2201X", statement: "SELECT 1 OFFSET $1", params: [-1] },
  { code: "22021", statement: "SELECT $1::text", params: ["a\0b"] },
  { code: "22023", statement: "SELECT set_config('work_mem', $1, true)", params: ["a lot"] },
  { code: "22025", statement: "SELECT 'ab' LIKE $1", params: ["a\\"] },
  {
    code: "2200H",
    setup: "CREATE SEQUENCE s MAXVALUE 2 START 2; SELECT nextval('s')",
    statement: "SELECT nextval('s')"
  },
  { code: "2202E", statement: "SELECT get_byte('ab', $1)", params: [10] },
  { code: "2202G", statement: "SELECT 1 FROM account TABLESAMPLE system (1) REPEATABLE (NULL)" },
  { code: "2202H", statement: "SELECT 1 FROM account TABLESAMPLE system (1000)" },
  { code: "22030", statement: "SELECT json_object('a': 1, 'a': 2 WITH UNIQUE KEYS)" },
  { code: "22033", statement: "SELECT jsonb_path_query('[1]', 'strict $[5]')" },
  { code: "22034", statement: "SELECT JSON_VALUE(jsonb '[1, 2]', '$[*]' ERROR ON ERROR)" },
  { code: "22035", statement: "SELECT JSON_VALUE(jsonb '{}', '$.a' ERROR ON EMPTY)" },
  { code: "22038", statement: "SELECT jsonb_path_query('[1, 2]', '$[*] + $[*]')" },
  { code: "22039", statement: "SELECT jsonb_path_query('{}', 'strict $[0]')" },
  { code: "2203A", statement: "SELECT jsonb_path_query('{}', 'strict $.a')" },
  { code: "2203B", statement: "SELECT jsonb_path_query('[true]', '-$[0]')" },
  { code: "2203F", statement: "SELECT JSON_VALUE(jsonb '{}', '$' ERROR ON ERROR)" },
  { code: "22P02", statement: "SELECT $1::int", params: ["not a number"] },
  { code: "22P02", statement: "SELECT $1::uuid", params: ["not a uuid"] },
  { code: "22P02", statement: "SELECT $1::jsonb", params: ["{not json"] },
  { code: "22P02", statement: "SELECT $1::int[]", params: ["{1,"] },
  { code: "22P02", setup: "CREATE TYPE mood AS ENUM ('ok')", statement: "SELECT $1::mood", params: ["sad"] },
  { code: "22P05", statement: "SELECT convert_to($1, 'latin1')", params: ["語"] },
  {
    code: "23001",
    setup: "CREATE TABLE r (a int REFERENCES account ON DELETE RESTRICT); INSERT INTO r VALUES (1)",
    statement: "DELETE FROM account"
  },
  { code: "23502", statement: "INSERT INTO account (id, name) VALUES (2, $1)", params: [null] },
  { code: "23503", statement: "INSERT INTO child VALUES ($1)", params: [99] },
  { code: "23503", setup: "INSERT INTO child VALUES (1)", statement: "DELETE FROM account" },
  { code: "23505", statement: "INSERT INTO account (id) VALUES ($1)", params: [1] },
  { code: "23505", statement: "INSERT INTO account (id, email) VALUES (2, $1)", params: ["a@example.com"] },
  { code: "23514", statement: "INSERT INTO account (id, age) VALUES (2, $1)", params: [3] },
  {
    code: "23514",
    setup: "CREATE DOMAIN adult_age AS int CHECK (value >= 18)",
    statement: "SELECT $1::adult_age",
    params: [3]
  },
  {
    code: "23514",
    setup: "CREATE TABLE p (a int) PARTITION BY LIST (a)",
    statement: "INSERT INTO p VALUES ($1)",
    params: [3]
  },
  { code: "23P01", statement: "INSERT INTO account (id, during) VALUES (2, '[2,4)')" },
  {
    code: "24000",
    setup: "DECLARE c CURSOR FOR SELECT * FROM account",
    statement: "UPDATE account SET age = 20 WHERE CURRENT OF c"
  },
  { code: "25001", statement: "VACUUM" },
  { code: "25006", setup: "SET TRANSACTION READ ONLY", statement: "DELETE FROM child" },
  { code: "25P01", statement: "SAVEPOINT s", outside: true },
  { code: "26000", statement: "EXECUTE nothing" },
  { code: "2BP01", setup: "CREATE VIEW v AS SELECT id FROM account", statement: "DROP TABLE account" },
  { code: "2D000", statement: raise("BEGIN COMMIT; END") },
  { code: "2F005", setup: "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN END'", statement: "SELECT f()" },
  { code: "34000", statement: "FETCH nothing" },
  { code: "3B001", statement: "ROLLBACK TO nothing" },
  { code: "3D000", statement: "DROP DATABASE sqlayer_nowhere", outside: true },
  { code: "3F000", statement: "CREATE TABLE sqlayer_nowhere.t ()" },
  {
    code: "42501",
    setup: "CREATE ROLE sqlayer_nobody; SET LOCAL ROLE sqlayer_nobody",
    statement: "SELECT * FROM account"
  },
  { code: "42601", statement: "SELEKT 1" },
  { code: "42601", statement: "SELECT 1; SELECT $1", params: ["x"] },
  { code: "42602", statement: "SELECT $1::regclass", params: ["a.b.c.d.\""] },
  { code: "42701", statement: "CREATE TABLE t (a int, a int)" },
  { code: "42702", statement: "SELECT id FROM account a, account b" },
  { code: "42703", statement: "SELECT emial FROM account" },
  { code: "42704", statement: "SELECT 1::nothing" },
  { code: "42710", statement: "CREATE EXTENSION plpgsql" },
  { code: "42712", statement: "SELECT 1 FROM account a, account a" },
  {
    code: "42723",
    setup: "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    statement: "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
  },
  {
    code: "42725",
    setup: "CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';" +
      "CREATE FUNCTION f(text, int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    statement: "SELECT f('1', '1')"
  },
  { code: "42803", statement: "SELECT id, count(*) FROM account GROUP BY age" },
  { code: "42804", statement: "SELECT CASE WHEN 1 THEN 2 END" },
  { code: "42809", setup: "CREATE VIEW v AS SELECT 1 AS a", statement: "DROP TABLE v" },
  { code: "42830", statement: "CREATE TABLE t (a int REFERENCES account (age))" },
  { code: "42846", statement: "SELECT 1::int::date" },
  { code: "42883", statement: "SELECT nothing(1)" },
  { code: "42883", statement: "SELECT 1 + 'a'::text" },
  {
    code: "428C9",
    setup: "CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY)",
    statement: "INSERT INTO t VALUES (1)"
  },
  { code: "42939", statement: "CREATE SCHEMA pg_mine" },
  { code: "42P01", statement: "SELECT * FROM nothing" },
  { code: "42P02", statement: "SELECT $3" },
  { code: "42P03", setup: "DECLARE c CURSOR FOR SELECT 1", statement: "DECLARE c CURSOR FOR SELECT 1" },
  { code: "42P04", statement: "CREATE DATABASE template1", outside: true },
  { code: "42P05", setup: "PREPARE sqlayer_p AS SELECT 1", statement: "PREPARE sqlayer_p AS SELECT 1" },
  { code: "42P06", statement: "CREATE SCHEMA public" },
  { code: "42P07", statement: "CREATE TABLE account ()" },
  { code: "42P08", statement: "INSERT INTO account (id, email) VALUES ($1, $1)", params: [1] },
  { code: "42P10", statement: "INSERT INTO account (id) VALUES (2) ON CONFLICT (age) DO NOTHING" },
  { code: "42P13", statement: "CREATE FUNCTION f(a int DEFAULT 1, b int) RETURNS int LANGUAGE sql AS 'SELECT 1'" },
  { code: "42P16", statement: "CREATE TABLE t (a int PRIMARY KEY, b int PRIMARY KEY)" },
  { code: "42P17", statement: "CREATE INDEX ON account ((random()))" },
  { code: "42P18", statement: "SELECT $1 IS NULL", params: ["x"] },
  { code: "42P19", statement: "WITH RECURSIVE r AS (SELECT 1 EXCEPT SELECT * FROM r) SELECT * FROM r" },
  { code: "42P20", statement: "SELECT 1 FROM account WHERE row_number() OVER () = 1" },
  { code: "42P21", statement: "SELECT 'a' COLLATE \"C\" < 'b' COLLATE \"POSIX\"" },
  {
    code: "44000",
    setup: "CREATE VIEW v AS SELECT * FROM account WHERE age > 50 WITH CHECK OPTION",
    statement: "INSERT INTO v (id, age) VALUES (2, $1)",
    params: [20]
  },
  { code: "54000", statement: "SELECT repeat('x', 2000000000)" },
  {
    code: "54001",
    setup: "SET LOCAL max_stack_depth = '100kB';" +
      "CREATE FUNCTION f(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN f(n + 1); END'",
    statement: "SELECT f(1)"
  },
  { code: "54011", statement: `CREATE TABLE t (${Array.from({ length: 1700 }, (_, i) => `c${i} int`).join(", ")})` },
  {
    code: "54023",
    statement: `SELECT concat_ws(${Array.from({ length: 101 }, () => "1").join(", ")}), lower(${
      Array.from({ length: 101 }, () => "1").join(", ")
    })`
  },
  { code: "55000", statement: "SELECT lastval()", setup: "DISCARD SEQUENCES" },
  {
    code: "55006",
    setup: "DECLARE c CURSOR FOR SELECT * FROM account; FETCH c",
    statement: "DROP TABLE account CASCADE"
  },
  { code: "55P02", statement: "SET max_connections = 5" },
  { code: "58P01", statement: "SELECT pg_read_file($1)", params: ["/sqlayer/nowhere"] },
  { code: "P0001", statement: raise("BEGIN RAISE EXCEPTION 'no funds'; END") },
  { code: "P0002", statement: raise("DECLARE i int; BEGIN SELECT 1 INTO STRICT i WHERE false; END") },
  { code: "P0003", statement: raise("DECLARE i int; BEGIN SELECT generate_series(1, 2) INTO STRICT i; END") },
  { code: "P0004", statement: raise("BEGIN ASSERT false; END") }
]
