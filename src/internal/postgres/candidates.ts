/**
 * The servers that may be connected to: the addresses of all hosts, the most promising ones first.
 */
import * as Effect from "effect/Effect"
import type { PostgresHost, PostgresTarget } from "../../DatabaseConfig.js"
import type { Server, Servers } from "../cluster/servers.js"
import { accepts, type TargetSessionAttrs } from "./role.js"
import { lookUp } from "./transport/socket.js"
import { attemptDelay } from "./transport/staggered.js"

/** One server to try. */
export interface Candidate {
  readonly host: PostgresHost
  readonly server: Server
}

const shuffled = <A>(values: ReadonlyArray<A>): ReadonlyArray<A> => {
  const result = Array.from(values)
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    const value = result[i]
    result[i] = result[j]
    result[j] = value
  }
  return result
}

/**
 * Looks up the addresses of all hosts, and calls back once, unless the function that it returns is called first. If a
 * name cannot be looked up, or not in time, it takes the place of its addresses: connecting to it looks it up again,
 * and fails with the error.
 */
const lookUpAll = (
  hosts: ReadonlyArray<PostgresHost>,
  timeout: number,
  onEnd: (addresses: ReadonlyArray<ReadonlyArray<string>>) => void
): () => void => {
  const found: Array<ReadonlyArray<string> | undefined> = hosts.map(() => undefined)
  let missing = hosts.length
  let timer: NodeJS.Timeout | undefined = undefined
  const end = (): void => {
    clearTimeout(timer)
    missing = -1
    onEnd(found.map((addresses, i) => addresses ?? [hosts[i].host]))
  }
  hosts.forEach(({ host, port }, i) => {
    const settle = (addresses: ReadonlyArray<string>): void => {
      if (missing > 0) {
        found[i] = addresses
        missing--
        if (missing === 0) {
          end()
        }
      }
    }
    lookUp(
      host,
      port,
      (addresses) => settle(addresses.map((address) => "path" in address ? host : address.host)),
      () => settle([host])
    )
  })
  if (missing > 0) {
    timer = setTimeout(end, timeout)
  }
  return () => {
    clearTimeout(timer)
    missing = -1
  }
}

/**
 * All candidates, in the order of the hosts and of the addresses of each, or in a random one (libpq's
 * `load_balance_hosts`). Of several names, one that takes long to look up does not delay the others.
 */
export const candidatesOf = (
  { hosts, loadBalanceHosts }: PostgresTarget,
  servers: Servers,
  deadline: number
): Effect.Effect<ReadonlyArray<Candidate>> =>
  Effect.async<ReadonlyArray<Candidate>>((resume) => {
    const order = loadBalanceHosts === "random" ? shuffled : <A>(values: ReadonlyArray<A>) => values
    const ordered = order(hosts)
    const remaining = Math.max(0, deadline - performance.now())
    const timeout = hosts.length === 1 ? remaining : Math.min(remaining, attemptDelay)
    const stop = lookUpAll(ordered, timeout, (addresses) =>
      resume(Effect.succeed(ordered.flatMap((host, i) =>
        order(servers.find(host.host, host.port, addresses[i])).map((server) => ({ host, server }))
      ))))
    return Effect.sync(stop)
  })

/** How promising a server is; the lowest rank is tried first. */
const rankOf = ({ isReadOnly, role, state }: Server, required: TargetSessionAttrs): number => {
  if (state === "down" || state === "silent") {
    return 3
  }
  if (required === "any") {
    return 0
  }
  if (role === "unknown") {
    return 1
  }
  return accepts(required, { standby: role === "standby", readOnly: isReadOnly }) ? 0 : 2
}

/** Servers that are known to have the required role come first, and those that are down or silent last. */
export const ranked = (
  candidates: ReadonlyArray<Candidate>,
  required: TargetSessionAttrs
): ReadonlyArray<Candidate> =>
  candidates.length === 1
    ? candidates
    : candidates.toSorted((a, b) => rankOf(a.server, required) - rankOf(b.server, required))
