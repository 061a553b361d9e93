/**
 * What a unit of work leaves to the garbage collector. Unlike its time, that is the same whenever it is measured.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { GCProfiler } from "node:v8"
import * as Database from "../../src/Database.js"
import { file } from "../internal/sqlite/support.js"
import { collect } from "../support/collect.js"
import { freshDatabase } from "../support/postgres.js"
import { crowded, fibers } from "./crowd.js"

/** The bytes that were allocated on the heap: what each collection found there more than the one before had left. */
const allocatedBy = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    const profiler = new GCProfiler()
    collect()
    profiler.start()
    let left = process.memoryUsage().heapUsed
    yield* effect
    const end = process.memoryUsage().heapUsed
    let bytes = 0
    for (const { afterGC, beforeGC } of profiler.stop().statistics) {
      bytes += beforeGC.heapStatistics.usedHeapSize - left
      left = afterGC.heapStatistics.usedHeapSize
    }
    return bytes + end - left
  })

const times = 500

/** Of one unit, once its code is compiled; the least of three, since others allocate in this process too. */
const bytesOf = <E, R>(unit: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    yield* Effect.repeatN(unit, 2_000)
    const found = yield* Effect.replicateEffect(allocatedBy(Effect.repeatN(unit, times - 1)), 3)
    return Math.min(...found) / times
  })

/**
 * The most kilobytes that a statement, a session of two statements, and a session that runs nothing may allocate: a
 * quarter more than they do, on the version of Node.js that takes most. A span, a service provided or a scope opened
 * for each statement is 7 or more.
 */
interface Bounds {
  readonly statement: number
  readonly session: number
  readonly empty: number
}

const withinBounds = (name: string, url: Effect.Effect<string, never, Scope.Scope>, bounds: Bounds) =>
  it.live(
    name,
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { session, sql } = yield* Database.make({ url: yield* url, thread: "main" })
        yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)`
        yield* sql`INSERT INTO account VALUES (1, 0)`
        const select = Effect.suspend(() => sql`SELECT balance FROM account WHERE id = ${1}`)
        const update = Effect.suspend(() => sql`UPDATE account SET balance = balance + 1 WHERE id = ${1}`)
        const units: { readonly [Unit in keyof Bounds]: Effect.Effect<unknown, unknown> } = {
          statement: select,
          session: session(Effect.zipRight(select, update)),
          empty: session(Effect.void)
        }
        for (const unit of ["statement", "session", "empty"] as const) {
          const kilobytes = (yield* bytesOf(units[unit])) / 1_024
          assert.isBelow(kilobytes, bounds[unit], unit)
        }
      })),
    240_000
  )

const crowdTimes = 10

/**
 * The most kilobytes that a statement and a session of two statements may allocate where 64 fibers share ten connections, or
 * the one of SQLite's worker, and have to wait: a quarter more than they do.
 */
const crowdWithinBounds = (
  name: string,
  url: Effect.Effect<string, never, Scope.Scope>,
  bounds: Pick<Bounds, "statement" | "session">
) =>
  it.live(
    `${name}, ${fibers} fibers`,
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { session, sql } = yield* Database.make({
          url: yield* url,
          thread: "worker",
          poolSize: 10,
          poolMaxOverflow: 0
        })
        const select = Effect.suspend(() => sql`SELECT ${1} AS one`)
        const units: { readonly [Unit in keyof typeof bounds]: Effect.Effect<unknown, unknown> } = {
          statement: select,
          session: session(Effect.zipRight(select, select))
        }
        for (const unit of ["statement", "session"] as const) {
          yield* crowded(units[unit], crowdTimes * 3)
          const found = yield* Effect.replicateEffect(allocatedBy(crowded(units[unit], crowdTimes)), 3)
          const kilobytes = Math.min(...found) / (fibers * crowdTimes) / 1_024
          assert.isBelow(kilobytes, bounds[unit], unit)
        }
      })),
    240_000
  )

describe("allocations", () => {
  withinBounds("PostgreSQL", freshDatabase, { statement: 17, session: 56, empty: 22 })
  withinBounds("SQLite", Effect.map(file, (name) => `sqlite:///${name}`), { statement: 12, session: 46, empty: 22 })
  crowdWithinBounds("PostgreSQL", freshDatabase, { statement: 19, session: 67 })
  crowdWithinBounds("SQLite's worker", Effect.map(file, (name) => `sqlite:///${name}`), {
    statement: 17.5,
    session: 75
  })
})
