import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { asyncInterrupt } from "../../src/internal/asyncInterrupt.js"
import { Interruptor, type Mode } from "../support/interruptor.js"

describe("what can be stopped", () => {
  for (const mode of ["step", "answered", "crossed"] satisfies ReadonlyArray<Mode>) {
    it.live(`is stopped or over whenever it is interrupted (${mode})`, () =>
      Effect.gen(function*() {
        let stops = 0
        for (let at = 1;; at++) {
          const interruptor = new Interruptor(mode, at)
          let asked = false
          let over = false
          const exit = yield* interruptor.victim(asyncInterrupt<string, never>((resume) => {
            asked = true
            setImmediate(() => {
              over = true
              resume(Effect.succeed("answer"))
            })
            return Effect.sync(() => {
              over = true
              stops++
            })
          }))
          assert.isTrue(over || !asked, `${mode} ${at}`)
          if (!interruptor.hit) {
            assert.deepStrictEqual(exit, Exit.succeed("answer"))
            break
          }
        }
        assert.isTrue(stops > 0 || mode === "crossed")
      }))
  }

  it.live("is not stopped where its fiber is uninterruptible", () =>
    Effect.gen(function*() {
      let stops = 0
      const asked = yield* Deferred.make<(effect: Effect.Effect<string>) => void>()
      const fiber = yield* Effect.fork(Effect.exit(Effect.uninterruptible(
        asyncInterrupt<string, never>((resume) => {
          Deferred.unsafeDone(asked, Effect.succeed(resume))
          return Effect.sync(() => {
            stops++
          })
        })
      )))
      const resume = yield* Deferred.await(asked)
      yield* Fiber.interruptFork(fiber)
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      assert.strictEqual((yield* Fiber.poll(fiber))._tag, "None")
      resume(Effect.succeed("answer"))
      yield* Fiber.await(fiber)
      assert.strictEqual(stops, 0)
    }))

  it.effect("may answer before it has told how it is stopped, and need not say how", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* asyncInterrupt<number, never>((resume) => resume(Effect.succeed(1))), 1)
      assert.strictEqual(yield* Effect.flip(asyncInterrupt<never, string>((resume) => resume(Effect.fail("no")))), "no")
    }))
})
