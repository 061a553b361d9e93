import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { ConnectionLock } from "../../../src/internal/session/connectionLock.js"
import { Interruptor, modes } from "../../support/interruptor.js"

describe("the connection lock", () => {
  it.live("resumes a waiter that arrives right releasing it is released", () =>
    Effect.gen(function*() {
      const lock = new ConnectionLock()
      yield* lock.acquire((effect) => effect)
      const waiter = yield* Effect.fork(lock.waitUntilFree)
      lock.release()
      yield* Fiber.join(waiter).pipe(
        Effect.timeoutFail({ duration: "5 seconds", onTimeout: () => "it waits for ever" })
      )
      assert.isTrue(lock.isFree)
    }))

  for (const mode of modes) {
    it.live(`is free again after the waiting fiber was interrupted at any point (${mode})`, () =>
      Effect.gen(function*() {
        for (let at = 1;; at++) {
          const lock = new ConnectionLock()
          const nested = Effect.uninterruptibleMask((restore) =>
            Effect.zipRight(
              lock.acquire(restore),
              Effect.ensuring(restore(Effect.yieldNow()), Effect.sync(() => lock.release()))
            )
          )
          yield* lock.acquire((effect) => effect)
          const releasing = yield* Effect.fork(Effect.gen(function*() {
            yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
            const behind = yield* Effect.fork(lock.waitUntilFree)
            yield* Effect.yieldNow()
            lock.release()
            yield* Effect.timeoutFail(Fiber.join(behind), {
              duration: "5 seconds",
              onTimeout: () => `${mode} ${at}: the waiter behind it waits for ever`
            })
          }))
          const interruptor = new Interruptor(mode, at)
          yield* interruptor.victim(nested)
          yield* Fiber.join(releasing)
          assert.isTrue(lock.isFree, `${mode} ${at}`)
          if (!interruptor.hit) {
            break
          }
        }
      }))
  }
})
