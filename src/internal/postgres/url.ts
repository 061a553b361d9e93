/**
 * libpq's connection URLs: `postgresql://user:password@host:port,host:port/database?parameter=value`.
 */
import * as Redacted from "effect/Redacted"
import * as Net from "node:net"
import { cut, decode, formatQuery, mask, problem, query, type Reading } from "../config/text.js"

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

/** The parameters other than host, user and database. `target.ts` validates their values. */
export type Parameter =
  | "sslmode"
  | "ssl"
  | "sslrootcert"
  | "sslcert"
  | "sslkey"
  | "channel_binding"
  | "application_name"
  | "connect_timeout"
  | "options"
  | "target_session_attrs"

const accepted = [
  "host",
  "port",
  "user",
  "password",
  "dbname",
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "ssl",
  "channel_binding",
  "application_name",
  "connect_timeout",
  "options",
  "target_session_attrs"
] as const

const defaultHost = "localhost"
const defaultPort = 5432

/** A name or an IPv4 address, an IPv6 address without brackets, or the directory of a Unix socket. */
const isHost = (host: string): boolean =>
  host.startsWith("/") || (host.includes(":") ? Net.isIPv6(host) : /^[\p{L}\p{N}._-]+$/u.test(host))

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
  text.startsWith("/") || Net.isIPv6(text) ? { host: text, port: "" } : parseHost(text)

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
    const expected = "no @ behind the host: in every part of a URL, @ is written %40, / is %2F and ? is %3F"
    return unreadable(expected, hidden)
  }
  const unmet: Array<string> = []
  const at = authority.lastIndexOf("@")
  const [user, password = ""] = cut(authority.slice(0, Math.max(at, 0)), ":")
  const urlUser = decode(user, "the user", unmet)
  const urlPassword = decode(password, "the password", unmet)
  const database = decode(path.slice(1), "the database", unmet)
  const { shown: shownSearch, values } = query(search, accepted, unmet, ["host", "port"])
  const unmetBeforeHosts = unmet.length
  const authorityHosts = authority.slice(at + 1).split(",").map((text) => {
    const { host, port } = parseHost(text)
    return { host: decode(host, "each host", unmet), port }
  })
  const parameterHosts = values.host?.split(",").map(parseHostParameter)
  const parameterPorts = parameterHosts && portsOf(parameterHosts)
  if (parameterPorts !== undefined && values.port !== undefined) {
    unmet.push("ports behind the hosts or in parameter port, not both")
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
  const shown = `${scheme}://${at < 0 ? authority : mask + authority.slice(at)}${path}${shownSearch}`
  const secret = values.password ?? nonEmpty(urlPassword)
  return {
    problems: unmet.map((expected) => problem(expected, shown)),
    value: {
      hosts,
      user: values.user ?? nonEmpty(urlUser),
      password: secret === undefined ? undefined : Redacted.make(secret),
      database: values.dbname ?? nonEmpty(database),
      parameters: {
        sslmode: values.sslmode,
        ssl: values.ssl,
        sslrootcert: values.sslrootcert,
        sslcert: values.sslcert,
        sslkey: values.sslkey,
        channel_binding: values.channel_binding,
        application_name: values.application_name,
        connect_timeout: values.connect_timeout,
        options: values.options,
        target_session_attrs: values.target_session_attrs
      }
    }
  }
}

/** A URL that cannot be taken apart is read as an empty one. */
const unreadable = (expected: string, given: string): Reading<PostgresUrl> => ({
  ...parse("postgres", "//"),
  problems: [problem(expected, given)]
})

const formatHost = ({ host, port }: Host): string =>
  `${Net.isIPv6(host) ? `[${host.replace("%", "%25")}]` : encodeURIComponent(host)}:${port}`

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
