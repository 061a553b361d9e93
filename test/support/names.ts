/**
 * Host names whose addresses a test says.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Dns from "node:dns"
import * as Net from "node:net"
import { replaceBuiltin } from "./builtins.js"

/** Makes a name lead to these addresses, until the scope closes. */
export const withName = (
  name: string,
  addresses: ReadonlyArray<string>
): Effect.Effect<void, never, Scope.Scope> =>
  replaceBuiltin(Dns, "lookup", (original) => {
    const lookup = (host: string, options: Dns.LookupAllOptions, callback: (...args: Array<unknown>) => void) =>
      host === name
        ? setImmediate(() => callback(null, addresses.map((address) => ({ address, family: Net.isIP(address) }))))
        : original(host, options, callback as never)
    return lookup as unknown as typeof Dns.lookup
  })
