/**
 * A TCP proxy that injects network faults on command. It does not interpret the bytes that it forwards.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"
import { freePort } from "./serverProcess.js"

/**
 * What to do with a chunk that has arrived. `cut` and `reset` close both sides without forwarding it; `silence` keeps
 * both open, but forwards nothing from now on. With `then`, that happens after the given bytes have been forwarded, so
 * that the other side reads all of them. A Uint8Array replaces the chunk.
 */
export type Decision =
  | "pass"
  | "drop"
  | "cut"
  | "reset"
  | "silence"
  | Uint8Array
  | { readonly forward: Uint8Array; readonly then: "cut" | "reset" | "silence" }

/** Decides about each chunk that one side sends. Chunks are not messages of the protocol. */
export type Hook = (chunk: Buffer, connection: ProxyConnection) => Decision

/** The connection of one client through the proxy. */
export interface ProxyConnection {
  /** Counted from 1. */
  readonly id: number
  /** Closes both sides at once; bytes not yet forwarded are lost. */
  readonly cut: () => void
  /** Resets both sides with a TCP RST: both see ECONNRESET. */
  readonly reset: () => void
  /** Forwards nothing from now on, and keeps both sides open. */
  readonly silence: () => void
}

/** A proxy that listens on 127.0.0.1. */
export interface Proxy {
  readonly port: number
  /** The target's URL through the proxy. */
  readonly url: string
  /** The open connections, oldest first. */
  readonly connections: () => ReadonlyArray<ProxyConnection>
  /** Sends new connections to another target, as a name or an address that was moved does. Open ones stay where they are. */
  readonly retarget: (target: string | { readonly host: string; readonly port: number }) => Effect.Effect<void>
  readonly cutAll: Effect.Effect<void>
  readonly resetAll: Effect.Effect<void>
  /**
   * Simulates a network that loses every packet: connections stay open and new ones are accepted, but nothing is
   * forwarded, not even that a side has closed.
   */
  readonly silence: Effect.Effect<void>
  /** Ends the silence, and forwards what both sides have sent in the meantime. */
  readonly unsilence: Effect.Effect<void>
  /** Refuses new connections, and keeps the open ones. */
  readonly refuse: Effect.Effect<void>
  readonly accept: Effect.Effect<void>
  /** Delays each direction by this many milliseconds; 0 ends the delay. */
  readonly delay: (millis: number) => Effect.Effect<void>
  /** Limits each direction of each connection to this many bytes per second; Infinity ends the limit. */
  readonly throttle: (bytesPerSecond: number) => Effect.Effect<void>
  /** Replaces the hook for what clients send; undefined forwards everything. */
  readonly onClientData: (hook: Hook | undefined) => Effect.Effect<void>
  /** Replaces the hook for what the server sends; undefined forwards everything. */
  readonly onServerData: (hook: Hook | undefined) => Effect.Effect<void>
}

interface State {
  silent: boolean
  delay: number
  bytesPerSecond: number
}

// Bytes queued per direction. Small, so that backpressure reaches the writing side as it would without a proxy.
const highWater = 64 * 1024

interface Direction {
  /** Forwards as much as is due and not held back. */
  readonly pump: () => void
  readonly dispose: () => void
}

/** Forwards what `source` sends to `sink`, in order. */
const makeDirection = (options: {
  readonly source: Net.Socket
  readonly sink: Net.Socket
  readonly state: State
  readonly isSilent: () => boolean
  readonly hook: (chunk: Buffer) => Decision
  readonly connection: ProxyConnection
}): Direction => {
  const { connection, sink, source, state } = options
  type Item =
    | { readonly _tag: "data"; readonly chunk: Uint8Array; readonly due: number }
    | { readonly _tag: "end" | "cut" | "reset" | "silence"; readonly due: number }
  const queue: Array<Item> = []
  let queued = 0
  let busyUntil = 0
  let discarding = false
  let timer: NodeJS.Timeout | undefined

  const pump = (): void => {
    clearTimeout(timer)
    while (queue.length > 0 && !options.isSilent()) {
      const item = queue[0]
      const wait = item.due - performance.now()
      if (wait > 0) {
        timer = setTimeout(pump, Math.ceil(wait))
        return
      }
      if (item._tag === "data" && sink.writableNeedDrain) {
        return
      }
      queue.shift()
      switch (item._tag) {
        case "data": {
          queued -= item.chunk.length
          sink.write(item.chunk)
          break
        }
        case "end": {
          sink.end()
          break
        }
        case "silence": {
          connection.silence()
          break
        }
        case "cut":
        case "reset": {
          const close = item._tag === "cut" ? connection.cut : connection.reset
          // The callback runs when the kernel has accepted all bytes before it.
          sink.write("", close)
          return
        }
      }
    }
    if (queued < highWater && source.isPaused()) {
      source.resume()
    }
  }

  const push = (item: { readonly _tag: "end" | "cut" | "reset" | "silence" }): void => {
    queue.push({ ...item, due: Math.max(busyUntil, performance.now() + state.delay) })
    pump()
  }

  const forward = (chunk: Uint8Array): void => {
    const transfer = (chunk.length / state.bytesPerSecond) * 1000
    busyUntil = Math.max(busyUntil, performance.now() + state.delay) + transfer
    queue.push({ _tag: "data", chunk, due: busyUntil })
    queued += chunk.length
    if (queued >= highWater) {
      source.pause()
    }
    pump()
  }

  source.on("data", (chunk: Buffer) => {
    if (discarding) {
      return
    }
    const decision = options.hook(chunk)
    if (decision instanceof Uint8Array) {
      return forward(decision)
    }
    if (typeof decision === "object") {
      discarding = true
      forward(decision.forward)
      return push({ _tag: decision.then })
    }
    switch (decision) {
      case "pass":
        return forward(chunk)
      case "drop":
        return
      case "cut":
        return connection.cut()
      case "reset":
        return connection.reset()
      case "silence":
        return connection.silence()
    }
  })
  source.on("end", () => push({ _tag: "end" }))
  source.on("error", () => push({ _tag: "reset" }))
  sink.on("drain", pump)
  return { pump, dispose: () => clearTimeout(timer) }
}

