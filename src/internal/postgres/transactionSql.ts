/**
 * The SQL that begins a transaction and applies its options.
 */
import * as Duration from "effect/Duration"
import type { BeginOptions } from "../driver.js"
import type { Step } from "./exchange.js"
import { Pg } from "./protocol/pg.js"

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

/** Settings that are set with each BEGIN, since they could not be sent at start-up. */
export type BeginSettings = ReadonlyArray<readonly [name: string, value: string]>

/**
 * BEGIN, `defaults` and the transaction's timeouts, as steps that are sent ahead of its first statement. The defaults are
 * settings that could not be sent at start-up.
 */
export const beginSteps = (options: BeginOptions, defaults: BeginSettings = []): Array<Step> => {
  const steps: Array<Step> = [{ text: beginSql(options), beginsTransaction: true }]
  for (const [name, value] of defaults) {
    // Unlike set_config this is no query, so that SET TRANSACTION may still follow.
    steps.push({ text: `SET LOCAL ${name} = ${Pg.escapeLiteral(value)}` })
  }
  if (options.statementTimeout !== undefined) {
    steps.push({ text: timeoutSql("statement_timeout", options.statementTimeout) })
  }
  if (options.lockTimeout !== undefined) {
    steps.push({ text: timeoutSql("lock_timeout", options.lockTimeout) })
  }
  for (const values of settingsOf(options)) {
    steps.push({ text: "SELECT pg_catalog.set_config($1, $2, true)", values })
  }
  return steps
}

/** The settings of a transaction. The role is the last, since it may not be allowed to change the others. */
const settingsOf = ({ role, settings }: BeginOptions): Array<readonly [name: string, value: string]> => [
  ...Object.entries(settings ?? {}),
  ...(role === undefined ? [] : [["role", role] as const])
]

const quoteSetting = (name: string): string => name.split(".").map((part) => Pg.escapeIdentifier(part)).join(".")

/** Applies the settings and the role of the options in an open transaction. Empty if there are none. */
export const settingsSql = (options: BeginOptions): string =>
  settingsOf(options).map(([name, value]) =>
    `; SELECT pg_catalog.set_config(${Pg.escapeLiteral(name)}, ${Pg.escapeLiteral(value)}, true)`
  ).join("")

/** Resets the settings and the role of the options. */
export const resetSettingsSql = ({ role, settings }: BeginOptions): string =>
  [
    ...(role === undefined ? [] : ["RESET ROLE"]),
    ...Object.keys(settings ?? {}).map((name) => `RESET ${quoteSetting(name)}`)
  ]
    .map((command) => `; ${command}`).join("")

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
