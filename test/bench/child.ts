/**
 * The process of one peer: runs the requests of its parent, and sends back the results. Exits when its parent does.
 */
import { type Arrivals, arrive } from "./arrivals.js"
import type { Open, Options, Task } from "./peer.js"

/** Which module and export is the peer, and the options to open it with. */
export interface Setup extends Options {
  readonly module: string
  readonly entry: string
}

export type Request =
  | Task
  /** Measures how many bytes this number of waiting sessions takes. */
  | { readonly wait: number }
  | Arrivals

const setup: Setup = JSON.parse(process.argv[2])
const { [setup.entry]: open }: { readonly [entry: string]: Open } = await import(`./peers/${setup.module}.js`)
const peer = await open(setup)

const bytes = () => {
  globalThis.gc?.()
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
}

const handle = async (request: Request): Promise<unknown> => {
  if ("work" in request) {
    return await peer.run(request)
  }
  if ("arrivals" in request) {
    return await arrive(peer, request)
  }
  const before = bytes()
  const release = await peer.wait?.(request.wait)
  const after = bytes()
  await release?.()
  return after - before
}

process.on("message", (request: Request) => {
  void handle(request).then(
    (result) => process.send?.(result),
    (error: unknown) => process.send?.({ error: String(error) })
  )
})
process.once("disconnect", () => process.exit(0))
process.send?.({ ready: true })
