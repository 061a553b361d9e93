/**
 * PostgreSQL's target: the result of a URL and the options.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Os from "node:os"
import * as Rule from "../config/rule.js"
import {
  type FileOrPem,
  type PoolOptions,
  type Resolved,
  type SslMode,
  sslModes,
  type TargetOptions
} from "../config/target.js"
import { mask, mayHoldSecret, problem } from "../config/text.js"
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
/** With several hosts, one that accepts writes is required: libpq's default, `any`, would also accept a standby. */
const defaultSessionAttrs = (hosts: Hosts) => hosts.length > 1 ? "read-write" : "any"
const defaultChannelBinding = "disable"

/** See DatabaseConfig.PostgresTarget. */
export interface PostgresTarget {
  readonly _tag: "postgres"
  readonly hosts: Hosts
  readonly targetSessionAttrs: (typeof sessionAttrs)[number]
  readonly loadBalanceHosts?: "random" | undefined
  readonly database: string
  readonly username: string
  readonly password: Redacted.Redacted<string> | undefined
  readonly credentials?: Redacted.Redacted<Credentials> | undefined
  readonly sslMode: SslMode
  readonly channelBinding: (typeof channelBindings)[number]
  readonly sslRootCert: FileOrPem | undefined
  readonly sslCert: FileOrPem | undefined
  readonly sslKey: FileOrPem | undefined
  readonly sslNegotiation?: "direct" | undefined
  readonly sslServerName?: boolean | undefined
  readonly sslMinVersion?: TlsVersion | undefined
  readonly sslMaxVersion?: TlsVersion | undefined
  readonly applicationName: string
  readonly schema?: string | undefined
  readonly serverOptions: string | undefined
}

/** See DatabaseConfig.PostgresCredentials. */
interface Credentials {
  readonly user: Effect.Effect<unknown, unknown> | undefined
  readonly password: Effect.Effect<unknown, unknown> | undefined
  readonly passwordFile: string | undefined
}

const tlsVersions = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"] as const

type TlsVersion = (typeof tlsVersions)[number]

/** The properties of an object that are defined. */
const defined = <A extends object>(values: A): A =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as A

/** The name of a schema. */
const schemaName: Rule.Rule<string> = Rule.name("the name of a schema, 1 to 63 bytes long", 63)

const systemUser = Option.liftThrowable(() => Os.userInfo().username)

const strongest = (...modes: ReadonlyArray<SslMode | undefined>): SslMode | undefined =>
  sslModes.findLast((mode) => modes.includes(mode))

/**
 * The URL takes precedence over the options, as in libpq, except over options in code if the URL is not in code. Of two
 * sslmodes the stronger one applies, so that neither makes the connection less safe than the other requires.
 */
