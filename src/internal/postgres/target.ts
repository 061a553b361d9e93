/**
 * PostgreSQL's target: what a URL and the options say together.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Os from "node:os"
import * as Rule from "../config/rule.js"
import { type PoolOptions, type Resolved, type SslMode, sslModes, type TargetOptions } from "../config/target.js"
import { problem } from "../config/text.js"
import type { Validation } from "../config/validation.js"
import { format, type Hosts, type Parameter, type PostgresUrl } from "./url.js"

const channelBindings = ["disable", "prefer", "require"] as const

const sessionAttrs = [
  "any",
  "read-write",
  "read-only",
  "primary",
  "standby",
  "prefer-standby"
] as const

const defaultApplicationName = "sqlayer"
const defaultSessionAttrs = "any"
const defaultChannelBinding = "disable"

/** See DatabaseConfig.PostgresTarget. */
export interface PostgresTarget {
  readonly _tag: "postgres"
  readonly hosts: Hosts
  readonly targetSessionAttrs: (typeof sessionAttrs)[number]
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted<string> | undefined
  readonly sslMode: SslMode
  readonly channelBinding: (typeof channelBindings)[number]
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
  readonly applicationName: string
  readonly serverOptions: string | undefined
}

const systemUser = Option.liftThrowable(() => Os.userInfo().username)

const strongest = (...modes: ReadonlyArray<SslMode | undefined>): SslMode | undefined =>
  sslModes.findLast((mode) => modes.includes(mode))

/**
 * The URL takes precedence over the options, as in libpq. Of two sslmodes the stronger one holds, so that neither makes
 * the connection less safe than the other requires.
 */
export const resolve = (
  { parameters, ...url }: PostgresUrl,
  options: TargetOptions,
  pool: PoolOptions,
  { missing, parameter, refuse }: Validation<"url" | keyof TargetOptions>
): Resolved<PostgresTarget> => {
  const inUrl = <A>(name: Parameter, rule: Rule.Rule<A>) => parameter(name, parameters[name], rule)
  const username = url.user ?? Option.getOrUndefined(systemUser())
  if (username === undefined) {
    missing("url", "a user in the URL, as the operating system has no name for its own")
  }
  const sslRootCert = inUrl("sslrootcert", Rule.filename) ?? options.sslRootCert
  const sslCert = inUrl("sslcert", Rule.filename) ?? options.sslCert
  const sslKey = inUrl("sslkey", Rule.filename) ?? options.sslKey
  if ((sslCert === undefined) !== (sslKey === undefined)) {
    const [field, other] = sslCert === undefined ? ["sslCert", "key"] as const : ["sslKey", "certificate"] as const
    missing(field, `the name of a file that belongs to the ${other} given`)
  }
  const usesSystemRoots = sslRootCert === "system"
  // asyncpg accepts an sslmode here, JDBC accepts true.
  const ssl = inUrl("ssl", Rule.oneOf(["true", ...sslModes]))
  const givenSslMode = strongest(
    inUrl("sslmode", Rule.oneOf(sslModes)),
    ssl === "true" ? "require" : ssl,
    options.sslMode
  )
  const sslMode = givenSslMode ?? (usesSystemRoots ? "verify-full" : "prefer")
  const sslModeField = parameters.sslmode === undefined && parameters.ssl === undefined ? "sslMode" : "url"
  if (usesSystemRoots && sslMode !== "verify-full") {
    const expected = "sslmode verify-full, as the root certificates are the system's"
    refuse(sslModeField, problem(expected, Rule.show(sslMode)))
  }
  const channelBinding = inUrl("channel_binding", Rule.oneOf(channelBindings)) ?? defaultChannelBinding
  if (channelBinding === "require" && sslMode === "disable") {
    refuse(sslModeField, problem("a sslmode that encrypts, as channel_binding is require", Rule.show(sslMode)))
  }
  if (sslMode === "verify-ca" && sslRootCert === undefined) {
    missing("sslRootCert", "the name of a file, as anyone can have a certificate from one of the system's authorities")
  }
  const database = url.database ?? username ?? ""
  const targetSessionAttrs = inUrl("target_session_attrs", Rule.oneOf(sessionAttrs))
  const connectTimeout = inUrl("connect_timeout", Rule.duration("no limit"))
  return {
    target: {
      _tag: "postgres" as const,
      hosts: url.hosts,
      targetSessionAttrs: targetSessionAttrs ?? defaultSessionAttrs,
      database,
      username: username ?? "",
      password: url.password,
      sslMode,
      channelBinding,
      sslRootCert: usesSystemRoots ? undefined : sslRootCert,
      sslCert,
      sslKey,
      applicationName: inUrl("application_name", Rule.text) ?? options.applicationName ?? defaultApplicationName,
      serverOptions: inUrl("options", Rule.text)
    },
    name: database,
    pool: {
      ...pool,
      connectTimeout: connectTimeout === undefined
        ? pool.connectTimeout
        : Duration.isZero(connectTimeout)
        ? Duration.infinity
        : connectTimeout
    }
  }
}

const unlessDefault = (defaultValue: string, value: string): string | undefined =>
  value === defaultValue ? undefined : value

/** Writes the URL of a target, without the parameters that have their default. */
export const formatTarget = (target: PostgresTarget): string =>
  format(target, {
    sslmode: target.sslMode,
    sslrootcert: target.sslRootCert,
    sslcert: target.sslCert,
    sslkey: target.sslKey,
    channel_binding: unlessDefault(defaultChannelBinding, target.channelBinding),
    application_name: unlessDefault(defaultApplicationName, target.applicationName),
    options: target.serverOptions,
    target_session_attrs: unlessDefault(defaultSessionAttrs, target.targetSessionAttrs)
  })
