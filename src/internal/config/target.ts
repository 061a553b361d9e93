/**
 * What each dialect makes of a URL, of the options that say the same, and of the pool's figures.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Os from "node:os"
import * as Path from "node:path"
import type * as Asking from "./validation.js"
import * as PostgresUrl from "./postgresUrl.js"
import * as Rule from "./rule.js"
import * as SqliteUrl from "./sqliteUrl.js"
import { problem } from "./text.js"

/** From the weakest to the strongest. */
export const sslModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const

type SslMode = (typeof sslModes)[number]

const bindings = ["disable", "prefer", "require"] as const

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
const defaultBinding = "disable"

/** Options that mean something to a server only, validated. */
interface ServerOptions {
  readonly applicationName: string | undefined
  readonly sslMode: SslMode | undefined
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
}

/** What a dialect, or its URL, may change of the pool's figures and the times. */
interface PoolOptions {
  readonly poolSize: number
  readonly poolMaxOverflow: number
  readonly poolRecycle: Duration.Duration
  readonly connectTimeout: Duration.Duration
  readonly lockTimeout: Duration.Duration | undefined
}

const systemUser = Option.liftThrowable(() => Os.userInfo().username)

const strongest = (...modes: ReadonlyArray<SslMode | undefined>): SslMode | undefined =>
  sslModes.findLast((mode) => modes.includes(mode))

/**
 * What the URL says goes before the options, as in libpq; only of two sslmodes the stronger holds, so that neither
 * makes a connection less safe than the other asked for.
 */
export const postgres = (
  { parameters, ...url }: PostgresUrl.PostgresUrl,
  options: ServerOptions,
  pool: PoolOptions,
  { miss, parameter, refuse }: Asking.Asking<"url" | keyof ServerOptions>
) => {
  const inUrl = <A>(name: PostgresUrl.Parameter, rule: Rule.Rule<A>) => parameter(name, parameters[name], rule)
  const username = url.user ?? Option.getOrUndefined(systemUser())
  if (username === undefined) {
    miss("url", "a user in the URL, as the operating system has no name for its own")
  }
  const sslRootCert = inUrl("sslrootcert", Rule.filename) ?? options.sslRootCert
  const sslCert = inUrl("sslcert", Rule.filename) ?? options.sslCert
  const sslKey = inUrl("sslkey", Rule.filename) ?? options.sslKey
  if ((sslCert === undefined) !== (sslKey === undefined)) {
    const [field, other] = sslCert === undefined ? ["sslCert", "key"] as const : ["sslKey", "certificate"] as const
    miss(field, `the name of a file that belongs to the ${other} given`)
  }
  const system = sslRootCert === "system"
  // asyncpg takes there what sslmode can be, JDBC takes true.
  const ssl = inUrl("ssl", Rule.oneOf(["true", ...sslModes]))
  const asked = strongest(inUrl("sslmode", Rule.oneOf(sslModes)), ssl === "true" ? "require" : ssl, options.sslMode)
  const sslMode = asked ?? (system ? "verify-full" : "prefer")
  const modeField = parameters.sslmode === undefined && parameters.ssl === undefined ? "sslMode" : "url"
  if (system && sslMode !== "verify-full") {
    const expected = "sslmode verify-full, as the root certificates are the system's"
    refuse(modeField, problem(expected, Rule.show(sslMode)))
  }
  const channelBinding = inUrl("channel_binding", Rule.oneOf(bindings)) ?? defaultBinding
  if (channelBinding === "require" && sslMode === "disable") {
    refuse(modeField, problem("a sslmode that encrypts, as channel_binding is require", Rule.show(sslMode)))
  }
  if (sslMode === "verify-ca" && sslRootCert === undefined) {
    miss("sslRootCert", "the name of a file, as anyone can have a certificate from one of the system's authorities")
  }
  const database = url.database ?? username ?? ""
  const attrs = inUrl("target_session_attrs", Rule.oneOf(sessionAttrs))
  const connectTimeout = inUrl("connect_timeout", Rule.duration("no limit"))
  return {
    target: {
      _tag: "postgres" as const,
      hosts: url.hosts,
      targetSessionAttrs: attrs ?? defaultSessionAttrs,
      database,
      username: username ?? "",
      password: url.password,
      sslMode,
      channelBinding,
      sslRootCert: system ? undefined : sslRootCert,
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

/** One connection for good: a pool's figures are ignored, as they are often set where the URL is not. */
export const sqlite = (
  { timeout, ...url }: SqliteUrl.SqliteUrl,
  thread: "worker" | "main",
  pool: PoolOptions,
  { parameter }: Asking.Asking<"url">
) => ({
  target: { ...url, thread: url.filename === SqliteUrl.memory ? "main" as const : thread },
  name: Path.basename(url.filename),
  pool: {
    ...pool,
    poolSize: 1,
    poolMaxOverflow: 0,
    poolRecycle: Duration.infinity,
    lockTimeout: parameter("timeout", timeout, Rule.duration()) ?? pool.lockTimeout
  }
})

const unless = (omitted: string, value: string): string | undefined => value === omitted ? undefined : value

/** Writes the URL that means the target, leaving out what is the default anyway. */
export const formatPostgres = (target: ReturnType<typeof postgres>["target"]): string =>
  PostgresUrl.format(target, {
    sslmode: target.sslMode,
    sslrootcert: target.sslRootCert,
    sslcert: target.sslCert,
    sslkey: target.sslKey,
    channel_binding: unless(defaultBinding, target.channelBinding),
    application_name: unless(defaultApplicationName, target.applicationName),
    options: target.serverOptions,
    target_session_attrs: unless(defaultSessionAttrs, target.targetSessionAttrs)
  })
