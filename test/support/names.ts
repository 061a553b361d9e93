/**
 * Host names whose addresses a test says.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Dns from "node:dns"
import { syncBuiltinESMExports } from "node:module"
import * as Net from "node:net"

/** Makes a name lead to these addresses, until the scope closes. */
export const withName = (
  name: string,
  addresses: ReadonlyArray<string>
): Effect.Effect<unknown, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const original = Dns.lookup
      const lookup = (host: string, options: Dns.LookupAllOptions, callback: (...args: Array<unknown>) => void) =>
        host === name
          ? setImmediate(() => callback(null, addresses.map((address) => ({ address, family: Net.isIP(address) }))))
          : original(host, options, callback as never)
      Dns.lookup = lookup as unknown as typeof Dns.lookup
      syncBuiltinESMExports()
      return original
    }),
    (original) =>
      Effect.sync(() => {
        Dns.lookup = original
        syncBuiltinESMExports()
      })
  )
