/**
 * The worker thread of a connection: an engine that responds to messages.
 */
import type { Binding } from "./binding.js"
import { Engine } from "./engine.js"
import { type LoadedFunctions, loadFunctions } from "./functions.js"
import { loadBinding } from "./loadBinding.js"
import { pack } from "./packedRows.js"
import {
  Activity,
  Phase,
  type RequestMessage,
  type Response,
  type ResponseMessage,
  type WorkerData
} from "./protocol.js"

const isWorkerData = (data: unknown): data is WorkerData =>
  typeof data === "object" && data !== null && "phases" in data && "activity" in data && "port" in data

/**
 * Runs in the thread until its connection is closed or destroyed. Does nothing in a thread that is not a connection's.
 */
export const runWorker = (workerData: unknown): void => {
  if (isWorkerData(workerData)) {
    start(workerData)
  }
}

const start = ({ options, port, ...shared }: WorkerData): void => {
  const phases = new Int32Array(shared.phases)
  const activity = new Int32Array(shared.activity)

  /** The request that is being handled. */
  let current = 0

  const serve = (binding: Binding, functions: LoadedFunctions): void => {
    const engine = new Engine(binding, options, {
      isCancelable: () => true,
      isCanceled: () => Atomics.load(phases, current) === Phase.canceled,
      enterCommit: () => Atomics.compareExchange(phases, current, Phase.running, Phase.committing) !== Phase.canceled
    }, functions)

    const handle = (request: RequestMessage): Response | Promise<Response> => {
      current = request.requestId
      return Atomics.compareExchange(phases, current, Phase.queued, Phase.running) === Phase.queued
        ? engine.handle(request)
        : engine.handleCanceled()
    }

    const respond = (requestId: number, response: Response): void => {
      const message: ResponseMessage = { requestId, response: { ...response, value: pack(response.value) } }
      port.postMessage(message)
      Atomics.sub(activity, 0, 1)
      Atomics.notify(activity, 0)
    }

    // Each response is sent as soon as it is there, since the next request may take long.
    port.on("message", (requests: ReadonlyArray<RequestMessage>) => {
      for (const request of requests) {
        Atomics.add(activity, 0, 1)
        const response = handle(request)
        if (response instanceof Promise) {
          void response.then((response) => respond(request.requestId, response))
        } else {
          respond(request.requestId, response)
        }
      }
    })

    // The connection was destroyed. Closing rolls back and releases the locks, and then the thread ends by itself.
    port.on("close", () => engine.close())

    Atomics.store(activity, 0, Activity.idle)
    Atomics.notify(activity, 0)
  }

  // A failure ends the thread with an error, which its parent reports.
  void loadBinding(options.binding).then(async (binding) => serve(binding, await loadFunctions(options.functions)))
}
