/**
 * The SQL that begins a transaction and sets what holds within it.
 */
import * as Duration from "effect/Duration"
import type { BeginOptions } from "../driver.js"
import type { Step } from "./exchange.js"

const isolationLevels = {
  "read uncommitted": "READ UNCOMMITTED",
  "read committed": "READ COMMITTED",
  "repeatable read": "REPEATABLE READ",
  "serializable": "SERIALIZABLE"
} as const

/** The value of a timeout setting. Zero means no limit, so a positive duration is rounded up. */
export const milliseconds = (duration: Duration.Duration): number =>
  Duration.isFinite(duration) ? Math.min(Math.ceil(Duration.toMillis(duration)), 2_147_483_647) : 0

const beginSql = ({ deferrable, isolation, readOnly }: BeginOptions): string => {
  const level = isolation === undefined ? "" : ` ISOLATION LEVEL ${isolationLevels[isolation]}`
  const access = readOnly === undefined ? "" : readOnly ? " READ ONLY" : " READ WRITE"
  return `BEGIN${level}${access}${deferrable === undefined ? "" : deferrable ? " DEFERRABLE" : " NOT DEFERRABLE"}`
}

/** BEGIN and the transaction's timeouts, as steps that are sent ahead of its first statement. */
export const beginSteps = (options: BeginOptions): Array<Step> => {
  const steps: Array<Step> = [{ text: beginSql(options), beginsTransaction: true }]
  if (options.statementTimeout !== undefined) {
    steps.push({ text: timeoutSql("statement_timeout", options.statementTimeout) })
  }
  if (options.lockTimeout !== undefined) {
    steps.push({ text: timeoutSql("lock_timeout", options.lockTimeout) })
  }
  return steps
}

const timeoutSql = (name: string, timeout: Duration.Duration | undefined): string =>
  `SET LOCAL ${name} ${timeout === undefined ? "TO DEFAULT" : `= ${milliseconds(timeout)}`}`

/** Sets both timeouts. One that is not given is reset to its default. */
export const timeoutsSql = (options: BeginOptions): string =>
  `${timeoutSql("statement_timeout", options.statementTimeout)}; ${timeoutSql("lock_timeout", options.lockTimeout)}`

/** Resets the settings that the end of a transaction or `DISCARD ALL` would reset. */
export const resetSql = "RESET ALL; RESET SESSION AUTHORIZATION; RESET ROLE"

/** Selects the constraints that are INITIALLY DEFERRED, as a list for SET CONSTRAINTS; null if there are none. */
export const initiallyDeferredSql =
  "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ') AS names " +
  "FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred"
