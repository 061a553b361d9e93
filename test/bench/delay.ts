/**
 * A database that is further away: behind a proxy, in a process of its own, that delays what it forwards.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as path from "node:path"
import type { Setup } from "./delayProxy.js"
import { folder, root } from "./remote.js"

export interface Delayed {
  readonly url: string
  readonly close: () => Promise<void>
}

/** Delays each direction by this number of milliseconds. */
export const delayed = async (url: string, millis: number): Promise<Delayed> => {
  const through = new URL(url)
  const setup: Setup = { host: through.hostname, port: Number(through.port), millis }
  const child = spawn(
    process.execPath,
    [path.join(folder, "build/test/bench/delayProxy.js"), JSON.stringify(setup)],
    { cwd: root, stdio: ["ignore", "inherit", "inherit", "ipc"] }
  )
  const [port] = await once(child, "message")
  through.hostname = "127.0.0.1"
  through.port = String(port)
  return {
    url: through.href,
    close: async () => {
      const exited = once(child, "exit")
      child.disconnect()
      await exited
    }
  }
}
