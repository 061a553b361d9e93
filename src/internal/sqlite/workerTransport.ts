/**
 * Sends requests to an engine on a worker thread.
 */
import { MessageChannel, receiveMessageOnPort } from "node:worker_threads"
import { unpack } from "./packedRows.js"
import { addThread, removeThread, type RunningThread } from "./processExit.js"
import {
  Activity,
  maxInFlight,
  type OpenOptions,
  Phase,
  type RequestMessage,
  type ResponseMessage
} from "./protocol.js"
import { startWorker } from "./startWorker.js"
import type { Completion, SentRequest, Transport } from "./transport.js"

const completed: SentRequest = { cancel: () => true }

/** How long a canceled request may take to end before its connection is given up, in milliseconds. */
export interface GracePeriods {
  /** Default: 200. */
  readonly statement?: number
  /** If it is committing already. Default: 800. */
  readonly commit?: number
}

/**
 * An engine on a worker thread. The thread keeps the process alive only while requests are in flight.
 *
 * Requests of the same iteration of the event loop are sent as one message. While the thread is busy more of them are
 * collected, since they would only wait in its queue.
 *
 * The thread is never terminated, because better-sqlite3 may abort the process then. If a statement does not end in time
 * the thread is left to end after it: all requests are canceled, so it commits nothing, closes the database, and ends.
 */
