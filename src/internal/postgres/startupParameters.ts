/**
 * The parameters of the start-up message, and what is done about those that a pooler refuses.
 *
 * A server accepts every setting. PgBouncer and poolers like it accept those that they track, and refuse the connection
 * for any other one, unless `ignore_startup_parameters` names it.
 */
import type { PostgresTarget, Settings } from "../../DatabaseConfig.js"
import { serverError } from "./pg.js"
import { Pg } from "./protocol/pg.js"
import { milliseconds } from "./transactionSql.js"

export interface StartupParameter {
  readonly name: string
  readonly value: string
  /**
   * `begin`: it is left out, and set with the BEGIN of every transaction. `omit`: it is left out, as nothing relies on it.
   * `fail`: the connection fails, since statements would not mean the same without it.
   */
  readonly ifRefused: "begin" | "omit" | "fail"
  /** What it was configured with, for errors; undefined if it is sqlayer's own. */
  readonly origin: string | undefined
}

/**
 * The formats that the type parsers rely on. The role, the database or the server may have others, so they are always
 * set. 3 is the most that servers before PostgreSQL 12 accept for `extra_float_digits`; since then all values above 0
 * mean the same. `client_encoding` is part of every StartupMessage.
 */
const formats: ReadonlyArray<readonly [name: string, value: string]> = [
  ["DateStyle", "ISO"],
  ["IntervalStyle", "postgres"],
  ["extra_float_digits", "3"]
]

/** The settings for each BEGIN: those that were not sent, and formats that a pooler has accepted without effect. */
export const beginSettings = (
  { withBegin }: SentParameters,
  reported: { readonly get: (name: string) => string | undefined }
): SentParameters["withBegin"] => {
  // DateStyle is reported with the order of its fields: ISO, MDY.
  const isSet = ([name, value]: readonly [string, string]) => reported.get(name)?.split(",")[0] === value
  const ignored = formats.filter((format) =>
    reported.get(format[0]) !== undefined && withBegin.every(([name]) => name !== format[0])
  )
  return [...withBegin, ...ignored].filter((setting) => !isSet(setting))
}

/** All parameters but the user and the database. */
export const startupParameters = (settings: Settings, target: PostgresTarget): ReadonlyArray<StartupParameter> => {
  const parameters: Array<StartupParameter> = []
  const add = (
    name: string,
    value: string | undefined,
    ifRefused: StartupParameter["ifRefused"],
    origin: string | undefined
  ): void => {
    if (value !== undefined) {
      parameters.push({ name, value, ifRefused, origin })
    }
  }
  const timeout = (value: Settings["statementTimeout"]) => value === undefined ? undefined : String(milliseconds(value))
  add("application_name", target.applicationName || undefined, "omit", "DATABASE_APPLICATION_NAME")
  add("statement_timeout", timeout(settings.statementTimeout), "begin", "DATABASE_STATEMENT_TIMEOUT")
  add("lock_timeout", timeout(settings.lockTimeout), "begin", "DATABASE_LOCK_TIMEOUT")
  add(
    "idle_in_transaction_session_timeout",
    timeout(settings.idleInTransactionTimeout),
    "begin",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT"
  )
  add(
    "search_path",
    target.schema === undefined ? undefined : Pg.escapeIdentifier(target.schema),
    "fail",
    "the parameter schema of DATABASE_URL"
  )
  for (const [name, value] of formats) {
    add(name, value, "begin", undefined)
  }
  add("options", target.serverOptions, "fail", "the parameter options of DATABASE_URL")
  return parameters
}

/** What one connection sends, and what it sets with BEGIN instead. */
export interface SentParameters {
  readonly sent: Readonly<Record<string, string>>
  readonly withBegin: ReadonlyArray<readonly [name: string, value: string]>
}

/** A parameter that was refused. */
export interface LeftOut {
  readonly parameter: StartupParameter
  /** Whether it was refused for the first time. */
  readonly isFirst: boolean
}

/** How PgBouncer, Neon and RDS Proxy name the parameter that they refuse. The last two patterns are for `options`. */
const refusals: ReadonlyArray<RegExp> = [
  /^unsupported startup parameter: (\w+)/i,
  /RDS Proxy currently doesn.t support the option (\w+)/i,
  /^unsupported (?:startup parameter in )?(options)\b/i,
  /doesn.t support command-line (options)/i
]

/** The parameters of one target, and which of them were refused. Shared by all of its connections. */
export class StartupParameters {
  private readonly refused = new Set<string>()
  private current: SentParameters

  constructor(private readonly parameters: ReadonlyArray<StartupParameter>) {
    this.current = this.make()
  }

  /** The parameters of the next connection. */
  select(): SentParameters {
    return this.current
  }

  /**
   * Handles an error of a start-up in which these parameters were sent. Returns the parameter that it refuses, which
   * the next attempt leaves out, or an error if it must not be left out; undefined if the error is about something
   * else.
   */
  refuse(error: Error, { sent }: SentParameters): LeftOut | Error | undefined {
    const name = refusals.map((refusal) => refusal.exec(error.message)?.[1]).find((name) => name !== undefined)
    const parameter = this.parameters.find((one) => one.name.toLowerCase() === name?.toLowerCase())
    if (parameter === undefined || sent[parameter.name] === undefined) {
      return undefined
    }
    if (parameter.ifRefused === "fail") {
      return serverError("08P01", unsendable(parameter, error.message))
    }
    const isFirst = !this.refused.has(parameter.name)
    this.refused.add(parameter.name)
    this.current = this.make()
    return { parameter, isFirst }
  }

  private make(): SentParameters {
    const isRefused = ({ name }: StartupParameter) => this.refused.has(name)
    const pairs = (parameters: ReadonlyArray<StartupParameter>) =>
      parameters.map(({ name, value }) => [name, value] as const)
    return {
      sent: Object.fromEntries(pairs(this.parameters.filter((one) => !isRefused(one)))),
      withBegin: pairs(this.parameters.filter((one) => isRefused(one) && one.ifRefused === "begin"))
    }
  }
}

/** `poolerErrors.ts` adds the hint. */
const unsendable = ({ origin }: StartupParameter, message: string): string =>
  `${message.replace(/[.\s]+$/, "")} (from ${origin ?? "sqlayer"})`
