import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { type AcquireOptions, FifoLock, type Readiness } from "../../src/internal/fifoLock.js"

/** Forks a fiber that takes the lock, records that, and gives it back. */
const contender = (lock: FifoLock, name: string, order: Array<string>, options?: AcquireOptions) =>
  Effect.fork(Effect.uninterruptibleMask((restore) =>
    Effect.map(lock.acquire(restore, options), (isGranted) => {
      order.push(isGranted ? name : `${name} gives up`)
      if (isGranted) {
        lock.release()
      }
    })
  ))

const settle = Effect.repeatN(Effect.yieldNow(), 20)

describe("a lock that is granted in order", () => {
  it.effect("serves its waiters in the order in which they asked, an urgent one first", () =>
    Effect.gen(function*() {
      const lock = new FifoLock()
      const order: Array<string> = []
      assert.isTrue(yield* lock.acquire((effect) => effect))
      const fibers = [
        yield* contender(lock, "first", order),
        yield* Effect.tap(Effect.fork(lock.waitUntilFree), () => settle),
        yield* contender(lock, "second", order),
        yield* contender(lock, "urgent", order, { isUrgent: true })
      ]
      yield* settle
      assert.isFalse(lock.isFree)
      assert.deepStrictEqual(order, [])
      lock.release()
      yield* Effect.forEach(fibers, (fiber) => Fiber.join<unknown, never>(fiber))
      assert.deepStrictEqual(order, ["urgent", "first", "second"])
      assert.isTrue(lock.isFree)
    }))

  it.effect("passes over a waiter that is not ready, and gives up one that never will be", () =>
    Effect.gen(function*() {
      const lock = new FifoLock()
      const order: Array<string> = []
      let readiness: Readiness = "waiting"
      const options = { readiness: () => readiness }
      yield* lock.acquire((effect) => effect)
      const waiting = yield* contender(lock, "waiting", order, options)
      const ready = yield* contender(lock, "ready", order)
      yield* settle
      lock.release()
      yield* Fiber.join(ready)
      assert.deepStrictEqual(order, ["ready"])
      readiness = "never"
      yield* Fiber.join(yield* contender(lock, "last", order))
      yield* Fiber.join(waiting)
      assert.sameMembers(order, ["ready", "waiting gives up", "last"])
      assert.isTrue(lock.isFree)
    }))

  it.effect("drops a waiter that is interrupted", () =>
    Effect.gen(function*() {
      const lock = new FifoLock()
      const order: Array<string> = []
      yield* lock.acquire((effect) => effect)
      const interrupted = yield* contender(lock, "interrupted", order)
      const other = yield* contender(lock, "other", order)
      yield* settle
      yield* Fiber.interrupt(interrupted)
      lock.release()
      yield* Fiber.join(other)
      assert.deepStrictEqual(order, ["other"])
      assert.isTrue(lock.isFree)
    }))
})
