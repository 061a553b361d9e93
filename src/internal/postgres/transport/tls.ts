/**
 * libpq's sslmode, sslrootcert, sslcert and sslkey as Node's TLS options.
 */
import * as Fs from "node:fs"
import * as Net from "node:net"
import type * as Tls from "node:tls"
import type { PostgresTarget } from "../../../DatabaseConfig.js"

/** How one attempt to connect protects what it sends. */
export type Encryption = "plain" | "offered" | "required"

/**
 * What is tried in turn: the next one only when the server, or its certificate, refused the one before. `prefer` and
 * `allow` protect against nobody who can change what is sent, as libpq's manual says. Unix sockets know no TLS. What must
 * be bound to TLS is not tried without.
 */
export const attempts = (target: PostgresTarget, host: string): ReadonlyArray<Encryption> => {
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

const read = (parameter: string, path: string): Buffer => {
  try {
    return Fs.readFileSync(path)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "unreadable"
    throw new Error(`the file that ${parameter} names cannot be read (${code}): ${path}`, { cause })
  }
}

/**
 * Throws when a file cannot be read. The files are read for each connection, so that renewed certificates are taken up.
 *
 * A root certificate makes every mode verify the chain, as libpq does; `system`, and no root certificate in a mode that
 * verifies, mean the authorities that Node trusts. The host name is verified by verify-full and by `system` only.
 */
export const options = (target: PostgresTarget, host: string): Tls.ConnectionOptions => {
  const system = target.sslRootCert === "system"
  const verifyHost = target.sslMode === "verify-full" || system
  const verifyChain = verifyHost || target.sslMode === "verify-ca" || target.sslRootCert !== undefined
  return {
    host,
    // A server's name for the choice of its certificate may not be an address.
    ...(Net.isIP(host) === 0 ? { servername: host } : {}),
    rejectUnauthorized: verifyChain,
    ...(verifyHost ? {} : { checkServerIdentity: () => undefined }),
    ...(target.sslRootCert === undefined || system ? {} : { ca: read("sslrootcert", target.sslRootCert) }),
    ...(target.sslCert === undefined ? {} : { cert: read("sslcert", target.sslCert) }),
    ...(target.sslKey === undefined ? {} : { key: read("sslkey", target.sslKey) })
  }
}
