/**
 * The way to an engine: in this thread, or in one of its own.
 */
import { Engine } from "./engine.js"
import type { OpenOptions, Question, Reply } from "./protocol.js"

/** What came of a question. */
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
  | {
    /** It could not be sent, so nothing of it was done. */
    readonly _tag: "Unsent"
    readonly timedOut: boolean
  }

/** A question that is on its way. */
export interface Sent {
  /** Stops what runs; what cannot be stopped is left behind. True if nothing of it was done, or ever will be. */
  readonly stop: () => boolean
}

export interface Link {
  /** Whether a question is answered before `send` returns. Only a backup is not. */
  readonly immediate: boolean
  /**
   * `told` is called once with the outcome, also when whoever asked no longer waits for it. After `limit` milliseconds
   * what runs is stopped.
   */
  readonly send: (question: Question, limit: number | undefined, told: (outcome: Outcome) => void) => Sent
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
    canStop: () => deadline !== Number.POSITIVE_INFINITY,
    stopped: () => stopped || performance.now() > deadline,
    commits: () => true
  })
  const sent: Sent = {
    stop: () => {
      stopped = true
      return false
    }
  }
  return {
    immediate: true,
    send: (question, limit, told) => {
      stopped = false
      deadline = limit === undefined ? Number.POSITIVE_INFINITY : performance.now() + limit
      const answered = (reply: Reply) =>
        told({ _tag: "Answered", reply, timedOut: limit !== undefined && performance.now() > deadline })
      const answer = engine.answer(question)
      if (answer instanceof Promise) {
        void answer.then(answered)
      } else {
        answered(answer)
      }
      return sent
    },
    watch: () => {},
    destroy: () => {
      stopped = true
      void engine.answer({ request: { _tag: "Close" }, begin: undefined, within: false, failed: false })
    }
  }
}
