/**
 * The parent's side of a peer's process.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import type { Arrivals, Served } from "./arrivals.js"
import type { Request, Setup } from "./child.js"
import type { Measurement, Options, Task } from "./peer.js"
import { type Kind, python } from "./peers.js"
import { accounts, largeRows, readable, streamable } from "./workloads.js"

export const folder = path.dirname(fileURLToPath(import.meta.url))
export const root = path.join(folder, "../..")

export interface Remote {
  readonly run: (task: Task) => Promise<Measurement>
  /** The number of bytes per waiting session, measured with this number of them. */
  readonly wait: (sessions: number) => Promise<number>
  readonly arrive: (arrivals: Arrivals) => Promise<Served>
  readonly end: () => Promise<void>
}

const start = (kind: Kind, options: Options): ChildProcess => {
  // The compiled sources, since the code that tsx emits sets the name of each function whenever one is created.
  const node = [process.execPath, "--expose-gc", path.join(folder, "build/test/bench/child.js")]
  const setup: Setup = { ...options, module: kind.module, entry: kind.entry }
  const command = kind.entry === "python"
    ? [python("sqlalchemy") ?? "python3", path.join(folder, `peers/${kind.module}.py`)]
    : node
  return spawn(command[0], [
    ...command.slice(1),
    JSON.stringify({ ...setup, dialect: kind.dialect, accounts, largeRows, readable, streamable })
  ], { cwd: root, stdio: ["ignore", "inherit", "inherit", "ipc"] })
}

/** Starts the process of a peer, which exits when this process does. */
export const remote = async (kind: Kind, options: Options): Promise<Remote> => {
  const child = start(kind, options)

  const nextMessage = async (): Promise<any> => {
    const done = new AbortController()
    try {
      const [message] = await Promise.race([
        once(child, "message", done),
        once(child, "exit", done).then(() => [{ error: "its process ended" }])
      ])
      if (message?.error !== undefined) {
        throw new Error(`${kind.name}: ${message.error}`)
      }
      return message
    } finally {
      done.abort()
    }
  }

  const send = (request: Request): Promise<any> => {
    child.send(request)
    return nextMessage()
  }

  await nextMessage()
  return {
    run: send,
    arrive: send,
    wait: async (sessions) => await send({ wait: sessions }) / sessions,
    end: async () => {
      const exited = once(child, "exit")
      child.disconnect()
      await exited
    }
  }
}
