import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { availableParallelism } from "node:os"
import { setImmediate } from "node:timers"
import { assert } from "vitest"
import { thread } from "../../../src/internal/sqlite/workerTransport.js"
import { Answerer, Asker, size } from "../../../src/internal/sqlite/spinWait.js"
import { connect, driver, file } from "./support.js"

/** With one processor nobody looks out. */
const hasSeveral = availableParallelism() > 1

const pair = () => {
  const shared = new SharedArrayBuffer(size * Int32Array.BYTES_PER_ELEMENT)
  return { asker: new Asker(shared), answerer: new Answerer(shared) }
}

/** The machine may stop for a moment between any two lines; in one of many tries it does not. */
const tries = 200

describe("vigil", () => {
  it("looks out for the next question where one has followed the other", () => {
    const found = Array.from({ length: tries }, () => {
      const { answerer, asker } = pair()
      asker.sent()
      asker.sent()
      asker.sent()
      answerer.came()
      const first = answerer.awaits()
      answerer.came()
      const second = answerer.awaits()
      answerer.came()
      return [first, second, answerer.awaits()]
    })
    // Nothing came before the first, and nothing is there after the last.
    assert.isTrue(found.every(([first, , third]) => !first && !third))
    assert.strictEqual(found.some(([, second]) => second), hasSeveral)
  })

  it("sleeps where a question took long, and where the next did not come soon", () => {
    const wait = (millis: number) => {
      for (const end = performance.now() + millis; performance.now() < end;);
    }
    for (let i = 0; i < 20; i++) {
      const { answerer, asker } = pair()
      asker.sent()
      asker.sent()
      asker.sent()
      answerer.came()
      answerer.awaits()
      answerer.came()
      wait(0.1)
      assert.isFalse(answerer.awaits())
      wait(0.2)
      answerer.came()
      assert.isFalse(answerer.awaits())
    }
  })

  it("seldom looks out where that was in vain, and does again where it was not", () => {
    /** Whether it finds a question that is there. */
    const finds = ({ answerer, asker }: ReturnType<typeof pair>) => {
      asker.sent()
      asker.sent()
      answerer.came()
      const found = answerer.awaits()
      answerer.came()
      return found
    }
    const found = Array.from({ length: 32 }, (_, i) => {
      const { answerer, asker } = pair()
      for (let miss = 0; miss < 100 + i; miss++) {
        asker.sent()
        answerer.came()
        assert.isFalse(answerer.awaits())
      }
      const next = Array.from({ length: tries }, () => finds({ answerer, asker }))
      return { first: next[0], later: next.slice(1).filter((found) => found).length }
    })
    assert.isAtMost(found.filter(({ first }) => first).length, 8)
    assert.strictEqual(Math.max(...found.map(({ later }) => later)) > tries / 2, hasSeveral)
  })

  it("who asks waits for the answer for a moment only", () => {
    const { answerer, asker } = pair()
    assert.isFalse(asker.isAwaited)
    assert.isTrue(asker.ask(() => answerer.sent()))
    const times = Array.from({ length: tries }, () => {
      const since = performance.now()
      assert.isFalse(asker.ask(() => {}))
      return performance.now() - since
    })
    assert.isBelow(Math.min(...times), 1)
  })

  it.scopedLive("short statements that follow each other are answered before their question returns", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const link = yield* Effect.acquireRelease(
        Effect.sync(() => thread({ filename, readOnly: false, reader: false, mustExist: false, extensions: [] })),
        ({ destroy }) => Effect.sync(destroy)
      )
      const ask = (sql: string | undefined) =>
        Effect.async<boolean>((resume) => {
          let returned = false
          link.send(
            {
              request: sql === undefined
                ? { _tag: "Open" }
                : { _tag: "Run", sql, params: [], form: "rows", cached: true, safeIntegers: false },
              begin: undefined,
              within: false,
              failed: false
            },
            undefined,
            (outcome) => {
              assert(outcome._tag === "Answered" && outcome.reply.failure === undefined)
              resume(Effect.succeed(!returned))
            }
          )
          returned = true
        })
      yield* ask(undefined)
      // On a machine that has much to do the other thread is rarely there in time.
      let atOnce = 0
      for (let i = 0; i < (hasSeveral ? 100_000 : 5_000) && atOnce < 10; i++) {
        atOnce += (yield* ask("SELECT 1")) ? 1 : 0
      }
      assert.strictEqual(atOnce, hasSeveral ? 10 : 0)
      // What takes long is not waited for.
      assert.isFalse(
        yield* ask(
          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT max(i) FROM n"
        )
      )
    }))

  it.scopedLive("the event loop turns while a fiber does nothing but to ask", () =>
    Effect.gen(function*() {
      const connection = yield* connect(driver(yield* file))
      yield* connection.begin({})
      let turns = 0
      let longest = 0
      let last = performance.now()
      let over = false
      const turn = () => {
        const now = performance.now()
        turns++
        longest = Math.max(longest, now - last)
        last = now
        if (!over) {
          setImmediate(turn)
        }
      }
      yield* Effect.addFinalizer(() => Effect.sync(() => (over = true)))
      setImmediate(turn)
      const since = performance.now()
      while (performance.now() - since < 500) {
        yield* connection.execute("SELECT 1", [], undefined)
      }
      assert.isAbove(turns, 2)
      assert.isBelow(longest, 200)
      yield* connection.commit
    }))
})
