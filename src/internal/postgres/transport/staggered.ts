/**
 * Attempts that begin one after the other and overlap, as RFC 8305 ("Happy Eyeballs", section 5) describes:
 * the next one begins when the one before it has failed, or has not succeeded after a delay, and none is given up before
 * another has succeeded.
 */

/** "Connection Attempt Delay" of RFC 8305, section 8, in milliseconds. */
export const attemptDelay = 250

/** How the attempts are made, and what is called with their result. */
export interface Options<A, E> {
  /** How many attempts there are. */
  readonly count: number
  /** Begins an attempt. Returns a function that gives it up, after which it calls neither callback. */
  readonly start: (
    index: number,
    onSuccess: (value: A) => void,
    onFailure: (error: E) => void
  ) => () => void
  /** Whether a failure ends all attempts, because the others would fail with the same. */
  readonly isFinal: (error: E) => boolean
  readonly onSuccess: (value: A) => void
  /** Called with the failures in the order of the attempts, or only with the one that is final. */
  readonly onFailure: (errors: ReadonlyArray<E>) => void
}

/** Calls back once. Returns a function that gives up, after which it never calls back. */
export const staggered = <A, E>({ count, isFinal, onFailure, onSuccess, start }: Options<A, E>): () => void => {
  const running = new Map<number, () => void>()
  const errors: Array<E | undefined> = []
  let begun = 0
  let failed = 0
  let settled = false
  let timer: NodeJS.Timeout | undefined = undefined

  const settle = (): boolean => {
    const first = !settled
    settled = true
    clearTimeout(timer)
    const others = Array.from(running.values())
    running.clear()
    others.forEach((giveUp) => giveUp())
    return first
  }
  const next = (): void => {
    clearTimeout(timer)
    if (settled || begun === count) {
      return
    }
    const index = begun++
    let isOver = false
    const giveUp = start(
      index,
      (value) => {
        isOver = true
        running.delete(index)
        if (settle()) {
          onSuccess(value)
        }
      },
      (error) => {
        isOver = true
        running.delete(index)
        errors[index] = error
        failed++
        if (settled) {
          return
        }
        if (isFinal(error)) {
          settle()
          onFailure([error])
        } else if (failed === count) {
          settle()
          onFailure(errors as ReadonlyArray<E>)
        } else {
          next()
        }
      }
    )
    if (settled) {
      return isOver ? undefined : giveUp()
    }
    if (!isOver) {
      running.set(index, giveUp)
    }
    if (begun === index + 1 && begun < count) {
      timer = setTimeout(next, attemptDelay)
    }
  }

  next()
  return () => {
    settle()
  }
}
