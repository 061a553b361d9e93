/**
 * The process of one HTTP server: says where it listens, and what it has cost. Exits when its parent does.
 */

/** Which module of `peers` and which of its exports the server is, and the database that it uses. */
export interface Setup {
  readonly module: string
  readonly entry: string
  readonly url: string
  readonly pool: number
}

/** Starts a server, and resolves to its port. */
export type Serve = (options: Pick<Setup, "url" | "pool">) => Promise<number>

/** What a server's process has taken: its CPU time since the start of a run, and its peak memory in megabytes. */
export interface Usage {
  readonly cpuMicros: number
  readonly peak: number
}

const setup: Setup = JSON.parse(process.argv[2])
const { [setup.entry]: serve }: { readonly [entry: string]: Serve } = await import(`./peers/${setup.module}.js`)
const port = await serve(setup)

let started = process.cpuUsage()

process.on("message", (message: "start" | "stop") => {
  if (message === "start") {
    globalThis.gc?.()
    started = process.cpuUsage()
    process.send?.({})
  } else {
    const { system, user } = process.cpuUsage(started)
    const usage: Usage = { cpuMicros: system + user, peak: process.resourceUsage().maxRSS / 1_024 }
    process.send?.(usage)
  }
})
process.once("disconnect", () => process.exit(0))
process.send?.({ port })
