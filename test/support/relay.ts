/**
 * A server whose machine can stop accepting: a process that relays to another server, and that can be paused with its
 * queue of connections full. The system then drops the packets that would open a connection, as if nobody were there.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as Net from "node:net"
import { setTimeout as sleep } from "node:timers/promises"

export interface Relay {
  /** New connections are neither accepted nor refused. */
  readonly blackhole: Effect.Effect<void>
  /** Accepts again. A client's system repeats its attempt one second after the first. */
  readonly accept: Effect.Effect<void>
}

const program = `
  const Net = require("node:net")
  const [host, port, targetHost, targetPort] = process.argv.slice(1)
  Net.createServer((client) => {
    const server = Net.connect(Number(targetPort), targetHost)
    for (const [one, other] of [[client, server], [server, client]]) {
      one.on("error", () => other.destroy())
      one.on("close", () => other.destroy())
      one.pipe(other)
    }
  }).listen({ host, port: Number(port), backlog: 1 }, () => console.log("listening"))
`

/** Listens on an address and a port, until the scope closes. */
export const relay = (
  at: { readonly host: string; readonly port: number },
  to: { readonly host: string; readonly port: number }
): Effect.Effect<Relay, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const args = [at.host, at.port, to.host, to.port].map(String)
      const child = spawn(process.execPath, ["-e", program, ...args], { stdio: ["ignore", "pipe", "inherit"] })
      await once(child.stdout, "data")
      return { child, fillers: [] as Array<Net.Socket> }
    }),
    ({ child, fillers }) =>
      Effect.sync(() => {
        fillers.forEach((socket) => socket.destroy())
        child.kill("SIGKILL")
      })
  ).pipe(Effect.map(({ child, fillers }) => ({
    blackhole: Effect.promise(async () => {
      child.kill("SIGSTOP")
      for (;;) {
        const socket = Net.connect(at)
        socket.on("error", () => undefined)
        fillers.push(socket)
        const isAccepted = await Promise.race([once(socket, "connect").then(() => true), sleep(300).then(() => false)])
        if (!isAccepted) {
          return
        }
      }
    }),
    accept: Effect.sync(() => {
      fillers.splice(0).forEach((socket) => socket.destroy())
      child.kill("SIGCONT")
    })
  })))
