/**
 * The fault rig: what can go wrong between an application and its server, on command or by a seed.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { query } from "./client.js"
import { type Decision, type Proxy, proxy, type ProxyConnection } from "./proxy.js"
import type { Random } from "./random.js"
import type { Server } from "./server.js"

const names = [
  // One connection is closed; or nothing comes through any more, until it is closed after all.
  "cut",
  "reset",
  "silence",
  // The same for all of them; a silent network comes back.
  "cutAll",
  "resetAll",
  "silenceAll",
  // In the middle of the next message.
  "cutRequest",
  "resetRequest",
  "silenceRequest",
  "cutAnswer",
  "resetAnswer",
  "silenceAnswer",
  // The next COMMIT does not arrive, or its answer does not.
  "loseCommit",
  "loseCommitted",
  // New connections are refused.
  "refuse",
  "delay",
  "throttle",
  // One backend, or what it runs, is ended.
  "terminate",
  "cancel",
  // All of the server's processes stand still for a while.
  "pause",
  // It ends, and is started again.
  "smart",
  "fast",
  "immediate",
  "kill"
] as const

export type FaultName = (typeof names)[number]

export const faultNames: ReadonlyArray<FaultName> = names

/** One thing that goes wrong. */
export interface Fault {
  readonly name: FaultName
  /** How long it lasts, where it does, in milliseconds. Longest wait for a message, where it waits for one. */
  readonly millis: number
  /** Which connection, or which place in a message: from the first to the last, as 0 to 1. */
  readonly at: number
}

export interface Rig {
  readonly proxy: Proxy
  readonly server: Server
  /** The server's URL through the proxy. */
  readonly url: string
  /** Lets it happen, and returns when it is over. To be given one after the other. */
  readonly strike: (fault: Fault) => Effect.Effect<void>
}

/** A proxy in front of the server. `whenBack` runs each time the server accepts connections again. */
export const make = (
  server: Server,
  whenBack: Effect.Effect<void> = Effect.void
): Effect.Effect<Rig, never, Scope.Scope> =>
  Effect.map(proxy(server.url), (proxy) => ({
    proxy,
    server,
    url: proxy.url,
    strike: (fault) => strikes[fault.name]({ proxy, server, whenBack, ...fault })
  }))

type Strike = (
  options: Fault & { readonly proxy: Proxy; readonly server: Server; readonly whenBack: Effect.Effect<void> }
) => Effect.Effect<void>

/** One of them; none where there is none. */
const at = <A>(items: ReadonlyArray<A>, where: number): A | undefined => items[Math.floor(where * items.length)]

const toOne = (act: (connection: ProxyConnection) => void): Strike => ({ at: where, proxy }) =>
  Effect.sync(() => {
    const connection = at(proxy.connections(), where)
    if (connection !== undefined) {
      act(connection)
    }
  })

/** Until it is undone, also when that is because of an interruption. */
const lasting = (begin: Effect.Effect<void>, millis: number, end: Effect.Effect<void>): Effect.Effect<void> =>
  Effect.acquireUseRelease(begin, () => Effect.sleep(millis), () => end)

/**
 * A place inside of a message, if the piece begins with one: the type is one byte, and four more are the length of the
 * rest, themselves included.
 */
const inside = (chunk: Buffer, where: number): number => {
  const place = 1 + Math.floor(where * (chunk.length - 1))
  let start = 0
  while (start < place && start + 5 <= chunk.length) {
    start += 1 + chunk.readUInt32BE(start + 1)
  }
  return start === place ? place + 1 : place
}

/** Decides about the first piece for which there is a decision, if it comes in time. */
const once = (
  side: "client" | "server",
  { millis, proxy }: Pick<Parameters<Strike>[0], "millis" | "proxy">,
  decide: (chunk: Buffer, connection: ProxyConnection) => Decision | undefined
): Effect.Effect<ProxyConnection | undefined> =>
  Effect.gen(function*() {
    const on = side === "client" ? proxy.onClientData : proxy.onServerData
    const struck = yield* Deferred.make<ProxyConnection>()
    let hit = false
    const hook = on((chunk, connection) => {
      const decision = hit ? undefined : decide(chunk, connection)
      if (decision === undefined) {
        return "pass"
      }
      hit = true
      Deferred.unsafeDone(struck, Effect.succeed(connection))
      return decision
    })
    return yield* Effect.acquireUseRelease(
      hook,
      () => Effect.timeoutTo(Deferred.await(struck), { duration: millis, onTimeout: () => undefined, onSuccess: same }),
      () => on(undefined)
    )
  })

const same = <A>(value: A): A => value

const midway = (side: "client" | "server", how: "cut" | "reset" | "silence"): Strike => (options) =>
  Effect.flatMap(
    once(side, options, (chunk) =>
      chunk.length < 2
        ? undefined
        : { forward: chunk.subarray(0, inside(chunk, options.at)), then: how }),
    (connection) =>
      connection !== undefined && how === "silence"
        ? lasting(Effect.void, options.millis, Effect.sync(connection.cut))
        : Effect.void
  )

const isCommit = (chunk: Buffer): boolean => chunk.includes("COMMIT")

