/**
 * The settings of a database, without what may be secret, and the process that uses it.
 */
import * as Duration from "effect/Duration"
import { createRequire } from "node:module"
import * as Os from "node:os"
import type { Settings as DatabaseSettings } from "../../../DatabaseConfig.js"
import type { OpenDatabase } from "../../database/opened.js"

/** Names and values, in order. */
export type Settings = ReadonlyArray<readonly [name: string, value: string]>

/** Only these are shown: of all others it is not known whether they hold a secret. */
const shown = [
  "name",
  "environment",
  "poolSize",
  "poolMaxOverflow",
  "poolMin",
  "poolIdleTimeout",
  "poolTimeout",
  "poolRecycle",
  "connectTimeout",
  "connectRetry",
  "statementTimeout",
  "lockTimeout",
  "idleInTransactionTimeout",
  "silence",
  "hostRecheck",
  "shutdownTimeout",
  "healthTimeout",
  "slowStatement",
  "preparedStatements",
  "reset",
  "spanParameters"
] as const satisfies ReadonlyArray<keyof DatabaseSettings>

const valueOf = (value: DatabaseSettings[(typeof shown)[number]]): string =>
  Duration.isDuration(value)
    ? Duration.toMillis(value) === Infinity ? "no limit" : Duration.format(value)
    : String(value ?? "the server's")

/** The version of sqlayer. A bundle does not have it, nor, where it is CommonJS, its own URL. */
const ownVersion = (): string => {
  try {
    return createRequire(import.meta.url)("sqlayer/package.json").version
  } catch {
    return "not known"
  }
}

/** Bun and Deno say that they are Node.js too. */
const runtime = (): string => {
  const { bun, deno, node } = process.versions
  return bun !== undefined ? `Bun ${bun}` : deno !== undefined ? `Deno ${deno}` : `Node.js ${node}`
}

export const settingsOf = ({ driver, settings }: OpenDatabase): Settings => [
  ["database", driver.description],
  ...shown.map((name) => [name, valueOf(settings[name])] as const)
]

export const processSettings = (): Settings => [
  ["process", String(process.pid)],
  ["host", Os.hostname()],
  ["runtime", runtime()],
  ["sqlayer", ownVersion()]
]
