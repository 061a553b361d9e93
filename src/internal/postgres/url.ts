/**
 * libpq's connection URLs: `postgresql://user:password@host:port,host:port/database?parameter=value`.
 */
import * as Redacted from "effect/Redacted"
import * as Net from "node:net"
import {
  cut,
  decode,
  formatQuery,
  hasParameter,
  mask,
  mayHoldSecret,
  problem,
  query,
  type Reading
} from "../config/text.js"

/** The parts of a URL. Those that it leaves out are undefined. */
export interface PostgresUrl {
  readonly hosts: Hosts
  readonly user: string | undefined
  readonly password: Redacted.Redacted<string> | undefined
  readonly database: string | undefined
  readonly parameters: { readonly [P in Parameter]: string | undefined }
}

export type Hosts = readonly [Host, ...Array<Host>]

export interface Host {
  readonly host: string
  readonly port: number
}

/** libpq's parameters that say where and how to connect. */
const libpqParameters = [
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "sslsni",
  "sslnegotiation",
  "ssl_min_protocol_version",
  "ssl_max_protocol_version",
  "channel_binding",
  "application_name",
  "fallback_application_name",
  "connect_timeout",
  "options",
  "target_session_attrs",
  "load_balance_hosts"
] as const

/** libpq's parameters that are accepted, and change nothing. */
const ineffectiveParameters = [
  "keepalives",
  "keepalives_idle",
  "keepalives_interval",
  "keepalives_count",
  "tcp_user_timeout",
  "client_encoding",
  "gssencmode",
  "sslcompression"
] as const

/** Parameters of asyncpg and JDBC (`ssl`), of Prisma, and of node-postgres (`uselibpqcompat`). */
const otherParameters = ["ssl", "pgbouncer", "schema", "connection_limit", "pool_timeout", "uselibpqcompat"] as const

/** The parameters other than host, user, password and database. `target.ts` validates their values. */
const parameters = [...libpqParameters, ...ineffectiveParameters, ...otherParameters] as const

export type Parameter = (typeof parameters)[number]

const statementTimeout = "DATABASE_STATEMENT_TIMEOUT"
const preparedStatements = "DATABASE_PREPARED_STATEMENTS (on, off or auto)"
const clientCertificate = "sslcert and sslkey, with a key that has no password,"

/** What to write in place of the parameters of other programs. */
const replacements: { readonly [name: string]: string } = {
  // libpq
  passfile: "DATABASE_PASSWORD_FILE, the name of a file that holds only the password,",
  service: "the host, the user and the database of the service",
  servicefile: "the host, the user and the database of the service",
  hostaddr: "the address as the host",
  require_auth: "channel_binding=require",
  requiressl: "sslmode=require",
  sslpassword: clientCertificate,
  // Settings of the server, which pgx and postgres.js accept in a URL
  statement_timeout: statementTimeout,
  lock_timeout: "DATABASE_LOCK_TIMEOUT",
  idle_in_transaction_session_timeout: "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT",
  search_path: "schema=… (one schema), or options=-c%20search_path%3D…,",
  // Prisma
  socket_timeout: statementTimeout,
  statement_cache_size: preparedStatements,
  sslaccept: "sslmode=verify-full, or sslmode=require, which accepts any certificate,",
  sslidentity: clientCertificate,
  // node-postgres and postgres.js
  query_timeout: statementTimeout,
  max: "DATABASE_POOL_SIZE",
  min: "DATABASE_POOL_MIN",
  idle_timeout: "DATABASE_POOL_IDLE_TIMEOUT",
  idleTimeoutMillis: "DATABASE_POOL_IDLE_TIMEOUT",
  connectionTimeoutMillis: "connect_timeout, in seconds,",
  max_lifetime: "DATABASE_POOL_RECYCLE",
  prepare: preparedStatements,
  // SQLAlchemy and asyncpg
  pool_size: "DATABASE_POOL_SIZE",
  max_overflow: "DATABASE_POOL_MAX_OVERFLOW",
  pool_recycle: "DATABASE_POOL_RECYCLE",
  command_timeout: statementTimeout,
  prepared_statement_cache_size: preparedStatements,
  // pgx
  pool_max_conns: "DATABASE_POOL_SIZE",
  pool_min_conns: "DATABASE_POOL_MIN",
  pool_max_conn_lifetime: "DATABASE_POOL_RECYCLE",
  pool_max_conn_idle_time: "DATABASE_POOL_IDLE_TIMEOUT",
  default_query_exec_mode: preparedStatements,
  // JDBC
  currentSchema: "schema=… (one schema), or options=-c%20search_path%3D…,",
  ApplicationName: "application_name",
  targetServerType: "target_session_attrs",
  connectTimeout: "connect_timeout",
  loginTimeout: "connect_timeout",
  socketTimeout: statementTimeout,
  prepareThreshold: preparedStatements
}

