import { describe, it } from "@effect/vitest"
import { assert } from "vitest"
import {
  canRunInTransaction,
  createsTemporary,
  isCommit,
  isRelease
} from "../../../src/internal/sqlite/statementText.js"

describe("statementText", () => {
  it("statements that make something temporary", () => {
    for (
      const sql of [
        "CREATE TEMP TABLE t (a)",
        "-- a view\nCREATE TEMPORARY VIEW v AS SELECT 1",
        "CREATE TABLE temp.t (a)",
        "CREATE TABLE IF NOT EXISTS \"temp\".t (a)"
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
})
