/**
 * Fault injection: the faults that can occur between an application and its server, on command or chosen by a seed.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import type * as Scope from "effect/Scope"
import { query } from "./client.js"
import { type Decision, type Proxy, proxy, type ProxyConnection } from "./proxy.js"
import type { Random } from "./random.js"
import type { Server } from "./server.js"

const names = [
  // One connection is closed or reset, or forwards nothing for a while and is then closed.
  "cut",
  "reset",
  "silence",
  // The same for all connections, except that a silent network forwards again afterwards.
  "cutAll",
  "resetAll",
  "silenceAll",
  // The same for one connection, in the middle of the next message.
  "cutRequest",
  "resetRequest",
  "silenceRequest",
  "cutResponse",
  "resetResponse",
  "silenceResponse",
  // The next COMMIT, or the response to it, is lost.
  "loseCommit",
  "loseCommitResponse",
  // New connections are refused.
  "refuse",
  "delay",
  "throttle",
  // One backend is terminated, or its statement canceled.
  "terminate",
  "cancel",
  // All processes of the server are stopped for a while.
  "pause",
  // The server shuts down in this mode, or is killed, and starts again.
  "smart",
  "fast",
  "immediate",
  "kill"
] as const

export type FaultName = (typeof names)[number]

export const faultNames: ReadonlyArray<FaultName> = names

/** One fault to inject. */
export interface Fault {
  readonly name: FaultName
  /** The duration in milliseconds. For a fault that waits for a message, the timeout of that wait. */
  readonly millis: number
  /** Selects one of the connections, or a byte of a message: from 0 for the first to 1 (exclusive) for the last. */
  readonly position: number
}

export interface Rig {
  readonly proxy: Proxy
  readonly server: Server
  /** The server's URL through the proxy. */
  readonly url: string
  /** Injects a fault, and completes when it is over. Faults that act on the proxy must not overlap. */
  readonly inject: (fault: Fault) => Effect.Effect<void>
}

/** Starts a proxy in front of the server. `onRecovery` runs each time the server accepts connections again. */
export const make = (
  server: Server,
  onRecovery: Effect.Effect<void> = Effect.void
): Effect.Effect<Rig, never, Scope.Scope> =>
  Effect.map(proxy(server.url), (proxy) => ({
    proxy,
    server,
    url: proxy.url,
    inject: (fault) => injections[fault.name]({ proxy, server, onRecovery, ...fault })
  }))

type Injection = (
  options: Fault & { readonly proxy: Proxy; readonly server: Server; readonly onRecovery: Effect.Effect<void> }
) => Effect.Effect<void>

/** The item at a position from 0 to 1, or undefined if there are no items. */
const itemAt = <A>(items: ReadonlyArray<A>, position: number): A | undefined =>
  items[Math.floor(position * items.length)]

const onConnection = (act: (connection: ProxyConnection) => void): Injection => ({ position, proxy }) =>
  Effect.sync(() => {
    const connection = itemAt(proxy.connections(), position)
    if (connection !== undefined) {
      act(connection)
    }
  })

/** Begins a fault, and ends it after this time or when it is interrupted. */
const lasting = (begin: Effect.Effect<void>, millis: number, end: Effect.Effect<void>): Effect.Effect<void> =>
  Effect.acquireUseRelease(begin, () => Effect.sleep(millis), () => end)

/**
 * An offset within a message, not between two, provided that the chunk starts with a message. A message starts with a
 * byte for its type and four bytes for its length, which counts these four but not the type.
 */
const offsetWithinMessage = (chunk: Buffer, position: number): number => {
  const offset = 1 + Math.floor(position * (chunk.length - 1))
  let start = 0
  while (start < offset && start + 5 <= chunk.length) {
    start += 1 + chunk.readUInt32BE(start + 1)
  }
  return start === offset ? offset + 1 : offset
}

/** Applies a decision to the first chunk for which `decide` returns one; gives up after `millis`. */
const once = (
  side: "client" | "server",
  { millis, proxy }: Pick<Parameters<Injection>[0], "millis" | "proxy">,
  decide: (chunk: Buffer, connection: ProxyConnection) => Decision | undefined
): Effect.Effect<ProxyConnection | undefined> =>
  Effect.gen(function*() {
    const on = side === "client" ? proxy.onClientData : proxy.onServerData
    const matched = yield* Deferred.make<ProxyConnection>()
    let done = false
    const hook = on((chunk, connection) => {
      const decision = done ? undefined : decide(chunk, connection)
      if (decision === undefined) {
        return "pass"
      }
      done = true
      Deferred.unsafeDone(matched, Effect.succeed(connection))
      return decision
    })
    return yield* Effect.acquireUseRelease(
      hook,
      () =>
        Effect.timeoutTo(Deferred.await(matched), {
          duration: millis,
          onTimeout: () => undefined,
          onSuccess: identity
        }),
      () => on(undefined)
    )
  })

const withinMessage = (side: "client" | "server", how: "cut" | "reset" | "silence"): Injection => (options) =>
  Effect.flatMap(
    once(side, options, (chunk) =>
      chunk.length < 2
        ? undefined
        : { forward: chunk.subarray(0, offsetWithinMessage(chunk, options.position)), then: how }),
    (connection) =>
      connection !== undefined && how === "silence"
        ? lasting(Effect.void, options.millis, Effect.sync(connection.cut))
        : Effect.void
  )