const accepted = ["host", "port", "user", "password", "dbname", ...parameters] as const

const defaultHost = "localhost"
const defaultPort = 5432

/** Node.js compiles a regular expression of 100 kB to tell, which a text without a colon does not need. */
const isIPv6 = (text: string): boolean => text.includes(":") && Net.isIPv6(text)

/** A name or an IPv4 address, an IPv6 address without brackets, or the directory of a Unix socket. */
const isHost = (host: string): boolean => host.startsWith("/") || isIPv6(host) || /^[\p{L}\p{N}._-]+$/u.test(host)

const isPort = (port: string): boolean =>
  port === "" || (/^\d{1,5}$/.test(port) && Number(port) > 0 && Number(port) < 65536)

/** Pairs hosts with ports as libpq does: a port each, or one for all. */
const pair = (hosts: ReadonlyArray<string>, ports: ReadonlyArray<string>, unmet: Array<string>): Hosts => {
  const [first = "", ...rest] = hosts.length === 1 && hosts[0] === "" ? [defaultHost] : hosts
  if (![first, ...rest].every(isHost)) {
    unmet.push("each host to be a name, an address (IPv6 in brackets) or a percent-encoded socket directory")
  }
  if (!ports.every(isPort)) {
    unmet.push("each port to be a whole number from 1 to 65535 (and IPv6 addresses in brackets)")
  }
  if (ports.length !== 1 && ports.length !== hosts.length) {
    unmet.push("a port for each host, or one for all")
  }
  const port = (index: number): number => Number((ports.length === 1 ? ports[0] : ports[index]) || defaultPort)
  return [{ host: first, port: port(0) }, ...rest.map((host, index) => ({ host, port: port(index + 1) }))]
}

/** A host as it is written; an absent port is the empty string. */
interface HostText {
  readonly host: string
  readonly port: string
}

/** Reads `host:port` or `[address]:port`. Other text becomes a host that `isHost` refuses. */
const parseHost = (text: string): HostText => {
  const [, address, name, port = ""] = /^(?:\[([^[\]]*:[^[\]]*)\]|([^:[\]]*))(?::(.*))?$/s.exec(text) ?? []
  return { host: address ?? name ?? "[", port }
}

/** Reads a host in the parameter `host`, where an address needs no brackets and a directory no escapes. */
const parseHostParameter = (text: string): HostText =>
  text.startsWith("/") || isIPv6(text) ? { host: text, port: "" } : parseHost(text)

/** The ports, or undefined if no host has one. */
const portsOf = (hosts: ReadonlyArray<HostText>): ReadonlyArray<string> | undefined =>
  hosts.some(({ port }) => port !== "") ? hosts.map(({ port }) => port) : undefined

const nonEmpty = (text: string): string | undefined => text === "" ? undefined : text

