/**
 * Streams of a session on SQLite: several at once, left early, beside nested sessions, and closed after their session.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { MessagePort } from "node:worker_threads"
import * as Database from "../src/Database.js"
import { fromSqlError } from "../src/DatabaseError.js"
import { file } from "./internal/sqlite/support.js"

const quiet = Logger.remove(Logger.defaultLogger)

const kinds = {
  "a file": (filename: string) => ({ url: `sqlite:///${filename}` }),
  "a file, thread: main": (filename: string) => ({ url: `sqlite:///${filename}`, thread: "main" }),
  "memory": () => ({ url: ":memory:" })
} as const

const open = (kind: keyof typeof kinds) =>
  Effect.gen(function*() {
    const database = yield* Database.make({ environment: "test", ...kinds[kind](yield* file) })
    yield* database.sql`CREATE TABLE t (a INTEGER PRIMARY KEY)`
    return database
  })

interface Row {
  readonly i: number
}

/** The numbers from 1 to n, which are read in several batches. */
const stream = ({ sql }: Database.Service, n = 2_000): Stream.Stream<number, unknown> =>
  Stream.map(
    sql<Row>`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${n}) SELECT i FROM n`.stream,
    ({ i }) => i
  )

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)

const insert = ({ sql }: Database.Service, a: number) => sql`INSERT INTO t VALUES (${a})`

const numbers = ({ sql }: Database.Service) =>
  Effect.map(sql<{ readonly a: number }>`SELECT a FROM t ORDER BY a`, (rows) => rows.map(({ a }) => a))

const collect = (stream: Stream.Stream<number, unknown>) => Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

/** The closed cursors that are sent to the thread while an effect runs. */
const sentFetchEnds = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const { postMessage } = MessagePort.prototype
    let count = 0
    MessagePort.prototype.postMessage = function(this: MessagePort, ...args: Parameters<typeof postMessage>) {
      count += JSON.stringify(args[0]).split("FetchEnd").length - 1
      return postMessage.apply(this, args)
    }
    return effect.pipe(
      Effect.ensuring(Effect.sync(() => {
        MessagePort.prototype.postMessage = postMessage
      })),
      Effect.map(() => count)
    )
  })

