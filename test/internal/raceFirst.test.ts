import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { raceFirst, timeoutOption } from "../../src/internal/raceFirst.js"
import { Interruptor, modes } from "../support/interruptor.js"

/** A release that takes a moment. */
const slowly = Effect.zipRight(Effect.yieldNow(), Effect.yieldNow())

describe("raceFirst", () => {
  it.live("ends at whichever step it is interrupted, after both effects have ended", () =>
    Effect.gen(function*() {
      for (const mode of modes) {
        for (let at = 1, hit = true; hit; at++) {
          let started = 0
          let ended = 0
          const counted = <A>(effect: Effect.Effect<A>) =>
            Effect.acquireUseRelease(
              Effect.sync(() => started++),
              () => effect,
              () => Effect.zipRight(slowly, Effect.sync(() => ended++))
            )
          const interruptor = new Interruptor(mode, at)
          const exit = yield* interruptor.victim(
            raceFirst(counted(Effect.as(Effect.yieldNow(), 1)), counted(Effect.never))
          ).pipe(Effect.disconnect, Effect.timeout("1 minute"))
          assert.strictEqual(ended, started, `${mode} ${at}`)
          assert.isTrue(Exit.isInterrupted(exit) || (Exit.isSuccess(exit) && exit.value === 1), `${mode} ${at}`)
          hit = interruptor.hit
        }
      }
    }), 240_000)

  it.effect("gives the result of the first, a failure too, and interrupts the other", () =>
    Effect.gen(function*() {
      const interrupted: Array<string> = []
      const forever = (name: string) =>
        Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(name)))
      const started = yield* Deferred.make<void>()
      const other = Effect.zipRight(Deferred.succeed(started, undefined), forever("other"))
      assert.strictEqual(yield* raceFirst(Effect.as(Deferred.await(started), 1), other), 1)
      assert.strictEqual(yield* Effect.flip(raceFirst(forever("one"), Effect.fail("failed"))), "failed")
      assert.strictEqual(
        yield* Effect.flip(Effect.sandbox(raceFirst(forever("two"), Effect.die("defect")))).pipe(
          Effect.map(String)
        ),
        String(yield* Effect.flip(Effect.sandbox(Effect.die("defect"))))
      )
      assert.deepStrictEqual(interrupted, ["other", "one", "two"])
    }))

  it.live("limits the time of an effect that can be interrupted where its caller cannot", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Effect.uninterruptible(timeoutOption(Effect.never, "1 millis")), Option.none())
      assert.deepStrictEqual(yield* timeoutOption(Effect.succeed(1), "1 minute"), Option.some(1))
    }))
})
