/**
 * The way to an engine: in this thread, or in one of its own.
 */
import * as Effect from "effect/Effect"
import { stoppable } from "../stoppable.js"
import { withBuffers } from "./bytes.js"
import { Engine } from "./engine.js"
import { type OpenOptions, Phase, type Reply, type Request, type ThreadReply } from "./protocol.js"
import { startWorker } from "./startWorker.js"

/** What came of a request. */
export type Outcome =
  | {
    readonly _tag: "Answered"
    readonly reply: Reply
    /** Whether its time had run out. */
    readonly timedOut: boolean
  }
  | {
    /** There is no engine any more. */
    readonly _tag: "Lost"
    readonly reason: string
    readonly timedOut: boolean
    /** Whether it was lost in the middle of a commit. */
    readonly committing: boolean
  }

/** One request at a time. */
export interface Link {
  /**
   * `settle` is called with the outcome as soon as it is known, also when whoever asked no longer waits for it. After
   * `limit` milliseconds, or an interruption, what runs is stopped; what cannot be stopped is left behind.
   */
  readonly call: <A, E>(
    request: Request,
    limit: number | undefined,
    settle: (outcome: Outcome) => Effect.Effect<A, E>
  ) => Effect.Effect<A, E>
  /** Calls back when the engine is gone and nobody was waiting for its answer. */
  readonly watch: (ended: (reason: string) => void) => void
  /** Leaves at once. What runs is rolled back when it returns. */
  readonly destroy: () => void
}

/** An engine in this thread. Nothing can happen while it runs, so it can be stopped only from row to row. */
export const local = (options: OpenOptions): Link => {
  let stopped = false
  let deadline = Number.POSITIVE_INFINITY
  const engine = new Engine(options, {
    stopped: () => stopped || performance.now() > deadline,
    commits: () => true
  })
  return {
    call: (request, limit, settle) =>
      stoppable((resume) => {
        stopped = false
        deadline = limit === undefined ? Number.POSITIVE_INFINITY : performance.now() + limit
        const answered = (reply: Reply) => {
          resume(settle({ _tag: "Answered", reply, timedOut: performance.now() > deadline }))
        }
        const answer = engine.answer(request)
        if (!(answer instanceof Promise)) {
          return answered(answer)
        }
        const done = answer.then(answered)
        return Effect.suspend(() => {
          stopped = true
          return Effect.promise(() => done)
        })
      }),
    watch: () => {},
    destroy: () => {
      stopped = true
      void engine.answer({ _tag: "Close" })
    }
  }
}

// How long what was told to stop may take: until the next row, or until a commit is on disk.
const stopGrace = 200
const commitGrace = 800

/** An engine in a thread of its own. The thread keeps the process alive only while it is asked for something. */
export const thread = (options: OpenOptions): Link => {
  const shared = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)
  const phase = new Int32Array(shared)
  const worker = startWorker({ options, phase: shared })
  let pending: ((outcome: Outcome) => void) | undefined
  let watcher: ((reason: string) => void) | undefined
  let ended: string | undefined

  const lost = (reason: string): Outcome => ({
    _tag: "Lost",
    reason,
    timedOut: false,
    committing: Atomics.load(phase, 0) === Phase.committing
  })
  const end = (reason: string) => {
    if (ended === undefined) {
      ended = reason
      worker.unref()
      // What it is in the middle of comes to its end before the thread does, so nobody waits for that.
      void worker.terminate()
      if (pending === undefined) {
        watcher?.(reason)
      } else {
        pending(lost(reason))
      }
    }
  }

  worker.unref()
  worker.on("error", (error) => end(`its thread failed: ${error.message}`))
  worker.on("exit", (code) => end(`its thread ended with code ${code}`))
  worker.on("message", ({ bytes, reply }: ThreadReply) => {
    pending?.({
      _tag: "Answered",
      reply: bytes ? { ...reply, value: withBuffers(reply.value) } : reply,
      timedOut: false
    })
  })

  return {
    call: (request, limit, settle) =>
      stoppable((resume) => {
        if (ended !== undefined) {
          return resume(settle({ _tag: "Lost", reason: ended, timedOut: false, committing: false }))
        }
        let timedOut = false
        let grace: NodeJS.Timeout | undefined
        let afterwards: (() => void) | undefined
        /** Asks it to stop, and tells whether it commits already. */
        const stop = () => Atomics.compareExchange(phase, 0, Phase.running, Phase.stopped) === Phase.committing
        const patience = (millis: number) => {
          grace ??= setTimeout(() => end("what it ran did not stop, and was left behind"), millis)
        }
        const timer = limit === undefined ? undefined : setTimeout(() => {
          // What commits already is as good as done.
          if (!stop()) {
            timedOut = true
            patience(stopGrace)
          }
        }, limit)
        pending = (outcome) => {
          clearTimeout(timer)
          clearTimeout(grace)
          pending = undefined
          worker.unref()
          resume(settle({ ...outcome, timedOut }))
          afterwards?.()
        }
        Atomics.store(phase, 0, Phase.running)
        worker.ref()
        worker.postMessage(request, [])
        return Effect.async<void>((resume) => {
          if (pending === undefined) {
            return resume(Effect.void)
          }
          afterwards = () => resume(Effect.void)
          patience(stop() ? commitGrace : stopGrace)
        })
      }),
    watch: (ended) => {
      watcher = ended
    },
    destroy: () => end("it was closed")
  }
}
