import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import { assert } from "vitest"
import { type Ticket, Turn } from "../../../src/internal/sqlite/requestLock.js"

const most = 3

/** Somebody who asks, or the one asked so long ago who leaves, whether he has the turn or still waits for it. */
const step = FastCheck.oneof(
  FastCheck.record({ _tag: FastCheck.constant("enter" as const), shares: FastCheck.boolean() }),
  FastCheck.record({ _tag: FastCheck.constant("leave" as const), at: FastCheck.nat(8) })
)

describe("turn", () => {
  it.effect("one alone or several who share it, in the order of asking, whoever gives up", () =>
    Effect.sync(() =>
      FastCheck.assert(
        FastCheck.property(FastCheck.array(step, { maxLength: 60 }), (steps) => {
          const turn = new Turn(most)
          const asked: Array<Ticket> = []
          const having = new Set<Ticket>()
          const came: Array<number> = []
          let number = 0
          const leave = (ticket: Ticket) => {
            asked.splice(asked.indexOf(ticket), 1)
            having.delete(ticket)
            turn.leave(ticket)
            turn.leave(ticket)
          }
          for (const step of steps) {
            if (step._tag === "leave") {
              if (asked.length > 0) {
                leave(asked[step.at % asked.length])
              }
            } else {
              const mine = number++
              const ticket: Ticket = {
                shares: step.shares,
                go: () => {
                  having.add(ticket)
                  came.push(mine)
                }
              }
              asked.push(ticket)
              turn.enter(ticket)
            }
            // As many as may have it have it: those who asked first.
            let expected = asked.findIndex(({ shares }) => !shares)
            expected = asked.length === 0
              ? 0
              : expected === 0
              ? 1
              : Math.min(expected < 0 ? asked.length : expected, most)
            assert.sameMembers([...having], asked.slice(0, expected))
            assert.strictEqual(turn.isFree, asked.length === 0)
          }
          assert.deepStrictEqual(came, [...came].sort((a, b) => a - b))
        }),
        { numRuns: 500 }
      )
    ))

  it.effect("a long queue of those who leave at once is no deep stack", () =>
    Effect.sync(() => {
      const turn = new Turn(most)
      const first: Ticket = { shares: false, go: () => {} }
      turn.enter(first)
      const came: Array<number> = []
      for (let i = 0; i < 100_000; i++) {
        const ticket: Ticket = {
          shares: false,
          go: () => {
            came.push(i)
            turn.leave(ticket)
          }
        }
        turn.enter(ticket)
      }
      turn.leave(first)
      assert.strictEqual(came.length, 100_000)
      assert.isTrue(came.every((n, i) => n === i))
      assert.isTrue(turn.isFree)
    }))
})
