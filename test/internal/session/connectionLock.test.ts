import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { ConnectionLock } from "../../../src/internal/session/connectionLock.js"
import { Interruptor, modes } from "../../support/interruptor.js"

describe("the gate", () => {
  it.live("lets pass who comes when it has just opened", () =>
    Effect.gen(function*() {
      const gate = new ConnectionLock()
      yield* gate.hold((effect) => effect)
      const late = yield* Effect.fork(gate.pass)
      gate.release()
      yield* Fiber.join(late).pipe(Effect.timeoutFail({ duration: "5 seconds", onTimeout: () => "it waits for ever" }))
      assert.isTrue(gate.isOpen)
    }))

  for (const mode of modes) {
    it.live(`is open again whenever the one who waits is interrupted (${mode})`, () =>
      Effect.gen(function*() {
        for (let at = 1;; at++) {
          const gate = new ConnectionLock()
          const nested = Effect.uninterruptibleMask((restore) =>
            Effect.zipRight(
              gate.hold(restore),
              Effect.ensuring(restore(Effect.yieldNow()), Effect.sync(() => gate.release()))
            )
          )
          yield* gate.hold((effect) => effect)
          const before = yield* Effect.fork(Effect.gen(function*() {
            yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
            const behind = yield* Effect.fork(gate.pass)
            yield* Effect.yieldNow()
            gate.release()
            yield* Effect.timeoutFail(Fiber.join(behind), {
              duration: "5 seconds",
              onTimeout: () => `${mode} ${at}: the one behind it waits for ever`
            })
          }))
          const interruptor = new Interruptor(mode, at)
          yield* interruptor.victim(nested)
          yield* Fiber.join(before)
          assert.isTrue(gate.isOpen, `${mode} ${at}`)
          if (!interruptor.hit) {
            break
          }
        }
      }))
  }
})
