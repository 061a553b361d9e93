/**
 * Runs programs that serve HTTP, each as a process of its own.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as sleep } from "node:timers/promises"

/** How a program ended, and what it has printed. */
export interface Result {
  readonly status: number | null
  readonly output: string
}

interface Server {
  /** What it has printed so far. */
  readonly printed: () => string
  /** Ends it with SIGTERM. Returns whether it ended in time. */
  readonly stop: () => Promise<boolean>
}

interface Options {
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  /** What it prints when it is ready. */
  readonly ready: string
}

/** Starts a server, uses it once it is ready, and ends it. `use` returns whether it passed, and what it has seen. */
export const withServer = async (
  [file, ...args]: ReadonlyArray<string>,
  { cwd, env, ready }: Options,
  use: (server: Server) => Promise<{ readonly passed: boolean; readonly seen: string }>
): Promise<Result> => {
  const child = spawn(file, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] })
  let output = ""
  child.stdout.on("data", (chunk) => output += chunk)
  child.stderr.on("data", (chunk) => output += chunk)
  const closed = once(child, "close")
  const timer = setTimeout(() => child.kill("SIGKILL"), 120_000)
  try {
    while (!output.includes(ready) && child.exitCode === null && child.signalCode === null) {
      await sleep(20)
    }
    const { passed, seen } = await use({
      printed: () => output,
      stop: async () => {
        child.kill("SIGTERM")
        await closed
        return child.signalCode !== "SIGKILL"
      }
    })
    return { status: passed ? 0 : 1, output: `${output}\n${seen}` }
  } catch (error) {
    return { status: 1, output: `${output}\n${String(error)}` }
  } finally {
    clearTimeout(timer)
    child.kill("SIGKILL")
    await closed
  }
}