export const resolve = (
  { parameters, ...url }: PostgresUrl,
  options: TargetOptions,
  pool: PoolOptions,
  { isInCode, missing, parameter, refuse }: Validation<"url" | keyof TargetOptions | keyof PoolOptions>
): Resolved<PostgresTarget> => {
  const inUrl = <A>(name: Parameter, rule: Rule.Rule<A>, option?: keyof TargetOptions | keyof PoolOptions) =>
    parameter(name, parameters[name], rule, option)
  const userEffect = Effect.isEffect(options.user) ? options.user : undefined
  const passwordEffect = Effect.isEffect(options.password) ? options.password : undefined
  const fixedPassword = Redacted.isRedacted(options.password) ? options.password : undefined
  const hasPasswordInCode = url.password !== undefined && isInCode("url") && !isInCode("passwordFile")
  const passwordFile = options.password === undefined && !hasPasswordInCode ? options.passwordFile : undefined
  const fixedUser = typeof options.user === "string" ? options.user : url.user
  const username = fixedUser ?? (userEffect === undefined ? Option.getOrUndefined(systemUser()) : "")
  if (username === undefined) {
    missing("url", "a user in the URL, as the operating system has no name for the user of this process")
  }
  if (userEffect !== undefined && url.database === undefined) {
    missing("url", "a database in the URL, as its default, the user's name, is not known in advance")
  }
  const sslRootCert = inUrl("sslrootcert", Rule.fileOrPem("CERTIFICATE"), "sslRootCert") ?? options.sslRootCert
  const sslCert = inUrl("sslcert", Rule.fileOrPem("CERTIFICATE"), "sslCert") ?? options.sslCert
  const sslKey = inUrl("sslkey", Rule.fileOrPem("PRIVATE KEY"), "sslKey") ?? options.sslKey
  if ((sslCert === undefined) !== (sslKey === undefined)) {
    const [field, wanted, given] = sslCert === undefined
      ? ["sslCert", "certificate", "key"] as const
      : ["sslKey", "key", "certificate"] as const
    missing(field, `the ${wanted} of the ${given} that is given: the name of a file, or PEM text`)
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
    missing("sslRootCert", "root certificates, as anyone can have a certificate from one of the system's authorities")
  }
  const sslNegotiation = inUrl("sslnegotiation", Rule.oneOf(["postgres", "direct"]))
  if (sslNegotiation === "direct" && !encryptsAlways(sslMode)) {
    const expected = "sslmode require, verify-ca or verify-full, as sslnegotiation is direct"
    refuse(givenSslMode === undefined ? "url" : sslModeField, problem(expected, Rule.show(sslMode)))
  }
  const serverName = inUrl("sslsni", Rule.oneOf(["0", "1"]))
  const sslMinVersion = inUrl("ssl_min_protocol_version", Rule.oneOf(tlsVersions, "ignore case"))
  const sslMaxVersion = inUrl("ssl_max_protocol_version", Rule.oneOf(tlsVersions, "ignore case"))
  checkIneffective(inUrl)
  const database = url.database ?? username ?? ""
  const targetSessionAttrs = inUrl("target_session_attrs", Rule.oneOf(sessionAttrs))
  const loadBalanceHosts = inUrl("load_balance_hosts", Rule.oneOf(["disable", "random"]))
  const connectTimeout = inUrl("connect_timeout", Rule.duration("no limit"), "connectTimeout")
  const connectionLimit = inUrl("connection_limit", Rule.wholeNumber(1), "poolSize")
  const poolTimeout = inUrl("pool_timeout", Rule.duration("no limit"), "poolTimeout")
  const isPooled = inUrl("pgbouncer", Rule.oneOf(["true", "false"])) === "true"
  const applicationName = inUrl("application_name", Rule.text, "applicationName") ?? options.applicationName ??
    inUrl("fallback_application_name", Rule.text)
  const isAskedEachTime = userEffect !== undefined || passwordEffect !== undefined || passwordFile !== undefined
  const target: PostgresTarget = {
    _tag: "postgres" as const,
    hosts: url.hosts,
    targetSessionAttrs: targetSessionAttrs ?? defaultSessionAttrs(url.hosts),
    database,
    username: username ?? "",
    password: passwordEffect === undefined && passwordFile === undefined ? fixedPassword ?? url.password : undefined,
    sslMode,
    channelBinding,
    sslRootCert: usesSystemRoots ? undefined : sslRootCert,
    sslCert,
    sslKey,
    applicationName: applicationName ?? defaultApplicationName,
    serverOptions: inUrl("options", Rule.text),
    ...defined({
      credentials: isAskedEachTime
        ? Redacted.make({ user: userEffect, password: passwordEffect, passwordFile })
        : undefined,
      sslNegotiation: sslNegotiation === "direct" ? sslNegotiation : undefined,
      sslServerName: serverName === "0" ? false : undefined,
      sslMinVersion,
      sslMaxVersion,
      loadBalanceHosts: loadBalanceHosts === "random" ? loadBalanceHosts : undefined,
      schema: inUrl("schema", schemaName)
    })
  }
  return {
    target,
    readers: {
      standbys: target.hosts.length > 1 ? { ...target, targetSessionAttrs: "standby" } : undefined,
      own: target.hosts.length > 1 ? { ...target, targetSessionAttrs: readerAttrs(targetSessionAttrs) } : target
    },
    name: database,
    preparedStatements: isPooled ? "off" : undefined,
    pool: {
      ...pool,
      ...(connectionLimit === undefined ? {} : {
        poolSize: connectionLimit,
        poolMaxOverflow: isInCode("poolMaxOverflow") && !isInCode("url") ? pool.poolMaxOverflow : 0,
        poolMin: Math.min(pool.poolMin, connectionLimit)
      }),
      poolTimeout: poolTimeout === undefined ? pool.poolTimeout : Duration.isZero(poolTimeout) ? longest : poolTimeout,
      connectTimeout: connectTimeout === undefined ? pool.connectTimeout : orInfinite(connectTimeout)
    }
  }
}

