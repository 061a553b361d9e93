import { describe, it } from "@effect/vitest"
import { assert } from "vitest"
import {
  canRunInTransaction,
  createsTemporary,
  isCommit,
  isRelease,
  parameterCount
} from "../../../src/internal/sqlite/statementText.js"

describe("statementText", () => {
  it("statements that make something temporary", () => {
    for (
      const sql of [
        "CREATE TEMP TABLE t (a)",
        "-- a view\nCREATE TEMPORARY VIEW v AS SELECT 1",
        "CREATE TABLE temp.t (a)",
        "CREATE TABLE IF NOT EXISTS \"temp\".t (a)",
        "CREATE /* only here */ TEMP TABLE t (a)",
        "CREATE TABLE temp -- only here\n . t (a)"
      ]
    ) {
      assert.isTrue(createsTemporary(sql), sql)
    }
    for (const sql of ["CREATE TABLE template (a)", "CREATE TABLE t (a DEFAULT (temp.a))", "SELECT 1"]) {
      assert.isFalse(createsTemporary(sql), sql)
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

  it("how many parameters a statement has", () => {
    for (
      const [sql, count] of [
        ["SELECT 1", 0],
        ["SELECT ?, a FROM t WHERE b = ? AND c IN (?,?)", 4],
        ["SELECT ?3, ?1, ?", 4],
        ["SELECT ?999999999", 32_766],
        ["SELECT '?', \"a?\", [b?], `c?`, 'it''s ?' -- ?\n, ? /* ? */, ?", 2],
        ["SELECT ? /* ?", 1]
      ] as const
    ) {
      assert.strictEqual(parameterCount(sql), count, sql)
    }
  })
})