for (const kind of Object.keys(kinds) as Array<keyof typeof kinds>) {
  const test = <E>(name: string, body: (database: Database.Service) => Effect.Effect<void, E, Scope.Scope>) =>
    it.scopedLive(name, () => Effect.provide(Effect.flatMap(open(kind), body), quiet))

  /** All sessions have used the same connection, and it has nothing of them left. */
  const usedOne = (database: Database.Service) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* database.poolStats).created, 1)
      assert.deepStrictEqual(yield* database.sql`SELECT 1 AS n`, [{ n: 1 }])
    })

  describe(`streams of a session, ${kind}`, () => {
    test("several streams and statements at once all end, in the order in which they were given", (database) =>
      Effect.gen(function*() {
        for (let round = 0; round < 20; round++) {
          const results = yield* database.session(Effect.all([
            collect(stream(database)),
            insert(database, round * 2),
            collect(stream(database, 700)),
            numbers(database),
            collect(stream(database)),
            insert(database, round * 2 + 1),
            numbers(database),
            collect(stream(database, 3))
          ], { concurrency: "unbounded" }))
          const before = Array.from({ length: round * 2 }, (_, i) => i)
          assert.deepStrictEqual([results[0], results[2], results[4], results[7]], [
            upTo(2_000),
            upTo(700),
            upTo(2_000),
            upTo(3)
          ])
          assert.deepStrictEqual(results[3], [...before, round * 2])
          assert.deepStrictEqual(results[6], [...before, round * 2, round * 2 + 1])
        }
        yield* usedOne(database)
      }))

    test("one that is left early touches nothing else", (database) =>
      Effect.gen(function*() {
        for (let round = 0; round < 20; round++) {
          const [first, all, , left] = yield* database.session(Effect.all([
            collect(Stream.take(stream(database), 1 + round * 50)),
            collect(stream(database)),
            insert(database, round),
            Effect.exit(Stream.runForEach(stream(database), (i) => i > 600 ? Effect.fail("left") : Effect.void))
          ], { concurrency: "unbounded" }))
          assert.deepStrictEqual(first, upTo(1 + round * 50))
          assert.deepStrictEqual(all, upTo(2_000))
          assert.deepStrictEqual(left, Exit.fail("left"))
        }
        assert.deepStrictEqual(yield* numbers(database), Array.from({ length: 20 }, (_, i) => i))
        yield* usedOne(database)
      }))

    test("one that only reads can be interrupted between its batches", (database) =>
      Effect.gen(function*() {
        yield* database.session(Effect.gen(function*() {
          yield* insert(database, 1)
          const reached = yield* Deferred.make<void>()
          const fiber = yield* Effect.fork(Stream.runForEach(stream(database), (i) =>
            i === 600 ? Effect.zipRight(Deferred.succeed(reached, undefined), Effect.never) : Effect.void))
          yield* Deferred.await(reached)
          yield* Fiber.interrupt(fiber)
          yield* insert(database, 2)
        }))
        assert.deepStrictEqual(yield* numbers(database), [1, 2])
        yield* usedOne(database)
      }))

    test("its rows survive nested sessions, whatever becomes of them", (database) =>
      Effect.gen(function*() {
        for (const concurrency of [1, 4]) {
          const seen: Array<number> = []
          yield* database.session(Effect.gen(function*() {
            yield* database.sql`DELETE FROM t`
            yield* Stream.runDrain(Stream.mapEffect(stream(database), (i) => {
              seen.push(i)
              const nested = database.session(Effect.zipRight(
                insert(database, i),
                i % 200 === 0 ? Effect.void : Effect.fail("no")
              ))
              return i % 100 === 0 ? Effect.ignore(nested) : Effect.void
            }, { concurrency }))
          }))
          assert.deepStrictEqual(seen, upTo(2_000))
          assert.deepStrictEqual(yield* numbers(database), upTo(10).map((i) => i * 200))
        }
        yield* usedOne(database)
      }))

    test("what a streamed statement writes belongs to the session in which it was opened", (database) =>
      Effect.gen(function*() {
        const { sql } = database
        const count = yield* database.session(Effect.gen(function*() {
          const returned = sql<{ readonly a: number }>`INSERT INTO t
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i FROM n RETURNING a`
          let count = 0
          yield* Stream.runForEach(returned.stream, ({ a }) => {
            count++
            return a % 500 === 1
              ? Effect.ignore(database.session(Effect.zipRight(sql`DELETE FROM t`, Effect.fail("no"))))
              : Effect.void
          })
          return count
        }))
        assert.strictEqual(count, 2_000)
        assert.lengthOf(yield* numbers(database), 2_000)
        yield* usedOne(database)
      }))

    test("one that is closed after its session does nothing to the next", (database) =>
      Effect.gen(function*() {
        for (const commits of [true, false]) {
          const scope = yield* Scope.make()
          let opened: Effect.Effect<Chunk.Chunk<number>, Option.Option<unknown>> | undefined
          yield* Effect.exit(database.session(Effect.gen(function*() {
            opened = yield* Scope.extend(Stream.toPull(stream(database)), scope)
            assert.strictEqual(Chunk.unsafeHead(yield* opened), 1)
            return yield* commits ? Effect.void : Effect.fail("no")
          })))
          const pull = opened!
          const fetchEnds = yield* sentFetchEnds(database.session(Effect.gen(function*() {
            let count = 0
            yield* Stream.runForEach(stream(database), (i) => {
              count++
              return i === 1
                ? Effect.zipRight(
                  Effect.map(Effect.flip(pull), (error) =>
                    assert.strictEqual(fromSqlError(Option.getOrThrow(error) as never)._tag, "SessionClosed")),
                  Scope.close(scope, Exit.void)
                )
                : Effect.void
            })
            assert.strictEqual(count, 2_000)
          })))
          assert.strictEqual(fetchEnds, 0)
        }
        yield* usedOne(database)
      }))
  })
}

it.scopedLive("a stream is left without waiting for a statement beside it", () =>
  Effect.gen(function*() {
    const database = yield* open("a file")
    const exit = yield* Effect.exit(database.session(Effect.gen(function*() {
      const left = yield* Deferred.make<void>()
      const begun = yield* Deferred.make<void>()
      const leaving = yield* Effect.fork(Stream.runForEach(stream(database), () =>
        Effect.zipRight(
          Deferred.succeed(begun, undefined),
          Effect.zipRight(Deferred.await(left), Effect.fail("left"))
        )))
      yield* Deferred.await(begun)
      const endless = yield* Effect.fork(
        database.sql`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) OVER () FROM n
          WHERE i < 0`
      )
      yield* Effect.sleep(50)
      yield* Deferred.succeed(left, undefined)
      assert.deepStrictEqual(yield* Fiber.await(leaving), Exit.fail("left"))
      assert.isNull(endless.unsafePoll())
      return yield* Effect.fail("done")
    })))
    assert.deepStrictEqual(exit, Exit.fail("done"))
    assert.deepStrictEqual(yield* database.sql`SELECT 1 AS n`, [{ n: 1 }])
  }).pipe(Effect.provide(quiet)))