/** The role that each of several hosts must have to be read from. */
const readerAttrs = (given: PostgresTarget["targetSessionAttrs"] | undefined): PostgresTarget["targetSessionAttrs"] =>
  given === "any" || given === "read-only" ? given : "standby"

/** The longest timeout of all options. */
const longest = Duration.days(24)

const orInfinite = (duration: Duration.Duration): Duration.Duration =>
  Duration.isZero(duration) ? Duration.infinity : duration

const encryptsAlways = (sslMode: SslMode): boolean =>
  sslMode === "require" || sslMode === "verify-ca" || sslMode === "verify-full"

/**
 * Validates the parameters that change nothing: text is always UTF-8, GSSAPI is not available, data is never
 * compressed, and Node can set no other timers of TCP.
 */
const checkIneffective = (inUrl: <A>(name: Parameter, rule: Rule.Rule<A>) => A | undefined): void => {
  inUrl("client_encoding", Rule.oneOf(["UTF8", "UTF-8", "unicode", "auto"], "ignore case"))
  inUrl("gssencmode", Rule.oneOf(["disable", "prefer"]))
  inUrl("sslcompression", Rule.oneOf(["0"]))
  inUrl("keepalives", Rule.oneOf(["0", "1"]))
  inUrl("uselibpqcompat", Rule.oneOf(["true", "false"]))
  for (const name of ["keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"] as const) {
    inUrl(name, Rule.wholeNumber(0))
  }
}

const unlessDefault = (defaultValue: string, value: string): string | undefined =>
  value === defaultValue ? undefined : value

/**
 * Adds to the given options those that a target was resolved with and its URL lacks. The given ones take precedence.
 */
export const optionsOf = ({ credentials, password }: PostgresTarget, given: TargetOptions): TargetOptions => {
  const asked = credentials && Redacted.value(credentials)
  const isPasswordGiven = given.password !== undefined || given.passwordFile !== undefined
  return {
    ...given,
    user: given.user ?? asked?.user,
    password: isPasswordGiven ? given.password : password ?? asked?.password,
    passwordFile: isPasswordGiven ? given.passwordFile : asked?.passwordFile
  }
}

/** Writes the URL of a target, without the parameters that have their default. */
export const formatTarget = (target: PostgresTarget, withSecrets: boolean): string => {
  const pem = (value: FileOrPem | undefined) =>
    Redacted.isRedacted(value) ? withSecrets ? Redacted.value(value) : mask : value
  const { serverOptions } = target
  return format(withSecrets ? target : { ...target, password: undefined }, {
    sslmode: target.sslMode,
    sslrootcert: pem(target.sslRootCert),
    sslcert: pem(target.sslCert),
    sslkey: pem(target.sslKey),
    sslsni: target.sslServerName === false ? "0" : undefined,
    sslnegotiation: target.sslNegotiation,
    ssl_min_protocol_version: target.sslMinVersion,
    ssl_max_protocol_version: target.sslMaxVersion,
    channel_binding: unlessDefault(defaultChannelBinding, target.channelBinding),
    application_name: unlessDefault(defaultApplicationName, target.applicationName),
    schema: target.schema,
    options: !withSecrets && serverOptions !== undefined && mayHoldSecret(serverOptions) ? mask : serverOptions,
    target_session_attrs: unlessDefault(defaultSessionAttrs(target.hosts), target.targetSessionAttrs),
    load_balance_hosts: target.loadBalanceHosts
  })
}
