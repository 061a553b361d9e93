/**
 * What begins, bounds and ends a transaction, in the server's words.
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

/** Zero is no limit for the server as for us; what is less than a millisecond is not rounded down to it. */
export const milliseconds = (duration: Duration.Duration): number =>
  Duration.isFinite(duration) ? Math.min(Math.ceil(Duration.toMillis(duration)), 2_147_483_647) : 0

const beginText = ({ deferrable, isolation, readOnly }: BeginOptions): string => {
  const level = isolation === undefined ? "" : ` ISOLATION LEVEL ${isolationLevels[isolation]}`
  const access = readOnly === undefined ? "" : readOnly ? " READ ONLY" : " READ WRITE"
  return `BEGIN${level}${access}${deferrable === undefined ? "" : deferrable ? " DEFERRABLE" : " NOT DEFERRABLE"}`
}

/** What begins a transaction, in this order. */
export const beginSteps = (options: BeginOptions): Array<Step> => {
  const steps: Array<Step> = [{ text: beginText(options), begins: true }]
  if (options.statementTimeout !== undefined) {
    steps.push({ text: limitText("statement_timeout", options.statementTimeout) })
  }
  if (options.lockTimeout !== undefined) {
    steps.push({ text: limitText("lock_timeout", options.lockTimeout) })
  }
  return steps
}

const limitText = (name: string, limit: Duration.Duration | undefined): string =>
  `SET LOCAL ${name} ${limit === undefined ? "TO DEFAULT" : `= ${milliseconds(limit)}`}`

export const limitsText = (options: BeginOptions): string =>
  `${limitText("statement_timeout", options.statementTimeout)}; ${limitText("lock_timeout", options.lockTimeout)}`

/** What would end with its transaction, or be cleared from the connection before others get it. */
export const resetText = "RESET ALL; RESET SESSION AUTHORIZATION; RESET ROLE"

/** Those that a transaction begins with as deferred; all others begin as immediate. */
export const initiallyDeferred =
  "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ') AS names " +
  "FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred"
