/**
 * The process of one peer: it does what its parent asks for, and answers with what it found. It ends with its parent.
 */
import type { Open, Options, Task } from "./peer.js"

/** Which peer it is, and how to open it. */
export interface Setup extends Options {
  readonly module: string
  readonly entry: string
}

export type Request =
  | Task
  /** How many bytes so many waiting sessions take. */
  | { readonly wait: number }

const setup: Setup = JSON.parse(process.argv[2])
const { [setup.entry]: open }: { readonly [entry: string]: Open } = await import(`./peers/${setup.module}.js`)
const peer = await open(setup)

const bytes = () => {
  globalThis.gc?.()
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
}

const answer = async (request: Request): Promise<unknown> => {
  if ("work" in request) {
    return await peer.run(request)
  }
  const before = bytes()
  const release = await peer.wait?.(request.wait)
  const after = bytes()
  await release?.()
  return after - before
}

process.on("message", (request: Request) => {
  void answer(request).then(
    (result) => process.send?.(result),
    (error: unknown) => process.send?.({ error: String(error) })
  )
})
process.once("disconnect", () => process.exit(0))
process.send?.({ works: peer.works })
