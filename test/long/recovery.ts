/**
 * How the pools of several processes connect to a server that was just promoted:
 * `recovery.ts [--rounds 10] [--processes 4] [--connections 24]`. Kills the primary and promotes a standby, and counts at a proxy in
 * front of that one how many connections each process is opening at the same time. Exits with 1 if that is more than the limit and
 * one, which the look in the background may add.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { parseArgs } from "node:util"
import { maxStarting } from "../../src/internal/cluster/connectLimit.js"
import { nodeArguments } from "../support/bundledProgram.js"
import { query } from "../support/client.js"
import { type Cluster, makeCluster, type Member } from "../support/cluster.js"
import { eventually } from "../support/eventually.js"
import { type Proxy, proxy, type ProxyConnection } from "../support/proxy.js"
import { scopedProcess } from "../support/scopedProcess.js"
import { scopedInstallation } from "../support/server.js"

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "10" },
    processes: { type: "string", default: "4" },
    connections: { type: "string", default: "24" }
  }
})

const names = Array.from({ length: Number(values.processes) }, (_, i) => `process${i + 1}`)
const connections = Number(values.connections)
const print = (text: string): void => void process.stdout.write(`${text}\n`)

/** A proxy that counts, for each process, the connections that are being opened at the same time. */
const countingProxy = (member: Member) =>
  Effect.gen(function*() {
    const inFront: Proxy = yield* proxy(member.url)
    const opening = new Map<ProxyConnection, string>()
    let highest = 0
    yield* inFront.onClientData((chunk, connection) => {
      // The start-up message has the application's name, and ends with two zero bytes.
      const name = names.find((name) => chunk.includes(`application_name\0${name}\0`))
      if (name !== undefined) {
        opening.set(connection, name)
        const count = Array.from(opening.entries()).filter(([open, other]) =>
          other === name && inFront.connections().includes(open)
        ).length
        highest = Math.max(highest, count)
      }
      return "pass"
    })
    yield* inFront.onServerData((chunk, connection) => {
      // ReadyForQuery: the connection is open.
      if (chunk.includes("Z\0\0\0\x05")) {
        opening.delete(connection)
      }
      return "pass"
    })
    return {
      ...inFront,
      member,
      reset: () => {
        highest = 0
      },
      highest: () => highest
    }
  })

const application = (url: string, name: string): Effect.Effect<ChildProcess, never, Scope.Scope> =>
  scopedProcess(() =>
    spawn(
      process.execPath,
      [...nodeArguments("test/support/recoveryProcess.ts"), url, name, String(connections)],
      { stdio: ["pipe", "inherit", "inherit"] }
    )
  )

/** Waits until all processes have all of their connections. */
const full = (cluster: Cluster) =>
  eventually(
    Effect.map(
      query(
        cluster.primary().url,
        "SELECT application_name, count(*)::int AS n FROM pg_stat_activity WHERE application_name = ANY($1) GROUP BY 1",
        [names]
      ),
      (rows) => rows.length === names.length && rows.every(({ n }) => n === connections)
    ),
    { timeout: "2 minutes" }
  )

const program = Effect.gen(function*() {
  const cluster = yield* makeCluster(yield* scopedInstallation, {
    standbys: 1,
    maxConnections: names.length * connections + 20
  })
  const proxies = yield* Effect.forEach(cluster.members, countingProxy)
  const { password, username } = new URL(cluster.primary().url)
  const hosts = proxies.map(({ port }) => `127.0.0.1:${port}`).join(",")
  const url = `postgres://${username}:${password}@${hosts}/postgres?sslmode=disable`
  yield* Effect.forEach(names, (name) => application(url, name))
  yield* full(cluster)
  let highest = 0
  for (let round = 1; round <= Number(values.rounds); round++) {
    const former = cluster.primary()
    const old = proxies.find(({ member }) => member === former)!
    const next = proxies.find(({ member }) => member !== former)!
    next.reset()
    yield* old.refuse
    yield* former.kill
    yield* cluster.promote()
    yield* full(cluster)
    const millis = Math.round(performance.now() - cluster.promotedAt())
    highest = Math.max(highest, next.highest())
    print(
      `${new Date().toISOString()} round ${round}: at most ${next.highest()} at a time for each process, ` +
        `all ${names.length * connections} after ${millis} ms`
    )
    yield* cluster.restore
    yield* old.accept
  }
  print(
    `at most ${highest} connections of a process were being opened at a time; the limit is ${maxStarting}, and a look`
  )
  return highest
})

const highest = await Effect.runPromise(Effect.scoped(program))
process.exitCode = highest <= maxStarting + 1 ? 0 : 1