/** Reads what follows the scheme and its colon. */
export const parse = (scheme: string, rest: string): Reading<PostgresUrl> => {
  const parts = /^\/\/([^/?]*)([^?]*)(?:\?(.*))?$/s.exec(rest)
  if (parts === null) {
    return unreadable(`${scheme}://user:password@host:port/database`, `${scheme}: without //`)
  }
  const [, authority = "", path = "", search = ""] = parts
  const hidden = `${scheme}://${mask}`
  // The rest of a password after an unescaped slash or question mark would be read as the database or a parameter, and
  // would be shown.
  if (path.includes("@") || search.includes("@")) {
    const expected = "no @ after the host: in every part of a URL, @ is written %40, / is %2F and ? is %3F"
    return unreadable(expected, hidden)
  }
  // So would a password that is written as a parameter, but not after a question mark.
  if ([authority, path].some((part) => hasParameter(part.slice(part.lastIndexOf("@") + 1)))) {
    return unreadable(
      "parameters after a ?, separated by &: in other parts of a URL, & is %26 and ; is %3B",
      hidden
    )
  }
  const unmet: Array<string> = []
  const at = authority.lastIndexOf("@")
  const [user, password = ""] = cut(authority.slice(0, Math.max(at, 0)), ":")
  const urlUser = decode(user, "the user", unmet)
  const urlPassword = decode(password, "the password", unmet)
  const database = decode(path.slice(1), "the database", unmet)
  if (mayHoldSecret(database) || mayHoldSecret(urlUser)) {
    return unreadable("a user and a database whose names do not look like a password", hidden)
  }
  const { shown: shownSearch, values } = query(search, { accepted, repeatable: ["host", "port"], replacements }, unmet)
  const unmetBeforeHosts = unmet.length
  const authorityHosts = authority.slice(at + 1).split(",").map((text) => {
    const { host, port } = parseHost(text)
    return { host: decode(host, "each host", unmet), port }
  })
  const parameterHosts = values.host?.split(",").map(parseHostParameter)
  const parameterPorts = parameterHosts && portsOf(parameterHosts)
  if (parameterPorts !== undefined && values.port !== undefined) {
    unmet.push("ports after the hosts or in parameter port, not both")
  }
  const hosts = pair(
    (parameterHosts ?? authorityHosts).map(({ host }) => host),
    parameterPorts ?? values.port?.split(",") ?? portsOf(authorityHosts) ?? [""],
    unmet
  )
  // Without an @, malformed hosts and ports may be the user and the password of a URL that was cut off. Neither they nor
  // the rest of the URL are shown.
  if (at < 0 && unmet.length > unmetBeforeHosts) {
    return unreadable(unmet.slice(unmetBeforeHosts).join(", "), hidden)
  }
  const server = at < 0 ? authority : mask + authority.slice(at)
  const shown = mayHoldSecret(server) ? hidden : `${scheme}://${server}${path}${shownSearch}`
  const secret = values.password ?? nonEmpty(urlPassword)
  return {
    problems: unmet.map((expected) => problem(expected, shown)),
    value: {
      hosts,
      user: values.user ?? nonEmpty(urlUser),
      password: secret === undefined ? undefined : Redacted.make(secret),
      database: values.dbname ?? nonEmpty(database),
      parameters: Object.fromEntries(parameters.map((name) => [name, values[name]])) as PostgresUrl["parameters"]
    }
  }
}

/** A URL that cannot be taken apart is read as an empty one. */
const unreadable = (expected: string, given: string): Reading<PostgresUrl> => ({
  ...parse("postgres", "//"),
  problems: [problem(expected, given)]
})

const formatHost = ({ host, port }: Host): string =>
  `${isIPv6(host) ? `[${host.replace("%", "%25")}]` : encodeURIComponent(host)}:${port}`

/** The parts that every written URL has. */
interface Parts {
  readonly hosts: Hosts
  readonly username: string
  readonly password: Redacted.Redacted<string> | undefined
  readonly database: string
}

/** Writes a URL that `parse` reads as the same parts. */
export const format = (
  { database, hosts, password, username }: Parts,
  parameters: { readonly [P in Parameter]?: string | undefined }
): string => {
  const secret = password === undefined ? "" : `:${encodeURIComponent(Redacted.value(password))}`
  const authority = `${encodeURIComponent(username)}${secret}@${hosts.map(formatHost).join(",")}`
  return `postgres://${authority}/${encodeURIComponent(database)}${formatQuery(parameters)}`
}