/** Which end of the connection gets to know first is left to chance: it is closed, or reset. */
const ending = (where: number): "cut" | "reset" => where < 0.5 ? "cut" : "reset"

const restarts = (down: (options: Parameters<Strike>[0]) => Effect.Effect<void>): Strike => (options) =>
  Effect.zipRight(
    Effect.acquireUseRelease(down(options), () => Effect.sleep(options.millis), () => options.server.start),
    options.whenBack
  )

const ofBackend = (what: string): Strike => ({ at: where, server }) =>
  query(
    server.url,
    `WITH clients AS (
       SELECT pid, row_number() OVER (ORDER BY pid) - 1 AS n, count(*) OVER () AS total FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
     ) SELECT ${what}(pid) FROM clients WHERE n = floor($1::float8 * total)`,
    [where]
  ).pipe(
    // The server may be away.
    Effect.catchAllDefect(() => Effect.void),
    Effect.timeoutOption("5 seconds"),
    Effect.asVoid
  )

const strikes: { readonly [Name in FaultName]: Strike } = {
  cut: toOne(({ cut }) => cut()),
  reset: toOne(({ reset }) => reset()),
  silence: ({ at: where, millis, proxy }) =>
    Effect.suspend(() => {
      const connection = at(proxy.connections(), where)
      return connection === undefined
        ? Effect.void
        : lasting(Effect.sync(connection.silence), millis, Effect.sync(connection.cut))
    }),
  cutAll: ({ proxy }) => proxy.cutAll,
  resetAll: ({ proxy }) => proxy.resetAll,
  silenceAll: ({ millis, proxy }) => lasting(proxy.silence, millis, proxy.unsilence),
  cutRequest: midway("client", "cut"),
  resetRequest: midway("client", "reset"),
  silenceRequest: midway("client", "silence"),
  cutAnswer: midway("server", "cut"),
  resetAnswer: midway("server", "reset"),
  silenceAnswer: midway("server", "silence"),
  loseCommit: (options) =>
    Effect.asVoid(once("client", options, (chunk) => isCommit(chunk) ? ending(options.at) : undefined)),
  loseCommitted: (options) =>
    Effect.suspend(() => {
      let committing: ProxyConnection | undefined = undefined
      const noted = options.proxy.onClientData((chunk, connection) => {
        if (isCommit(chunk)) {
          committing ??= connection
        }
        return "pass"
      })
      return Effect.acquireUseRelease(
        noted,
        () =>
          once("server", options, (_chunk, connection) => connection === committing ? ending(options.at) : undefined),
        () => options.proxy.onClientData(undefined)
      )
    }),
  refuse: ({ millis, proxy }) => lasting(proxy.refuse, millis, proxy.accept),
  delay: ({ at: where, millis, proxy }) => lasting(proxy.delay(1 + where * 50), millis, proxy.delay(0)),
  throttle: ({ at: where, millis, proxy }) =>
    lasting(proxy.throttle(2_000 + where * 50_000), millis, proxy.throttle(Number.POSITIVE_INFINITY)),
  terminate: ofBackend("pg_terminate_backend"),
  cancel: ofBackend("pg_cancel_backend"),
  pause: ({ millis, server, whenBack }) => Effect.zipRight(lasting(server.pause, millis, server.resume), whenBack),
  // Those who are there may stay, which a pool does: so it must be told more clearly.
  smart: restarts(({ millis, server }) =>
    Effect.raceFirst(server.stop("smart"), Effect.zipRight(Effect.sleep(millis), server.stop("fast")))
  ),
  fast: restarts(({ server }) => server.stop("fast")),
  immediate: restarts(({ server }) => server.stop("immediate")),
  kill: restarts(({ server }) => server.kill)
}

/** How often each happens, compared with the others; those that are left out do not. */
export type Weights = { readonly [Name in FaultName]?: number }

/** One after the other, the same for the same seed. They last up to `longest` milliseconds. */
export const faults = (random: Random, weights: Weights, longest: number): () => Fault => {
  const entries = names.map((name) => [name, weights[name] ?? 0] as const)
  const total = entries.reduce((sum, [, weight]) => sum + weight, 0)
  return () => {
    let left = random.next() * total
    const [name] = entries.find(([, weight]) => (left -= weight) < 0) ?? entries[entries.length - 1]
    return { name, millis: Math.round(random.between(longest / 20, longest)), at: random.next() }
  }
}

/** Lets one after the other happen, with up to `calm` milliseconds between them, until it is interrupted. */
export const storm = (
  rig: Rig,
  random: Random,
  options: {
    readonly weights: Weights
    readonly longest: number
    readonly calm: number
    readonly onStrike?: (fault: Fault) => void
  }
): Effect.Effect<never> => {
  const next = faults(random.branch("faults"), options.weights, options.longest)
  const pauses = random.branch("pauses")
  return Effect.forever(Effect.suspend(() => {
    const fault = next()
    return Effect.zipRight(
      Effect.sleep(pauses.between(0, options.calm)),
      Effect.suspend(() => {
        options.onStrike?.(fault)
        return rig.strike(fault)
      })
    )
  }))
}
