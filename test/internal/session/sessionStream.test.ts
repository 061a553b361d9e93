/** A session that lasts as long as a stream, and streams that leave their session. */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { pipe } from "effect/Function"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Database from "../../../src/Database.js"
import { type DatabaseError, isDatabaseError } from "../../../src/DatabaseError.js"
import * as Session from "../../../src/Session.js"
import * as TestDatabase from "../../../src/TestDatabase.js"
import { forEachDialect, postgres } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { collectingSpans } from "../../support/spans.js"
import { assertIdle, failure, insert, live, numbers, open } from "./harness.js"

const two = { poolSize: 2, poolMaxOverflow: 0 }

/** Inserts the numbers, one for each pull. */
const inserting = (db: Database.Service, ...values: ReadonlyArray<number>) =>
  Stream.mapEffect(Stream.rechunk(Stream.fromIterable(values), 1), (n) => Effect.as(insert(db, n), n))

/** How sessions ended so far. */
const ends = (db: Database.Service) =>
  Effect.map(db.activity, ({ committed, rolledBack, sessions }) => ({ committed, rolledBack, open: sessions.length }))

const collect = <A, E, R>(stream: Stream.Stream<A, E, R>) =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

forEachDialect((name, _, dialect) =>
  describe(`a session stream on ${name}`, () => {
    live("commits at its end, and gives its connection back", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const hooks: Array<unknown> = []
        const ids = new Set<string>()
        const stream = inserting(db, 1, 2, 3).pipe(
          Stream.tap((n) => Session.afterCommit(Effect.sync(() => hooks.push(n)))),
          Stream.tap(() => Session.afterRollback(Effect.sync(() => hooks.push("rolled back")))),
          Stream.tap(() => Effect.map(Session.id, (id) => ids.add(id))),
          Stream.mapEffect((n) => Effect.map(numbers(db), (all) => [n, all])),
          Stream.ensuring(Effect.orDie(insert(db, 4)))
        )
        const seen: Array<unknown> = []
        yield* Stream.runForEach(db.sessionStream(stream, { name: "export" }), ([n, all]) =>
          Effect.map(Effect.all([db.activity, db.poolStats]), ([{ sessions }, { used }]) =>
            seen.push([
              n,
              all,
              hooks.length,
              sessions.map(({ name }) => name),
              used
            ])))
        assert.deepStrictEqual(seen, [
          [1, [1], 0, ["export"], 1],
          [2, [1, 2], 0, ["export"], 1],
          [3, [1, 2, 3], 0, ["export"], 1]
        ])
        assert.deepStrictEqual(hooks, [1, 2, 3])
        assert.strictEqual(ids.size, 1)
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 4])
        assert.deepStrictEqual(yield* ends(db), { committed: 1, rolledBack: {}, open: 0 })
        yield* assertIdle(db)
      }))

    live("runs all that is streamed inside: rows, copies, buffers, concurrent effects, nested sessions", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const { sql } = db
        const rows = sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`.stream
        const decoder = new TextDecoder()
        const stream = inserting(db, 1, 2, 3).pipe(
          Stream.buffer({ capacity: 2 }),
          Stream.mapEffect((n) =>
            Effect.as(db.session(insert(db, n + 10)), n), { concurrency: 3 }),
          Stream.drain,
          Stream.concat(Stream.map(rows, ({ n }) =>
            String(n))),
          Stream.concat(Stream.map(db.copyTo("SELECT n FROM items ORDER BY n"), (data) =>
            decoder.decode(data)))
        )
        const texts = yield* collect(db.sessionStream(stream))
        assert.strictEqual(texts.join(" ").replaceAll(/\s+/g, " ").trim(), "1 2 3 11 12 13 1 2 3 11 12 13")
        assert.deepStrictEqual(yield* numbers(db), [1, 2, 3, 11, 12, 13])
        assert.deepStrictEqual(yield* ends(db), { committed: 1, rolledBack: {}, open: 0 })
        yield* assertIdle(db)
      }))

    live("fails with the failure of its commit, behind the last element", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const orphan = db.sql`INSERT INTO children (id, parent) VALUES (1, 1)`
        const seen: Array<number> = []
        const error: DatabaseError = yield* pipe(
          db.sessionStream(Stream.tap(inserting(db, 1, 2), () =>
            Effect.exit(db.session(orphan)))),
          Stream.runForEach((n) => Effect.sync(() => seen.push(n))),
          Effect.flip
        )
        assert.strictEqual(error._tag, "ForeignKeyViolation")
        assert.deepStrictEqual(seen, [1, 2])
        // A swallowed error of a statement is one too.
        const swallowed = yield* Effect.flip(Stream.runDrain(
          db.sessionStream(Stream.concat(inserting(db, 1), Stream.fromEffect(Effect.ignore(insert(db, 1)))))
        ))
        assert.strictEqual(swallowed._tag, "TransactionAborted")
        assert.deepStrictEqual(yield* numbers(db), [])
        yield* assertIdle(db)
      }))

    live("rolls back when it fails or dies, with typed errors", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const then = (end: Stream.Stream<number, SqlError | "own">) =>
          Effect.exit(Stream.runDrain(db.sessionStream(Stream.concat(inserting(db, 1), end))))
        const duplicate = insert(db, 1)
        const tagged = (exit: Exit.Exit<void, DatabaseError | "own">) =>
          Exit.isFailure(exit) && exit.cause._tag === "Fail" && isDatabaseError(exit.cause.error)
            ? exit.cause.error._tag
            : exit
        assert.deepStrictEqual(yield* then(Stream.fail("own")), Exit.fail("own"))
        assert.deepStrictEqual(yield* then(Stream.die("defect")), Exit.die("defect"))
        assert.strictEqual(tagged(yield* then(Stream.fromEffect(Effect.as(duplicate, 1)))), "UniqueViolation")
        assert.strictEqual(
          tagged(yield* then(Stream.fromEffect(Effect.as(Effect.orDie(duplicate), 1)))),
          "UniqueViolation"
        )
        const finalizer = Stream.ensuring(Stream.succeed(2), Effect.die("finalizer"))
        assert.deepStrictEqual(yield* then(finalizer), Exit.die("finalizer"))
        assert.deepStrictEqual(yield* numbers(db), [])
        assert.deepStrictEqual((yield* ends(db)).committed, 0)
        yield* assertIdle(db)
      }))

    live("rolls back when its consumer leaves early, fails or is interrupted", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const stream = db.sessionStream(Stream.ensuring(inserting(db, 1, 2, 3), Effect.orDie(insert(db, 4))))
        assert.deepStrictEqual(yield* collect(Stream.take(stream, 2)), [1, 2])
        // Nobody has asked for the end.
        assert.deepStrictEqual(yield* collect(Stream.take(stream, 3)), [1, 2, 3])
        assert.deepStrictEqual(yield* Stream.runHead(stream), Option.some(1))
        assert.strictEqual(yield* Effect.flip(Stream.runForEach(stream, () => Effect.fail("consumer"))), "consumer")
        const reached = yield* Deferred.make<void>()
        const reading = yield* Effect.fork(
          Stream.runForEach(stream, () => Effect.zipRight(Deferred.succeed(reached, undefined), Effect.never))
        )
        yield* Deferred.await(reached)
        yield* Fiber.interrupt(reading)
        assert.deepStrictEqual(yield* numbers(db), [])
        assert.deepStrictEqual((yield* ends(db)).committed, 0)
        yield* assertIdle(db)
        // An end inside of it is its own.
        assert.deepStrictEqual(yield* collect(db.sessionStream(Stream.take(inserting(db, 1, 2, 3), 2))), [1, 2])
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
      }))

    live("rolls back a pull that is interrupted", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const reached = yield* Deferred.make<void>()
        const waiting = Stream.fromEffect(Effect.zipRight(Deferred.succeed(reached, undefined), Effect.never))
        const reading = yield* Effect.fork(Stream.runDrain(db.sessionStream(Stream.concat(inserting(db, 1), waiting))))
        yield* Deferred.await(reached)
        yield* Fiber.interrupt(reading)
        assert.deepStrictEqual(yield* numbers(db), [])
        assert.deepStrictEqual(yield* ends(db), { committed: 0, rolledBack: { interrupted: 1 }, open: 0 })
        yield* assertIdle(db)
      }))

    live("has a timeout for all of it, whatever its consumer does", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const timeout = { name: "slow", timeout: "50 millis" } as const
        // The stream waits.
        const waiting = Stream.concat(inserting(db, 1), Stream.never)
        const pulled = yield* Effect.flip(Stream.runDrain(db.sessionStream(waiting, timeout)))
        assert.strictEqual(pulled._tag, "SessionTimeout")
        // In an uninterruptible consumer too.
        const held = yield* Effect.flip(Effect.uninterruptible(Stream.runDrain(db.sessionStream(waiting, timeout))))
        assert.strictEqual(held._tag, "SessionTimeout")
        // The consumer waits, and holds nothing any more.
        const consumed = yield* pipe(
          db.sessionStream(inserting(db, 1, 2, 3), timeout),
          Stream.runForEach(() => eventually(Effect.map(ends(db), ({ open }) => open === 0))),
          Effect.flip
        )
        assert.strictEqual(consumed._tag, "SessionTimeout")
        assert.deepStrictEqual(yield* numbers(db), [])
        assert.deepStrictEqual(yield* ends(db), { committed: 0, rolledBack: { SessionTimeout: 3 }, open: 0 })
        yield* assertIdle(db)
        // It is not reached.
        assert.deepStrictEqual(yield* collect(db.sessionStream(inserting(db, 1, 2), { timeout: "1 minute" })), [1, 2])
        assert.deepStrictEqual(yield* numbers(db), [1, 2])
      }))

    live("takes the options of a session, data-last too, but no retry", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const refused = yield* failure(Stream.runDrain(inserting(db, 1).pipe(db.sessionStream({ readOnly: true }))))
        assert.strictEqual(refused._tag, "ReadOnlyViolation")
        const retried = yield* failure(Stream.runDrain(db.sessionStream(inserting(db, 1), { retry: true })))
        assert.strictEqual(retried._tag, "InvalidStatement")
        const wrong = yield* failure(Stream.runDrain(db.sessionStream(Stream.empty, { isolation: "none" as never })))
        assert.strictEqual(wrong._tag, "InvalidData")
        const kept = Stream.tap(inserting(db, 1), () => Session.rollbackOnly).pipe(db.sessionStream())
        assert.deepStrictEqual(yield* collect(kept), [1])
        assert.deepStrictEqual(yield* numbers(db), [])
        // As a function of the module, which takes the database of the context.
        const stream: Stream.Stream<number, DatabaseError, Database.Database> = inserting(db, 1).pipe(
          Database.sessionStream()
        )
        yield* Effect.provideService(Stream.runDrain(stream), Database.Database, db)
        assert.deepStrictEqual(yield* numbers(db), [1])
        // One that runs no statement takes no connection.
        const idle = yield* collect(db.sessionStream(Stream.fromEffect(Effect.map(db.poolStats, ({ used }) => used))))
        assert.deepStrictEqual(idle, [0])
      }))

    live("is nested in the session around it, or joins it", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const failing = (n: number) => Stream.concat(inserting(db, n), Stream.fail("own"))
        yield* db.session(Effect.gen(function*() {
          // A savepoint is undone alone, and released at the end.
          yield* Effect.exit(Stream.runDrain(db.sessionStream(failing(1))))
          yield* Stream.runHead(db.sessionStream(inserting(db, 2, 3)))
          yield* Stream.runDrain(db.sessionStream(inserting(db, 4)))
          // What joins is undone with the session only.
          yield* Stream.runHead(db.sessionStream(inserting(db, 5, 6), { propagation: "join" }))
          yield* Effect.exit(Stream.runDrain(db.sessionStream(failing(7), { propagation: "join" })))
          yield* Stream.runForEach(
            db.sessionStream(inserting(db, 8), { propagation: "join" }),
            (n) => insert(db, n + 1)
          )
        }))
        assert.deepStrictEqual(yield* numbers(db), [4, 5, 7, 8, 9])
        // The session around it would wait for its own consumer.
        const refused = yield* failure(db.session(
          Stream.runForEach(db.sessionStream(inserting(db, 10)), (n) => insert(db, n + 1))
        ))
        assert.strictEqual(refused._tag, "InvalidStatement")
        assert.match(refused.message, /has a session of acquireSession or sessionStream open/)
        // It cannot commit before what is nested in it, or joins it, has ended.
        for (const propagation of ["nested", "join"] as const) {
          const scope = yield* Scope.make()
          const early = yield* failure(db.session(Effect.gen(function*() {
            const pull = yield* Scope.extend(
              Stream.toPull(db.sessionStream(inserting(db, 20, 21), { propagation })),
              scope
            )
            yield* pull
          })))
          assert.strictEqual(early._tag, "TransactionAborted")
          yield* Scope.close(scope, Exit.void)
        }
        assert.deepStrictEqual(yield* numbers(db), [4, 5, 7, 8, 9])
        yield* assertIdle(db)
      }))

    live("leaves nothing that outlives it in another session", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const kept: Array<Effect.Effect<unknown, unknown>> = []
        const keep = Effect.map(Effect.context<never>(), (context) => {
          kept.push(Effect.provide(insert(db, 9), context))
        })
        yield* Stream.runDrain(db.sessionStream(Stream.tap(inserting(db, 1), () => keep)))
        assert.strictEqual((yield* failure(kept[0]))._tag, "SessionClosed")
        // Nor does a pull after the end begin anew.
        yield* Effect.scoped(Effect.gen(function*() {
          const pull = yield* Stream.toPull(db.sessionStream(inserting(db, 2)))
          yield* pull
          assert.deepStrictEqual(yield* Effect.exit(pull), Exit.fail(Option.none()))
          assert.deepStrictEqual(yield* numbers(db), [1, 2])
          assert.deepStrictEqual(yield* Effect.exit(pull), Exit.fail(Option.none()))
        }))
        assert.deepStrictEqual(yield* ends(db), { committed: 2, rolledBack: {}, open: 0 })
        yield* assertIdle(db)
      }))

    live("is one in a sandbox too", () =>
      Effect.gen(function*() {
        const around = yield* open(dialect, two)
        yield* Effect.gen(function*() {
          const db = yield* Database.Database
          yield* Stream.runDrain(db.sessionStream(inserting(db, 1, 2)))
          yield* Stream.runHead(db.sessionStream(inserting(db, 3, 4)))
          assert.deepStrictEqual(yield* numbers(db), [1, 2])
        }).pipe(
          Effect.provide(TestDatabase.sandbox),
          Effect.provide(Context.add(around.context, Database.Database, around))
        )
        assert.deepStrictEqual(yield* numbers(around), [])
      }))

    live("of another database is not one of the session in which it is made", () =>
      Effect.gen(function*() {
        const [db, other] = [yield* open(dialect, two), yield* open(dialect, two)]
        yield* insert(db, 1)
        const rows = () => db.sql<{ readonly n: number }>`SELECT n FROM items`.stream
        const read = (made: { readonly stream: ReturnType<typeof rows> }) => collect(made.stream)
        const make = Effect.sync(() => ({ stream: rows() }))
        assert.deepStrictEqual(yield* read({ stream: yield* other.session(Effect.sync(rows)) }), [{ n: 1 }])
        assert.deepStrictEqual(yield* read(yield* other.session(make)), [{ n: 1 }])
        assert.lengthOf(yield* collect(yield* other.session(Effect.sync(() => db.copyTo("SELECT n FROM items")))), 1)
        // A session of another database is not one that it has left for on purpose.
        const made = yield* db.session(make)
        assert.strictEqual((yield* failure(other.session(read(made))))._tag, "SessionClosed")
        // It belongs to the session of its own database around that.
        const nested = yield* failure(db.session(other.session(Effect.sync(rows))))
        assert.strictEqual(nested._tag, "InvalidStatement")
        assert.strictEqual((yield* failure(read(yield* db.session(other.session(make)))))._tag, "SessionClosed")
        yield* assertIdle(db)
        yield* assertIdle(other)
      }))

    live("that is returned out of its session, or made in it, does not run outside", () =>
      Effect.gen(function*() {
        const db = yield* open(dialect, two)
        const { sql } = db
        const rows = () => sql<{ readonly n: number }>`SELECT n FROM items`.stream
        yield* insert(db, 1)
        for (const returned of [rows(), db.copyTo("SELECT n FROM items")]) {
          const error = yield* failure(db.session(Effect.as(insert(db, 2), returned)))
          assert.strictEqual(error._tag, "InvalidStatement")
          assert.match(error.message, /sessionStream/)
        }
        assert.strictEqual((yield* failure(sql.withTransaction(Effect.succeed(rows()))))._tag, "InvalidStatement")
        assert.deepStrictEqual(yield* numbers(db), [1])
        const made: ReadonlyArray<() => Stream.Stream<string, SqlError | DatabaseError>> = [
          () => Stream.map(rows(), String),
          () => Stream.map(db.copyTo("SELECT n FROM items"), String),
          () => Stream.map(Stream.provideService(Database.copyTo("SELECT n FROM items"), Database.Database, db), String)
        ]
        for (const make of made) {
          const stream = yield* db.session(Effect.sync(make))
          const error = yield* failure(Stream.runDrain(stream))
          assert.strictEqual(error._tag, "SessionClosed")
          assert.match(error.message, /sessionStream/)
          // In a session it runs in that one.
          assert.strictEqual((yield* db.session(collect(stream))).length, 1)
        }
        // Hooks run outside of their session, and so does what has left it on purpose.
        const read: Array<unknown> = []
        const left = yield* db.session(Effect.gen(function*() {
          yield* Session.afterCommit(Stream.runForEach(
            Stream.map(rows(), ({ n }) => n),
            (n) => Effect.sync(() => read.push(n))
          ))
          const stream = rows()
          return yield* Effect.forkDaemon(Effect.mapInputContext(
            Effect.zipRight(eventually(Effect.sync(() => read.length === 1)), collect(stream)),
            (context: Context.Context<never>) => Context.omit(SqlClient.TransactionConnection)(context as never)
          ))
        }))
        assert.deepStrictEqual(read, [1])
        assert.deepStrictEqual(yield* Fiber.join(left), [{ n: 1 }])
        yield* assertIdle(db)
      }))
  })
)

describe("a session stream on PostgreSQL", () => {
  live("has a span, around its statements and not around those of its consumer", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, two)
      const { sql } = db
      const { spans } = yield* collectingSpans(pipe(
        db.sessionStream(Stream.concat(sql`SELECT 1 AS read`.stream, Stream.fromEffect(sql`SELECT 2 AS run`)), {
          name: "a"
        }),
        Stream.runForEach(() => sql`SELECT 3 AS consumed`),
        Effect.withSpan("request")
      ))
      const ofText = (text: string) =>
        spans.filter(({ attributes }) => String(attributes.get("db.query.text")).includes(text))
      const session = spans.find(({ attributes }) => attributes.get("sqlayer.session.name") === "a")
      const request = spans.find(({ name }) => name === "request")
      const parents = (text: string) => ofText(text).map(({ parent }) => Option.getOrUndefined(parent))
      assert(session !== undefined && request !== undefined)
      assert.isString(session.attributes.get("sqlayer.session.id"))
      assert.deepStrictEqual(parents("read"), [session])
      assert.deepStrictEqual(parents("run"), [session])
      assert.deepStrictEqual(parents("consumed"), [request, request])
      assert.isTrue(spans.every(({ status }) => status._tag === "Ended"))
      const { spans: [failed] } = yield* collectingSpans(
        Effect.exit(Stream.runDrain(db.sessionStream(Stream.fromEffect(Effect.zipRight(insert(db, 1), insert(db, 1))))))
      )
      assert.strictEqual(failed.attributes.get("error.type"), "UniqueViolation")
    }))

  live("has its settings, and ends a statement that runs when its timeout expires", () =>
    Effect.gen(function*() {
      const db = yield* open(postgres, two)
      const { sql } = db
      const tenant = sql<{ readonly tenant: string }>`SELECT current_setting('app.tenant') AS tenant`.stream
      assert.deepStrictEqual(yield* collect(db.sessionStream(tenant, { settings: { "app.tenant": "a" } })), [{
        tenant: "a"
      }])
      const sleeping = sql`SELECT pg_sleep(60)`.stream
      const error = yield* Effect.flip(Stream.runDrain(db.sessionStream(sleeping, { timeout: "100 millis" })))
      assert.strictEqual(error._tag, "SessionTimeout")
      yield* assertIdle(db)
      assert.deepStrictEqual(yield* numbers(db), [])
    }))

  it("is typed: SqlError becomes DatabaseError, and the session is provided", () => {
    const typed = (
      service: Database.Service,
      stream: Stream.Stream<1, SqlError | "own", Session.Session | SqlClient.SqlClient>
    ): Stream.Stream<1, DatabaseError | "own", SqlClient.SqlClient> => service.sessionStream(stream)
    assert.isFunction(typed)
  })
})
