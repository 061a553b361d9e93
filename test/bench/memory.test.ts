/**
 * What is held in memory while a database is used. Unlike the size of the process, it hardly depends on the machine.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { setImmediate as nextTurn } from "node:timers/promises"
import * as Database from "../../src/Database.js"
import { file } from "../internal/sqlite/support.js"
import { collect } from "../support/collect.js"
import { eventually } from "../support/eventually.js"
import { freshDatabase } from "../support/postgres.js"

/** The kilobytes in use, on the heap and in buffers outside of it. */
const used = Effect.promise(async () => {
  // Some of it is freed by callbacks, and then by the next collection.
  for (let i = 0; i < 3; i++) {
    collect()
    await nextTurn()
  }
  const { external, heapUsed } = process.memoryUsage()
  return (heapUsed + external) / 1_024
})

/** The least of seven, since others allocate in this process too. */
const least = <E, R>(kilobytes: Effect.Effect<number, E, R>) =>
  Effect.map(Effect.replicateEffect(kilobytes, 7), (measured) => Math.min(...measured))

/** The kilobytes that something holds while it is open. */
const heldBy = <E>(open: Effect.Effect<unknown, E, Scope.Scope>) =>
  Effect.gen(function*() {
    const before = yield* used
    const during = yield* Effect.scoped(Effect.zipRight(open, used))
    return during - before
  })

const connections = 40

/** Opens this many connections more than one. */
const idleConnection = (url: string) =>
  Effect.scoped(Effect.gen(function*() {
    const { poolStats, sql } = yield* Database.make({ url, poolSize: 1 + connections, poolMaxOverflow: 0 })
    yield* sql`SELECT 1`
    const before = yield* used
    yield* Effect.scoped(Effect.replicateEffect(sql.reserve, 1 + connections))
    assert.strictEqual((yield* poolStats).idle, 1 + connections)
    return ((yield* used) - before) / connections
  }))

const fibers = 1_000

/** Forks fibers that wait for the only connection of a database. */
const waiting = ({ poolStats, sql }: Database.Service, unit: Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    yield* sql.reserve
    yield* Effect.replicateEffect(Effect.forkScoped(unit), fibers)
    yield* eventually(Effect.map(poolStats, ({ waiting }) => waiting === fibers))
  })

const waitingFiber = (database: Database.Service, unit: Effect.Effect<unknown, unknown>) =>
  Effect.map(least(heldBy(waiting(database, unit))), (kilobytes) => kilobytes / fibers)

const rows = 50_000

/** The most kilobytes that a stream of rows holds while its consumer reads it. */
const streaming = ({ sql }: Database.Service) =>
  Effect.gen(function*() {
    let received = 0
    let chunks = 0
    let most = 0
    const before = yield* used
    yield* Stream.runForEachChunk(sql`SELECT * FROM item`.stream, (chunk) => {
      received += Chunk.size(chunk)
      return chunks++ % 10 === 5
        ? Effect.map(used, (now) => {
          most = Math.max(most, now - before)
        })
        : Effect.void
    })
    assert.strictEqual(received, rows)
    return most
  })

/** The most kilobytes: a quarter more than it is, and for a stream twice as much. */
interface Bounds {
  readonly statement: number
  readonly session: number
  readonly stream: number
}

const withinBounds = (name: string, url: Effect.Effect<string, never, Scope.Scope>, bounds: Bounds) =>
  it.scopedLive(
    name,
    () =>
      Effect.gen(function*() {
        const database = yield* Database.make({
          url: yield* url,
          poolSize: 1,
          poolMaxOverflow: 0,
          poolTimeout: "1 hour"
        })
        const { session, sql } = database
        const select = Effect.suspend(() => sql`SELECT 1`)
        assert.isBelow(yield* waitingFiber(database, select), bounds.statement, "a statement that waits")
        assert.isBelow(yield* waitingFiber(database, session(select)), bounds.session, "a session that waits")
        yield* sql`CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, description TEXT)`
        yield* sql`
          INSERT INTO item
          WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ${rows})
          SELECT n, 'item ' || n, 'the description of the item with the number ' || n FROM numbers
        `
        assert.isBelow(yield* least(streaming(database)), bounds.stream, "a stream")
      }),
    240_000
  )

describe("memory in use", () => {
  it.scopedLive("by an idle connection of PostgreSQL", () =>
    Effect.gen(function*() {
      const kilobytes = yield* least(idleConnection(yield* freshDatabase))
      assert.isBelow(kilobytes, 24)
    }), 240_000)
  withinBounds("on PostgreSQL", freshDatabase, { statement: 6, session: 13, stream: 2_000 })
  withinBounds("on SQLite", Effect.map(file, (name) => `sqlite:///${name}`), {
    statement: 6,
    session: 13,
    stream: 500
  })
})
