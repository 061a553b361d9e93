/**
 * The thread of a connection: an engine that answers messages.
 */
import { parentPort, workerData } from "node:worker_threads"
import { holdsBytes } from "./bytes.js"
import { Engine } from "./engine.js"
import { Phase, type Reply, type Request, type ThreadData } from "./protocol.js"

const { options, phase } = workerData as ThreadData
const current = new Int32Array(phase)
const port = parentPort!

const engine = new Engine(options, {
  stopped: () => Atomics.load(current, 0) === Phase.stopped,
  commits: () => Atomics.compareExchange(current, 0, Phase.running, Phase.committing) !== Phase.stopped
})

const send = (reply: Reply): void => port.postMessage({ reply, bytes: holdsBytes(reply.value) })

port.on("message", (request: Request) => {
  const answer = engine.answer(request)
  if (answer instanceof Promise) {
    void answer.then(send)
  } else {
    send(answer)
  }
})
