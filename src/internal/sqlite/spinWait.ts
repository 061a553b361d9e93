/**
 * Staying awake for the other thread. To put a thread to sleep and to wake it up takes ten times as long as a short
 * statement does. So where questions follow each other closely, the thread that answers looks out for the next one for a
 * moment before it sleeps; and who asks while it does looks out for the answer.
 */
import { availableParallelism } from "node:os"

// Where in the memory of both is the number of the questions that were sent, of those that were answered, and a one
// while the thread that answers is awake.
const asked = 0
const answered = 1
const awake = 2

/** How many numbers both share. */
export const size = 3

/** For how many milliseconds the thread that answers looks out. */
const vigil = 0.05

/** How many milliseconds after an answer the next question may have come. It took long to wake up for it. */
const recent = 0.1

/** How many milliseconds the last questions may have taken. */
const short = 0.03

/** For how many milliseconds the thread that asks looks out: that long it stands still. */
const patience = 0.03

/** What looking out in vain costs and what it gains otherwise are about the same, so it may fail two times in three. */
const gain = 2
const most = 8

/** Where it failed more often, it is tried only once in so many times. */
const seldom = 16

/** Where there is one processor, who waits awake keeps the other from what it waits for. */
const hasSeveral = availableParallelism() > 1

/** Looks out until something has come, and says whether it has. */
const lookOut = (millis: number, hasCome: () => boolean): boolean => {
  const end = performance.now() + millis
  do {
    for (let look = 0; look < 32; look++) {
      if (hasCome()) {
        return true
      }
    }
  } while (performance.now() < end)
  return false
}

/** Of the thread that asks. */
export class Asker {
  readonly #cells: Int32Array

  constructor(shared: SharedArrayBuffer) {
    this.#cells = new Int32Array(shared)
  }

  /** Whether the other thread looks out for a question. */
  get isAwaited(): boolean {
    return Atomics.load(this.#cells, awake) === 1
  }

  /** To be told when a question was sent. */
  sent(): void {
    Atomics.add(this.#cells, asked, 1)
  }

  /** Sends a question, and says whether the answer is there before it returns. */
  ask(send: () => void): boolean {
    const cells = this.#cells
    const before = Atomics.load(cells, answered)
    send()
    return lookOut(patience, () => Atomics.load(cells, answered) !== before)
  }
}

/** Of the thread that answers. */
export class Answerer {
  readonly #cells: Int32Array
  #came = 0
  #since = 0
  #answered = 0
  #follows = false
  #credit = gain
  #refrained = 0

  constructor(shared: SharedArrayBuffer) {
    this.#cells = new Int32Array(shared)
  }

  /** To be told when a question came. */
  came(): void {
    this.#came = this.#came + 1 | 0
    this.#since = performance.now()
    this.#follows = this.#since - this.#answered < recent
  }

  /** To be told when an answer was sent. */
  sent(): void {
    Atomics.add(this.#cells, answered, 1)
  }

  /** Looks out for the next question, where that is likely to come soon, and says whether it is there. */
  awaits(): boolean {
    this.#answered = performance.now()
    if (!hasSeveral || !this.#follows || this.#answered - this.#since > short || !this.#dares()) {
      return false
    }
    const cells = this.#cells
    Atomics.store(cells, awake, 1)
    const hasCome = lookOut(vigil, () => (Atomics.load(cells, asked) - this.#came | 0) > 0)
    Atomics.store(cells, awake, 0)
    this.#credit = hasCome ? Math.min(this.#credit + gain, most) : Math.max(this.#credit - 1, 0)
    return hasCome
  }

  #dares(): boolean {
    this.#refrained = this.#credit > 0 ? 0 : (this.#refrained + 1) % seldom
    return this.#refrained === 0
  }
}