const parseTarget = (target: string | { readonly host: string; readonly port: number }) => {
  const url = new URL(typeof target === "string" ? target : `postgres://${target.host}:${target.port}/`)
  return { url, host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port === "" ? 5432 : url.port) }
}

/** A proxy in front of the target, until the scope closes. */
export const proxy = (
  target: string | { readonly host: string; readonly port: number }
): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.acquireRelease(Effect.promise(() => listen(target)), ({ close }) => Effect.promise(close)).pipe(
    Effect.map(({ proxy }) => proxy)
  )

const listen = async (target: string | { readonly host: string; readonly port: number }) => {
  const { url, ...initial } = parseTarget(target)
  let at: { readonly host: string; readonly port: number } = initial
  const state: State = { silent: false, delay: 0, bytesPerSecond: Number.POSITIVE_INFINITY }
  const open = new Map<ProxyConnection, () => void>()
  let clientHook: Hook | undefined
  let serverHook: Hook | undefined
  let accepted = 0

  const connect = (client: Net.Socket): void => {
    const server = Net.connect({ host: at.host, port: at.port, allowHalfOpen: true, noDelay: true })
    client.setNoDelay(true)
    let silent = false
    const close = (how: "destroy" | "resetAndDestroy") => () => {
      client[how]()
      server[how]()
    }
    const connection: ProxyConnection = {
      id: ++accepted,
      cut: close("destroy"),
      reset: close("resetAndDestroy"),
      silence: () => {
        silent = true
      }
    }
    const isSilent = () => silent || state.silent
    const up = makeDirection({
      source: client,
      sink: server,
      state,
      isSilent,
      hook: (chunk) => clientHook?.(chunk, connection) ?? "pass",
      connection
    })
    const down = makeDirection({
      source: server,
      sink: client,
      state,
      isSilent,
      hook: (chunk) => serverHook?.(chunk, connection) ?? "pass",
      connection
    })
    open.set(connection, () => {
      up.pump()
      down.pump()
    })
    const closed = (): void => {
      if (client.closed && server.closed) {
        up.dispose()
        down.dispose()
        open.delete(connection)
      }
    }
    client.once("close", closed)
    server.once("close", closed)
  }

  const port = await freePort()
  const makeListener = async (): Promise<Net.Server> => {
    const listener = Net.createServer({ allowHalfOpen: true, noDelay: true }, connect)
    listener.listen(port, "127.0.0.1")
    await once(listener, "listening")
    return listener
  }
  let listener: Net.Server | undefined = await makeListener()

  const each = (act: (connection: ProxyConnection, pump: () => void) => void): void => {
    for (const [connection, pump] of open) {
      act(connection, pump)
    }
  }
  url.hostname = "127.0.0.1"
  url.port = String(port)

  const proxy: Proxy = {
    port,
    url: url.toString(),
    connections: () => [...open.keys()],
    retarget: (target) =>
      Effect.sync(() => {
        at = parseTarget(target)
      }),
    cutAll: Effect.sync(() => each((connection) => connection.cut())),
    resetAll: Effect.sync(() => each((connection) => connection.reset())),
    silence: Effect.sync(() => {
      state.silent = true
    }),
    unsilence: Effect.sync(() => {
      state.silent = false
      each((_, pump) => pump())
    }),
    refuse: Effect.sync(() => {
      listener?.close()
      listener = undefined
    }),
    accept: Effect.promise(async () => {
      listener ??= await makeListener()
    }),
    delay: (millis) =>
      Effect.sync(() => {
        state.delay = millis
      }),
    throttle: (bytesPerSecond) =>
      Effect.sync(() => {
        state.bytesPerSecond = bytesPerSecond
      }),
    onClientData: (hook) =>
      Effect.sync(() => {
        clientHook = hook
      }),
    onServerData: (hook) =>
      Effect.sync(() => {
        serverHook = hook
      })
  }
  return {
    proxy,
    close: async () => {
      each((connection) => connection.cut())
      if (listener !== undefined) {
        listener.close()
        await once(listener, "close")
      }
    }
  }
}