export const workerTransport = (
  options: OpenOptions,
  { commit: commitGrace = 800, statement: statementGrace = 200 }: GracePeriods = {}
): Transport => {
  const phases = new Int32Array(new SharedArrayBuffer(maxInFlight * Int32Array.BYTES_PER_ELEMENT))
  const activity = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  activity[0] = Activity.starting
  const { port1: port, port2 } = new MessageChannel()
  const worker = startWorker({ options, phases: phases.buffer, activity: activity.buffer, port: port2 })
  /** The requests in flight, by id. */
  const inFlight = new Map<number, (completion: Completion) => void>()
  const freeIds = Array.from({ length: maxInFlight }, (_, id) => id)
  let unsent: Array<RequestMessage> = []
  /** Responses that have arrived and were not handed over yet, in order. */
  const handovers: Array<ResponseMessage> = []
  let isHandingOver = false
  let lostListener: ((reason: string) => void) | undefined
  let lostReason: string | undefined

  /** False if a parameter cannot be cloned, such as bytes whose memory was transferred after they were bound. */
  const tryPost = (requests: ReadonlyArray<RequestMessage>): boolean => {
    try {
      port.postMessage(requests)
      return true
    } catch {
      return false
    }
  }

  const flush = () => {
    const requests = unsent
    unsent = []
    if (lostReason === undefined && !tryPost(requests)) {
      for (const request of requests) {
        if (!tryPost([request])) {
          complete(request.requestId, { _tag: "NotSent", timedOut: false })
        }
      }
    }
  }

  const complete = (requestId: number, completion: Completion) => {
    const onComplete = inFlight.get(requestId)
    if (onComplete !== undefined) {
      inFlight.delete(requestId)
      freeIds.push(requestId)
      if (inFlight.size === 0) {
        port.unref()
      }
      try {
        onComplete(completion)
      } catch {
        // The caller may not have its response, and later requests may never be sent.
        lose("the response to a request could not be handled")
      }
    }
  }

  /** Cancels a request unless it is committing, and returns the phase that it was in. */
  const cancel = (requestId: number): number => {
    const phase = Atomics.compareExchange(phases, requestId, Phase.queued, Phase.canceled)
    return phase === Phase.running ? Atomics.compareExchange(phases, requestId, phase, Phase.canceled) : phase
  }

  const lose = (reason: string) => {
    if (lostReason === undefined) {
      lostReason = reason
      handovers.splice(0).forEach(handOver)
      const lost = Array.from(inFlight.keys(), (id) => [id, cancel(id) === Phase.committing] as const)
      port.close()
      if (lost.length === 0) {
        lostListener?.(reason)
      }
      for (const [id, committing] of lost) {
        complete(id, { _tag: "Lost", reason, timedOut: false, committing })
      }
    }
  }

  const handOver = ({ requestId, response }: ResponseMessage) =>
    complete(requestId, {
      _tag: "Responded",
      response: { ...response, value: unpack(response.value) },
      timedOut: false
    })

  const handOverNext = () => {
    const message = handovers.shift()
    if (message === undefined) {
      isHandingOver = false
    } else {
      setImmediate(handOverNext)
      handOver(message)
    }
  }

  /**
   * Hands over a response. If several arrive together, as those of a transaction may, one is handed over in each
   * iteration of the event loop. What the fiber of the first then causes, such as the interruption of the second when
   * the first has won a race, happens before the second has its result.
   */
  const receive = (message: ResponseMessage) => {
    if (isHandingOver) {
      handovers.push(message)
      return
    }
    if (inFlight.size > 1) {
      isHandingOver = true
      setImmediate(handOverNext)
    }
    handOver(message)
  }

  /** Receives what else has arrived now. */
  const receiveAll = () => {
    for (;;) {
      const received: { readonly message: ResponseMessage } | undefined = receiveMessageOnPort(port)
      if (received === undefined) {
        return
      }
      receive(received.message)
    }
  }

  const thread: RunningThread = {
    cancel: () => {
      for (const id of inFlight.keys()) {
        cancel(id)
      }
    },
    waitUntil: (isReached, millis) => {
      const deadline = performance.now() + millis
      for (;;) {
        const current = Atomics.load(activity, 0)
        const remaining = deadline - performance.now()
        if (isReached(current) || remaining <= 0) {
          return isReached(current)
        }
        Atomics.wait(activity, 0, current, remaining)
      }
    }
  }

  addThread(thread)
  worker.unref()
  worker.on("error", (error) => lose(`its thread failed: ${error.message}`))
  const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()))
  worker.on("exit", (code) => {
    removeThread(thread)
    receiveAll()
    lose(`its thread ended with code ${code}`)
  })
  port.on("message", (message: ResponseMessage) => {
    receive(message)
    receiveAll()
  })
  port.on("messageerror", (error) => lose(`a response could not be read: ${error.message}`))
  port.unref()

  return {
    synchronous: false,
    ended,
    send: (request, timeout, onComplete) => {
      if (lostReason !== undefined) {
        onComplete({ _tag: "Lost", reason: lostReason, timedOut: false, committing: false })
        return completed
      }
      const requestId = freeIds.pop()!
      let timedOut = false
      let timeoutTimer: NodeJS.Timeout | undefined
      let graceTimer: NodeJS.Timeout | undefined
      const startGrace = (millis: number) => {
        graceTimer ??= setTimeout(
          () => lose("a request did not stop in time, so its thread was abandoned"),
          millis
        )
      }
      const onRequestComplete = (completion: Completion) => {
        clearTimeout(timeoutTimer)
        clearTimeout(graceTimer)
        onComplete(timedOut ? { ...completion, timedOut } : completion)
      }
      const isIdle = inFlight.size === 0
      Atomics.store(phases, requestId, Phase.queued)
      inFlight.set(requestId, onRequestComplete)
      unsent.push({ requestId, ...request })
      if (unsent.length === 1) {
        if (isIdle) {
          queueMicrotask(flush)
        } else {
          setImmediate(flush)
        }
      }
      if (isIdle) {
        port.ref()
      }
      if (timeout !== undefined) {
        timeoutTimer = setTimeout(() => {
          // A commit that has begun is not canceled any more.
          if (cancel(requestId) !== Phase.committing) {
            timedOut = true
            startGrace(statementGrace)
          }
        }, timeout)
      }
      return {
        cancel: () => {
          if (inFlight.get(requestId) !== onRequestComplete) {
            return true
          }
          const phase = cancel(requestId)
          if (phase !== Phase.queued) {
            startGrace(phase === Phase.committing ? commitGrace : statementGrace)
          }
          return phase === Phase.queued
        }
      }
    },
    onLost: (listener) => {
      lostListener = listener
    },
    destroy: () => lose("it was closed")
  }
}
