/**
 * Sends requests to an engine, either on this thread or on a worker thread.
 */
import type { Binding } from "./binding.js"
import { Engine } from "./engine.js"
import type { LoadedFunctions } from "./functions.js"
import type { OpenOptions, Request, Response } from "./protocol.js"

/** How a request ended. */
export type Completion =
  | {
    readonly _tag: "Responded"
    readonly response: Response
    /** Whether its timeout elapsed before it ended. */
    readonly timedOut: boolean
  }
  | {
    /** The engine is gone. */
    readonly _tag: "Lost"
    readonly reason: string
    readonly timedOut: boolean
    /** Whether the engine was lost during a commit. */
    readonly committing: boolean
  }
  | {
    /** The request could not be sent, and nothing was done. */
    readonly _tag: "NotSent"
    readonly timedOut: boolean
  }

/** A request in flight. */
export interface SentRequest {
  /**
   * Cancels the request. If it does not end in time, the transport is destroyed. Returns true if the request has not
   * started and never will, or has already completed.
   */
  readonly cancel: () => boolean
}

export interface Transport {
  /** Whether a request completes before `send` returns. A backup does not. */
  readonly synchronous: boolean
  /**
   * Sends a request. `onComplete` is called exactly once, also after a cancellation. After `timeout` milliseconds the
   * request is canceled.
   */
  readonly send: (
    request: Request,
    timeout: number | undefined,
    onComplete: (completion: Completion) => void
  ) => SentRequest
  /** Registers what is called when the engine is lost while no request is in flight. */
  readonly onLost: (listener: (reason: string) => void) => void
  /** Closes without waiting. What was not committed is rolled back. */
  readonly destroy: () => void
  /** Resolves when the database is closed, and a thread has ended. */
  readonly ended: Promise<void>
}

/**
 * An engine on this thread. No other code runs during a statement, so only its timeout cancels it, between two rows.
 */
export const localTransport = (
  options: OpenOptions,
  binding: Binding,
  functions: LoadedFunctions = []
): Transport => {
  let canceled = false
  let deadline = Number.POSITIVE_INFINITY
  const engine = new Engine(binding, options, {
    isCancelable: () => deadline !== Number.POSITIVE_INFINITY,
    isCanceled: () => canceled || performance.now() > deadline,
    enterCommit: () => true
  }, functions)
  const sent: SentRequest = {
    cancel: () => {
      canceled = true
      return false
    }
  }
  let onEnded: () => void
  const ended = new Promise<void>((resolve) => {
    onEnded = resolve
  })
  return {
    synchronous: true,
    ended,
    send: (request, timeout, onComplete) => {
      canceled = false
      deadline = timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeout
      const complete = (response: Response) =>
        onComplete({
          _tag: "Responded",
          response,
          timedOut: timeout !== undefined && performance.now() > deadline
        })
      const response = engine.handle(request)
      if (response instanceof Promise) {
        void response.then(complete)
      } else {
        complete(response)
      }
      return sent
    },
    onLost: () => {},
    destroy: () => {
      canceled = true
      void engine.handle({
        operation: { _tag: "Close" },
        begin: undefined,
        requiresTransaction: false,
        transactionFailed: false
      })
      onEnded()
    }
  }
}
