import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import { assert } from "vitest"
import { RequestLock, type Waiter } from "../../../src/internal/sqlite/requestLock.js"

const maxShared = 3

/** A new waiter, or the release by an earlier one, whether it holds the lock or still waits for it. */
const step = FastCheck.oneof(
  FastCheck.record({ _tag: FastCheck.constant("acquire" as const), shared: FastCheck.boolean() }),
  FastCheck.record({ _tag: FastCheck.constant("release" as const), index: FastCheck.nat(8) })
)

describe("RequestLock", () => {
  it.effect("grants the lock in order, to one alone or to several that share it", () =>
    Effect.sync(() =>
      FastCheck.assert(
        FastCheck.property(FastCheck.array(step, { maxLength: 60 }), (steps) => {
          const lock = new RequestLock(maxShared)
          const waiters: Array<Waiter> = []
          const holders = new Set<Waiter>()
          const granted: Array<number> = []
          let count = 0
          const release = (waiter: Waiter) => {
            waiters.splice(waiters.indexOf(waiter), 1)
            holders.delete(waiter)
            lock.release(waiter)
            lock.release(waiter)
          }
          for (const step of steps) {
            if (step._tag === "release") {
              if (waiters.length > 0) {
                release(waiters[step.index % waiters.length])
              }
            } else {
              const number = count++
              const waiter: Waiter = {
                shared: step.shared,
                onAcquired: () => {
                  holders.add(waiter)
                  granted.push(number)
                }
              }
              waiters.push(waiter)
              lock.acquire(waiter)
            }
            // The first one, or the first ones if they share it.
            const exclusive = waiters.findIndex(({ shared }) => !shared)
            const expected = exclusive === 0 ? 1 : Math.min(exclusive < 0 ? waiters.length : exclusive, maxShared)
            assert.sameMembers([...holders], waiters.slice(0, expected))
            assert.strictEqual(lock.isFree, waiters.length === 0)
          }
          assert.deepStrictEqual(granted, [...granted].sort((a, b) => a - b))
        }),
        { numRuns: 500 }
      )
    ))

  it.effect("a long queue of waiters that release at once does not overflow the stack", () =>
    Effect.sync(() => {
      const lock = new RequestLock(maxShared)
      const first: Waiter = { shared: false, onAcquired: () => {} }
      lock.acquire(first)
      const granted: Array<number> = []
      for (let i = 0; i < 100_000; i++) {
        const waiter: Waiter = {
          shared: false,
          onAcquired: () => {
            granted.push(i)
            lock.release(waiter)
          }
        }
        lock.acquire(waiter)
      }
      lock.release(first)
      assert.strictEqual(granted.length, 100_000)
      assert.isTrue(granted.every((n, i) => n === i))
      assert.isTrue(lock.isFree)
    }))
})
