/**
 * How many steps of Effect's fiber runtime a session takes. Unlike their time, they are the same whenever they are counted.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import { file } from "../internal/sqlite/support.js"
import { FiberCounter } from "../support/fiberCounter.js"
import { freshDatabase } from "../support/postgres.js"

const times = 10

/** What one more run of a unit adds. */
const countsOf = (unit: Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    const runtime = Runtime.enableRuntimeFlag(yield* Effect.runtime<never>(), RuntimeFlags.OpSupervision)
    const count = (runs: number) =>
      Effect.suspend(() => {
        const counter = new FiberCounter()
        const counted = Effect.supervised(Effect.replicateEffect(unit, runs, { discard: true }), counter)
        return Effect.as(Fiber.join(Runtime.runFork(runtime)(counted)), counter)
      })
    // Prepares the statements.
    yield* count(times)
    const fewer = yield* count(times)
    const more = yield* count(2 * times)
    return {
      steps: (more.steps - fewer.steps) / times,
      suspensions: (more.suspensions - fewer.suspensions) / times
    }
  })

interface Counts {
  readonly steps: number
  readonly suspensions: number
}

const atMost = (
  name: string,
  url: Effect.Effect<string, never, Scope.Scope>,
  bounds: { readonly empty: Counts; readonly one: Counts; readonly two: Counts }
) =>
  it.scopedLive(name, () =>
    Effect.gen(function*() {
      const { session, sql } = yield* Database.make({ url: yield* url, poolSize: 1, poolMaxOverflow: 0 })
      yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)`
      yield* sql`INSERT INTO account VALUES (1, 0)`
      const select = Effect.suspend(() => sql`SELECT balance FROM account WHERE id = ${1}`)
      const update = Effect.suspend(() => sql`UPDATE account SET balance = balance + 1 WHERE id = ${1}`)
      const units = {
        empty: session(Effect.void),
        one: session(update),
        two: session(Effect.zipRight(select, update))
      }
      for (const unit of ["empty", "one", "two"] as const) {
        const { steps, suspensions } = yield* countsOf(units[unit])
        assert.isAtMost(steps, bounds[unit].steps, `steps: ${unit}`)
        assert.isAtMost(suspensions, bounds[unit].suspensions, `suspensions: ${unit}`)
      }
    }))

describe("a session's steps", () => {
  atMost("PostgreSQL", freshDatabase, {
    empty: { steps: 21, suspensions: 0 },
    one: { steps: 58, suspensions: 2 },
    two: { steps: 75, suspensions: 3 }
  })
  atMost("SQLite's worker", Effect.map(file, (name) => `sqlite:///${name}`), {
    empty: { steps: 21, suspensions: 0 },
    one: { steps: 66, suspensions: 2 },
    two: { steps: 91, suspensions: 3 }
  })
})
