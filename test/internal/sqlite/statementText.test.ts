import { describe, it } from "@effect/vitest"
import { assert } from "vitest"
import {
  canRunInTransaction,
  changesConnection,
  isCommit,
  isRelease
} from "../../../src/internal/sqlite/statementText.js"

describe("statementText", () => {
  it("statements that change the connection", () => {
    for (
      const sql of [
        "PRAGMA foreign_keys = OFF",
        "pragma main.cache_size=10",
        "PRAGMA busy_timeout(5000)",
        "-- turn it off\n/* now */ PRAGMA query_only = 1",
        "ATTACH 'x.db' AS x",
        "detach x",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMPORARY VIEW v AS SELECT 1",
        "CREATE TABLE temp.t (a)",
        "CREATE TABLE IF NOT EXISTS \"temp\".t (a)"
      ]
    ) {
      assert.isTrue(changesConnection(sql), sql)
    }
  })

  it("statements that do not change the connection", () => {
    for (
      const sql of [
        "SELECT 1",
        "PRAGMA foreign_keys",
        "PRAGMA table_info(t)",
        "PRAGMA main.foreign_key_check('t')",
        "CREATE TABLE template (a)",
        "INSERT INTO t VALUES ('PRAGMA a = 1')",
        "SELECT 1 -- PRAGMA a = 1",
        "CREATE TABLE t (a DEFAULT (temp.a))"
      ]
    ) {
      assert.isFalse(changesConnection(sql), sql)
    }
  })

  it("statements that commit", () => {
    for (const sql of ["COMMIT", "commit transaction", "END", "-- now\n END TRANSACTION"]) {
      assert.isTrue(isCommit(sql), sql)
    }
    for (const sql of ["SELECT 'COMMIT'", "ROLLBACK", "committed", "RELEASE a"]) {
      assert.isFalse(isCommit(sql), sql)
    }
    assert.isTrue(isRelease("/**/release savepoint a"))
    assert.isFalse(isRelease("SAVEPOINT release"))
  })

  it("statements that can run in a transaction", () => {
    for (
      const sql of [
        "INSERT INTO t VALUES (1)",
        "  update t SET a = 1",
        "CREATE TABLE vacuumed (a)",
        "/* begin */ DELETE FROM t"
      ]
    ) {
      assert.isTrue(canRunInTransaction(sql), sql)
    }
    for (const sql of ["BEGIN IMMEDIATE", "-- tidy up\nVACUUM", "/**/pragma journal_mode = DELETE", "/* unfinished"]) {
      assert.strictEqual(canRunInTransaction(sql), sql === "/* unfinished", sql)
    }
  })
})
