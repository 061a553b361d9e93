/**
 * Node's TLS options for libpq's sslmode, sslrootcert, sslcert and sslkey.
 */
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

const readFile = (parameter: string, path: string): Buffer => {
  try {
    return Fs.readFileSync(path)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "unreadable"
    throw new Error(`the file that ${parameter} names cannot be read (${code}): ${path}`, { cause })
  }
}

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
    ...(Net.isIP(host) === 0 ? { servername: host } : {}),
    rejectUnauthorized: verifiesChain,
    ...(verifiesHost ? {} : { checkServerIdentity: () => undefined }),
    ...(target.sslRootCert === undefined ? {} : { ca: readFile("sslrootcert", target.sslRootCert) }),
    ...(target.sslCert === undefined ? {} : { cert: readFile("sslcert", target.sslCert) }),
    ...(target.sslKey === undefined ? {} : { key: readFile("sslkey", target.sslKey) })
  }
}
