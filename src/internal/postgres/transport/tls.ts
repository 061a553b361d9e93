/**
 * Node's TLS options for libpq's sslmode, sslrootcert, sslcert and sslkey.
 */
import * as Redacted from "effect/Redacted"
import * as Fs from "node:fs"
import * as Net from "node:net"
import type * as Tls from "node:tls"
import type { PostgresTarget } from "../../../DatabaseConfig.js"

/** One attempt to connect does without TLS, uses it if the server offers it, or fails without it. */
export type Encryption = "plain" | "offered" | "required"

/**
 * The encryption of each attempt, in order. The second is made only if the server rejected the first, or its certificate
 * was not accepted. As libpq's documentation says, `allow` and `prefer` do not protect against an attacker who can change
 * the traffic. A Unix socket has no TLS, and channel binding is impossible without it.
 */
export const encryptionAttempts = (target: PostgresTarget, host: string): ReadonlyArray<Encryption> => {
  if (host.startsWith("/")) {
    return ["plain"]
  }
  if (target.channelBinding === "require" && target.sslMode !== "disable") {
    return ["required"]
  }
  switch (target.sslMode) {
    case "disable":
      return ["plain"]
    case "allow":
      return ["plain", "required"]
    case "prefer":
      return ["offered", "plain"]
    case "require":
    case "verify-ca":
    case "verify-full":
      return ["required"]
  }
}

/** A text that looks like a file name is shown in errors. Any other may be a key that was given in its place. */
const isFileName = (path: string): boolean => path.length < 256 && /^(?:[./~]|[A-Za-z]:\\)|\.[a-z]{2,4}$/.test(path)

/** The contents of a file, or the PEM text that is given in place of its name. */
const contentOf = (parameter: string, given: string | Redacted.Redacted<string>): string | Buffer => {
  if (Redacted.isRedacted(given)) {
    return Redacted.value(given)
  }
  // The error of Node shows the name.
  let code = "unreadable"
  try {
    return Fs.readFileSync(given)
  } catch (error) {
    code = (error as NodeJS.ErrnoException).code ?? code
  }
  const name = isFileName(given) ? given : "its name is not shown"
  throw new Error(`the file that ${parameter} names cannot be read (${code}): ${name}`)
}

/** The name of PostgreSQL's protocol in ALPN (RFC 7301), which direct negotiation requires. */
export const protocolName = "postgresql"

/**
 * Reads the files again for each connection, so that renewed certificates take effect. Throws if one cannot be read.
 *
 * As in libpq, a root certificate makes every mode verify the certificate chain, and only verify-full verifies the host
 * name. Without a root certificate, the chain is verified against the authorities that Node trusts.
 */
export const tlsOptions = (target: PostgresTarget, host: string): Tls.ConnectionOptions => {
  const verifiesHost = target.sslMode === "verify-full"
  const verifiesChain = verifiesHost || target.sslMode === "verify-ca" || target.sslRootCert !== undefined
  return {
    host,
    // SNI (RFC 6066) allows names only, no addresses.
    ...(Net.isIP(host) === 0 && target.sslServerName !== false ? { servername: host } : {}),
    ...(target.sslNegotiation === "direct" ? { ALPNProtocols: [protocolName] } : {}),
    rejectUnauthorized: verifiesChain,
    ...(verifiesHost ? {} : { checkServerIdentity: () => undefined }),
    ...(target.sslMinVersion === undefined ? {} : { minVersion: target.sslMinVersion }),
    ...(target.sslMaxVersion === undefined ? {} : { maxVersion: target.sslMaxVersion }),
    ...(target.sslRootCert === undefined ? {} : { ca: contentOf("sslrootcert", target.sslRootCert) }),
    ...(target.sslCert === undefined ? {} : { cert: contentOf("sslcert", target.sslCert) }),
    ...(target.sslKey === undefined ? {} : { key: contentOf("sslkey", target.sslKey) })
  }
}
