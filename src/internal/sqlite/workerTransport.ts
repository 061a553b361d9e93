/**
 * The way to an engine in a thread of its own.
 */
import { MessageChannel, receiveMessageOnPort } from "node:worker_threads"
import { withBuffers } from "./bytes.js"
import type { Link, Outcome, Sent } from "./transport.js"
import * as Loop from "./eventLoop.js"
import { cells, type Letter, type OpenOptions, Phase, type ThreadReply } from "./protocol.js"
import { startWorker } from "./startWorker.js"
import * as Vigil from "./spinWait.js"

const answeredAlready: Sent = { stop: () => true }

// How long what was told to stop may take: until the next row, or until a commit is on disk.
const stopGrace = 200
const commitGrace = 800

/**
 * An engine in a thread of its own. The thread keeps the process alive only while it is asked for something.
 *
 * What is asked in the same turn of the event loop goes there in one message. While the thread is busy more is gathered,
 * since it would wait there just as well.
 */
export const thread = (options: OpenOptions): Link => {
  const shared = new SharedArrayBuffer(cells * Int32Array.BYTES_PER_ELEMENT)
  const phases = new Int32Array(shared)
  const watched = new SharedArrayBuffer(Vigil.size * Int32Array.BYTES_PER_ELEMENT)
  const vigil = new Vigil.Asker(watched)
  const { port1: port, port2 } = new MessageChannel()
  const worker = startWorker({ options, phases: shared, vigil: watched, port: port2 })
  /** Who asked, by cell. */
  const asking = new Map<number, (outcome: Outcome) => void>()
  const free = Array.from({ length: cells }, (_, cell) => cell)
  let letters: Array<Letter> = []
  let watcher: ((reason: string) => void) | undefined
  let ended: string | undefined

  /** What cannot be copied is not sent at all: bytes, for one, whose memory was given away since they were bound. */
  const posted = (batch: ReadonlyArray<Letter>): boolean => {
    try {
      port.postMessage(batch)
      vigil.sent()
      return true
    } catch {
      return false
    }
  }

  const post = () => {
    const batch = letters
    letters = []
    if (ended === undefined && !posted(batch)) {
      for (const letter of batch) {
        if (!posted([letter])) {
          answered(letter.cell, { _tag: "Unsent", timedOut: false })
        }
      }
    }
  }

  const answered = (cell: number, outcome: Outcome) => {
    const told = asking.get(cell)
    if (told !== undefined) {
      asking.delete(cell)
      free.push(cell)
      if (asking.size === 0) {
        port.unref()
      }
      told(outcome)
    }
  }

  /** Stops a question, and tells where it was. */
  const stop = (cell: number): number => {
    const phase = Atomics.compareExchange(phases, cell, Phase.waiting, Phase.stopped)
    return phase === Phase.running ? Atomics.compareExchange(phases, cell, phase, Phase.stopped) : phase
  }

  const end = (reason: string) => {
    if (ended === undefined) {
      ended = reason
      const lost = Array.from(asking.keys(), (cell) => [cell, stop(cell) === Phase.committing] as const)
      // What it is in the middle of comes to its end before the thread does, so nobody waits for that.
      void worker.terminate()
      port.close()
      if (lost.length === 0) {
        watcher?.(reason)
      }
      for (const [cell, committing] of lost) {
        answered(cell, { _tag: "Lost", reason, timedOut: false, committing })
      }
    }
  }

  const hear = ({ bytes, cell, reply }: ThreadReply) =>
    answered(cell, {
      _tag: "Answered",
      reply: bytes ? { ...reply, value: withBuffers(reply.value) } : reply,
      timedOut: false
    })

  /** What else has come, without an event for each: whoever goes on asks the next in one message with the others. */
  const hearRest = () => {
    for (;;) {
      const received: { readonly message: ThreadReply } | undefined = receiveMessageOnPort(port)
      if (received === undefined) {
        return
      }
      hear(received.message)
    }
  }

  worker.unref()
  worker.on("error", (error) => end(`its thread failed: ${error.message}`))
  worker.on("exit", (code) => {
    hearRest()
    end(`its thread ended with code ${code}`)
  })
  port.on("message", (reply: ThreadReply) => {
    hear(reply)
    hearRest()
  })
  port.unref()

  return {
    immediate: false,
    send: (question, limit, told) => {
      if (ended !== undefined) {
        told({ _tag: "Lost", reason: ended, timedOut: false, committing: false })
        return answeredAlready
      }
      const cell = free.pop()!
      let timedOut = false
      let timer: NodeJS.Timeout | undefined
      let grace: NodeJS.Timeout | undefined
      const patience = (millis: number) => {
        grace ??= setTimeout(() => end("what it ran did not stop, and was left behind"), millis)
      }
      const tell = (outcome: Outcome) => {
        clearTimeout(timer)
        clearTimeout(grace)
        told(timedOut ? { ...outcome, timedOut } : outcome)
      }
      const alone = asking.size === 0
      Atomics.store(phases, cell, Phase.waiting)
      asking.set(cell, tell)
      letters.push({ cell, ...question })
      if (alone && vigil.isAwaited && !Loop.standsStill()) {
        if (vigil.ask(post)) {
          hearRest()
        }
      } else if (letters.length === 1) {
        if (alone) {
          queueMicrotask(post)
        } else {
          setImmediate(post)
        }
      }
      if (asking.get(cell) !== tell) {
        return answeredAlready
      }
      if (alone) {
        port.ref()
      }
      if (limit !== undefined) {
        timer = setTimeout(() => {
          // What commits already is as good as done.
          if (stop(cell) !== Phase.committing) {
            timedOut = true
            patience(stopGrace)
          }
        }, limit)
      }
      return {
        stop: () => {
          if (asking.get(cell) !== tell) {
            return true
          }
          const phase = stop(cell)
          if (phase !== Phase.waiting) {
            patience(phase === Phase.committing ? commitGrace : stopGrace)
          }
          return phase === Phase.waiting
        }
      }
    },
    watch: (ended) => {
      watcher = ended
    },
    destroy: () => end("it was closed")
  }
}