const isCommit = (chunk: Buffer): boolean => chunk.includes("COMMIT")

/** Closes or resets the connection, depending on the position. */
const closeOrReset = (position: number): "cut" | "reset" => position < 0.5 ? "cut" : "reset"

const restart = (stop: (options: Parameters<Injection>[0]) => Effect.Effect<void>): Injection => (options) =>
  Effect.zipRight(
    Effect.acquireUseRelease(stop(options), () => Effect.sleep(options.millis), () => options.server.start),
    options.onRecovery
  )

const onBackend = (signalFunction: string): Injection => ({ position, server }) =>
  query(
    server.url,
    `WITH clients AS (
       SELECT pid, row_number() OVER (ORDER BY pid) - 1 AS n, count(*) OVER () AS total FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = current_database()
     ) SELECT ${signalFunction}(pid) FROM clients WHERE n = floor($1::float8 * total)`,
    [position]
  ).pipe(
    // The server may be down.
    Effect.catchAllDefect(() => Effect.void),
    Effect.timeoutOption("5 seconds"),
    Effect.asVoid
  )

const injections: { readonly [Name in FaultName]: Injection } = {
  cut: onConnection(({ cut }) => cut()),
  reset: onConnection(({ reset }) => reset()),
  silence: ({ position, millis, proxy }) =>
    Effect.suspend(() => {
      const connection = itemAt(proxy.connections(), position)
      return connection === undefined
        ? Effect.void
        : lasting(Effect.sync(connection.silence), millis, Effect.sync(connection.cut))
    }),
  cutAll: ({ proxy }) => proxy.cutAll,
  resetAll: ({ proxy }) => proxy.resetAll,
  silenceAll: ({ millis, proxy }) => lasting(proxy.silence, millis, proxy.unsilence),
  cutRequest: withinMessage("client", "cut"),
  resetRequest: withinMessage("client", "reset"),
  silenceRequest: withinMessage("client", "silence"),
  cutResponse: withinMessage("server", "cut"),
  resetResponse: withinMessage("server", "reset"),
  silenceResponse: withinMessage("server", "silence"),
  loseCommit: (options) =>
    Effect.asVoid(once("client", options, (chunk) => isCommit(chunk) ? closeOrReset(options.position) : undefined)),
  loseCommitResponse: (options) =>
    Effect.suspend(() => {
      let committing: ProxyConnection | undefined = undefined
      const hook = options.proxy.onClientData((chunk, connection) => {
        if (isCommit(chunk)) {
          committing ??= connection
        }
        return "pass"
      })
      return Effect.acquireUseRelease(
        hook,
        () =>
          once("server", options, (_chunk, connection) =>
            connection === committing ? closeOrReset(options.position) : undefined),
        () =>
          options.proxy.onClientData(undefined)
      )
    }),
  refuse: ({ millis, proxy }) => lasting(proxy.refuse, millis, proxy.accept),
  delay: ({ position, millis, proxy }) => lasting(proxy.delay(1 + position * 50), millis, proxy.delay(0)),
  throttle: ({ position, millis, proxy }) =>
    lasting(proxy.throttle(2_000 + position * 50_000), millis, proxy.throttle(Number.POSITIVE_INFINITY)),
  terminate: onBackend("pg_terminate_backend"),
  cancel: onBackend("pg_cancel_backend"),
  pause: ({ millis, server, onRecovery }) => Effect.zipRight(lasting(server.pause, millis, server.resume), onRecovery),
  // A smart shutdown waits until all clients disconnect, which a pool does not: a fast shutdown follows.
  smart: restart(({ millis, server }) =>
    Effect.raceFirst(server.stop("smart"), Effect.zipRight(Effect.sleep(millis), server.stop("fast")))
  ),
  fast: restart(({ server }) => server.stop("fast")),
  immediate: restart(({ server }) => server.stop("immediate")),
  kill: restart(({ server }) => server.kill)
}

/** The relative frequency of each fault. Faults without a weight do not occur. */
export type Weights = { readonly [Name in FaultName]?: number }

/** A sequence of random faults, the same for the same seed. Each takes at most `maxMillis`. */
export const faults = (random: Random, weights: Weights, maxMillis: number): () => Fault => {
  const entries = names.map((name) => [name, weights[name] ?? 0] as const)
  const total = entries.reduce((sum, [, weight]) => sum + weight, 0)
  return () => {
    let remaining = random.next() * total
    const [name] = entries.find(([, weight]) => (remaining -= weight) < 0) ?? entries[entries.length - 1]
    return { name, millis: Math.round(random.between(maxMillis / 20, maxMillis)), position: random.next() }
  }
}

/** Injects random faults, with pauses of up to `maxPause` milliseconds between them, until it is interrupted. */
export const injectRandomly = (
  rig: Rig,
  random: Random,
  options: {
    readonly weights: Weights
    readonly maxMillis: number
    readonly maxPause: number
    readonly onFault?: (fault: Fault) => void
  }
): Effect.Effect<never> => {
  const next = faults(random.branch("faults"), options.weights, options.maxMillis)
  const pauses = random.branch("pauses")
  return Effect.forever(Effect.suspend(() => {
    const fault = next()
    return Effect.zipRight(
      Effect.sleep(pauses.between(0, options.maxPause)),
      Effect.suspend(() => {
        options.onFault?.(fault)
        return rig.inject(fault)
      })
    )
  }))
}
