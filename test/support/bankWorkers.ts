/**
 * The bank's workers: they move money in sessions of every kind, and record how each session ends.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Struct from "effect/Struct"
import type * as Database from "../../src/Database.js"
import { fromSqlError } from "../../src/DatabaseError.js"
import * as Migrations from "../../src/Migrations.js"
import * as Session from "../../src/Session.js"
import { type Entry, initialBalance } from "./bankJournal.js"
import type { Random } from "./random.js"

const defaultAccounts = 20

export interface Options {
  readonly db: Database.Service
  /** The prefix of the ids of transfers, different for each process. */
  readonly name: string
  readonly workers: number
  /** The number of accounts, as `open` made them. The fewer there are, the more transfers wait for each other. Default: 20. */
  readonly accounts?: number | undefined
  readonly random: Random
  readonly record: (entry: Entry, worker: number) => void
  /** The maximum pause between two interruptions of a worker, in milliseconds. Default: no worker is interrupted. */
  readonly maxPause?: number | undefined
  /** The kinds of transfers, by name. Default: all. */
  readonly kinds?: ReadonlyArray<string> | undefined
  /** Replaces the random options of a worker's sessions. */
  readonly sessionOptions?: ((worker: number) => Session.Options) | undefined
}

export interface Workers {
  /** Lets each worker finish its current transfer, and completes when all have. */
  readonly stop: Effect.Effect<void>
  /** The longest time that an interruption took, and that a session exceeded its timeout by, in milliseconds. */
  readonly maxMillis: () => { readonly interruption: number; readonly excess: number }
}

/** The application's own error: it refuses a transfer. */
class Refused {
  readonly _tag = "Refused"
}

const refusal = Effect.fail(new Refused())

const tagOf = (error: unknown): string => {
  const { _tag } = error as { readonly _tag: string }
  return _tag === "SqlError" ? fromSqlError(error as SqlError)._tag : _tag
}

type Outcome = Exclude<Entry["event"], "requested" | "committed" | "rolled back">

const outcomeOf = (
  exit: Exit.Exit<unknown, unknown>,
  commits: boolean
): { readonly event: Outcome; readonly reason?: string } => {
  if (Exit.isSuccess(exit)) {
    return { event: commits ? "acknowledged" : "refused" }
  }
  if (Cause.isDie(exit.cause)) {
    return { event: "defect", reason: Cause.pretty(exit.cause) }
  }
  const failure = Cause.failureOption(exit.cause)
  if (Option.isNone(failure)) {
    return { event: "interrupted" }
  }
  const reason = tagOf(failure.value)
  return { event: reason === "CommitOutcomeUnknown" ? "unknown" : "refused", reason }
}

/** One attempt at a transfer, within its session. */
interface Attempt {
  /** Moves the money of one part. */
  readonly move: (part: string) => Effect.Effect<void, SqlError>
  /** A slow statement. */
  readonly slow: Effect.Effect<void, SqlError>
}

interface Kind {
  readonly parts: ReadonlyArray<string>
  /** Parts that it may move in place of `parts`. */
  readonly alternative?: ReadonlyArray<string>
  /** Whether success means that the money has moved. Default: true. */
  readonly commits?: boolean
  readonly run: (
    attempted: <A, E, R>(
      work: (attempt: Attempt) => Effect.Effect<A, E, R>
    ) => Effect.Effect<A, E, R | Session.Session>,
    options: Session.Options
  ) => Effect.Effect<unknown, unknown>
}

/** All kinds of transfers. A part called `never` must not reach the ledger. */
const kindsOf = ({ accounts = defaultAccounts, db, random }: Options): Readonly<Record<string, Kind>> => {
  const { session, sql } = db
  const manyRows = sql`SELECT one.balance FROM accounts AS one, accounts AS two, accounts AS three`
  return {
    plain: {
      parts: ["a"],
      run: (attempted, options) => session(attempted(({ move }) => move("a")), options)
    },
    slow: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move, slow }) => Effect.zipRight(move("a"), Effect.zipRight(slow, move("b")))),
          options
        )
    },
    nested: {
      parts: ["a", "b", "c"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.zipRight(
              move("a"),
              session(Effect.zipRight(move("b"), session(move("c"))))
            )
          ),
          options
        )
    },
    rolledBackSavepoint: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.all([
              move("a"),
              session(Effect.zipRight(move("never"), refusal)).pipe(
                Effect.catchTag("Refused", () => Effect.void)
              ),
              move("b")
            ], { discard: true })
          ),
          options
        )
    },
    siblings: {
      parts: ["a", "b", "c"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.all([
              session(Effect.zipRight(move("never"), session(Effect.zipRight(move("never"), refusal)))).pipe(
                Effect.catchTag("Refused", () => Effect.void)
              ),
              session(move("a")),
              session(Effect.zipRight(move("never"), Session.rollbackOnly)),
              session(move("b")),
              move("c")
            ], { concurrency: "unbounded", discard: true })
          ),
          options
        )
    },
    joined: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) => Effect.zipRight(move("a"), session(move("b"), { propagation: "join" }))),
          options
        )
    },
    refused: {
      parts: ["a"],
      run: (attempted, options) => session(attempted(({ move }) => Effect.zipRight(move("a"), refusal)), options)
    },
    rolledBack: {
      parts: ["a"],
      commits: false,
      run: (attempted, options) =>
        session(attempted(({ move }) => Effect.zipRight(move("a"), Session.rollbackOnly)), options)
    },
    // The failed statement aborts the transaction, although its error is ignored.
    swallowed: {
      parts: ["a"],
      run: (attempted, options) =>
        session(attempted(({ move }) => Effect.zipRight(move("a"), Effect.ignore(sql`SELECT nothing`))), options)
    },
    withTransaction: {
      parts: ["a", "b"],
      run: (attempted) => session(sql.withTransaction(attempted(({ move }) => Effect.zipRight(move("a"), move("b")))))
    },
    handle: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        Effect.scoped(
          Effect.flatMap(db.acquireSession(Struct.omit(options, "retry")), (handle) =>
            handle.run(attempted(({ move }) =>
              Effect.zipRight(move("a"), session(move("b")))
            )).pipe(
              Effect.zipRight(handle.commit)
            ))
        )
    },
    handleWithoutCommit: {
      parts: ["a"],
      commits: false,
      run: (attempted, options) =>
        Effect.scoped(
          Effect.flatMap(db.acquireSession(Struct.omit(options, "retry")), (handle) =>
            handle.run(attempted(({ move }) => move("a"))))
        )
    },
    // Released in the middle of a transaction that the application has begun by itself.
    reserved: {
      parts: [],
      commits: false,
      run: () =>
        Effect.scoped(Effect.flatMap(
          sql.reserve,
          (connection) =>
            Effect.zipRight(
              connection.executeUnprepared("BEGIN", [], undefined),
              connection.executeUnprepared(
                "INSERT INTO ledger (id, attempt, part, source, target, amount) VALUES ('never', 0, 'never', 1, 2, 3)",
                [],
                undefined
              )
            )
        ))
    },
    // A session on another connection, if the pool has one.
    separate: {
      parts: ["a"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.zipRight(
              move("a"),
              session(sql`SELECT balance FROM accounts`, { propagation: "new", timeout: "300 millis" })
            )
          ),
          options
        )
    },
    // A statement that runs after the end of its session must fail instead of writing into another session.
    late: {
      parts: ["a"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.map(
              Effect.zipRight(move("a"), Effect.context<never>()),
              (context) => Effect.provide(move("never"), context)
            )
          ),
          options
        ).pipe(
          Effect.flatMap(Effect.either),
          Effect.flatMap((late) =>
            late._tag === "Left" && tagOf(late.left) === "SessionClosed"
              ? Effect.void
              : Effect.dieMessage("a statement ran after its session")
          )
        )
    },
    // A stream that is closed before its end.
    partialStream: {
      parts: ["a"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.zipRight(Stream.runDrain(Stream.take(sql`SELECT balance FROM accounts`.stream, 1)), move("a"))
          ),
          options
        )
    },
    // Streams read at once, beside a transfer.
    streams: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.all([
              Stream.runDrain(manyRows.stream),
              Stream.runDrain(Stream.take(manyRows.stream, 700)),
              move("a"),
              Effect.zipRight(Effect.yieldNow(), Stream.runDrain(manyRows.stream))
            ], { concurrency: "unbounded", discard: true }).pipe(Effect.zipRight(move("b")))
          ),
          options
        )
    },
    // The session pauses between two batches of a stream, and between two statements.
    slowBody: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            move("a").pipe(
              Effect.zipRight(
                Stream.runForEachChunk(
                  Stream.take(manyRows.stream, 2_000),
                  () => Effect.sleep(random.between(0, 60))
                )
              ),
              Effect.zipRight(Effect.sleep(random.between(0, 400))),
              Effect.zipRight(move("b"))
            )
          ),
          options
        )
    },
    // A nested session that a timeout interrupts has moved nothing.
    raced: {
      parts: ["a", "completed"],
      alternative: ["interrupted"],
      run: (attempted, options) =>
        session(
          attempted(({ move, slow }) =>
            session(Effect.zipRight(move("a"), slow)).pipe(
              Effect.timeoutOption(random.between(0, 300)),
              Effect.flatMap((result) => move(result._tag === "Some" ? "completed" : "interrupted"))
            )
          ),
          options
        )
    },
    // A statement that a timeout interrupts ends what its session can commit, if it was sent.
    racedStatement: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ move, slow }) =>
            move("a").pipe(
              Effect.zipRight(Effect.timeoutOption(slow, random.between(0, 300))),
              Effect.zipRight(move("b"))
            )
          ),
          options
        )
    },
    outside: {
      parts: [],
      commits: false,
      run: () =>
        Effect.zipRight(
          sql`SELECT balance FROM accounts`,
          Stream.runDrain(Stream.take(sql`SELECT balance FROM accounts`.stream, 3))
        )
    },
    audit: {
      parts: [],
      commits: false,
      run: (_, options) => {
        const sum = random.chance(0.5)
          ? Effect.map(
            sql<{ readonly balance: number }>`SELECT balance FROM accounts`,
            (rows) => rows.reduce((total, { balance }) => total + balance, 0)
          )
          : Stream.runFold(
            sql<{ readonly balance: number }>`SELECT balance FROM accounts`.stream,
            0,
            (total, { balance }) => total + balance
          )
        return session(
          Effect.flatMap(
            Effect.zip(sum, Effect.zipRight(Effect.yieldNow(), sum)),
            ([one, other]) =>
              one === accounts * initialBalance && other === one
                ? Effect.void
                : Effect.dieMessage(`an audit found ${one}, and ${other}`)
          ),
          { ...options, isolation: "serializable", readOnly: true, commit: undefined }
        )
      }
    }
  }
}

/** Random options for one transfer. */
const optionsFrom = (random: Random): Session.Options => ({
  name: "bank",
  retry: random.chance(0.6),
  ...(random.chance(0.4) && { commit: random.pick(["verified", "recorded"] as const) }),
  ...(random.chance(0.3) && { timeout: random.between(20, 1_500) }),
  ...(random.chance(0.2) && { statementTimeout: random.between(100, 1_000) }),
  ...(random.chance(0.2) && { lockTimeout: random.between(20, 1_000) }),
  ...(random.chance(0.4) && {
    isolation: random.pick(["read committed", "repeatable read", "serializable"] as const)
  })
})

/** Creates the accounts, and what recorded commits need. */
export const open = ({ sql }: Database.Service, accounts = defaultAccounts): Effect.Effect<void, SqlError> =>
  Effect.all([
    Effect.provideService(Migrations.commitRecords, SqlClient.SqlClient, sql),
    sql`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)`,
    // No unique key: a transfer that is executed twice must be detected, not prevented.
    sql`CREATE TABLE ledger (
      id TEXT NOT NULL, attempt INTEGER NOT NULL, part TEXT NOT NULL,
      source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL
    )`,
    sql`INSERT INTO accounts ${
      sql.insert(Array.from({ length: accounts }, (_, i) => ({ id: i + 1, balance: initialBalance })))
    }`
  ], { discard: true })

/** Starts the workers. */
export const start = (options: Options): Effect.Effect<Workers> =>
  Effect.gen(function*() {
    const { accounts = defaultAccounts, db, name, random, record } = options
    const { sql } = db
    let count = 0
    let stopping = false
    let maxInterruption = 0
    let maxExcess = 0
    const running = new Map<number, Fiber.RuntimeFiber<unknown, unknown>>()

    const attemptAt = (id: string, n: number, chance: Random): Attempt => ({
      move: (part) =>
        Effect.suspend(() => {
          const amount = 1 + chance.below(20)
          const source = 1 + chance.below(accounts)
          const target = 1 + (source + chance.below(accounts - 1)) % accounts
          return Effect.all([
            sql`UPDATE accounts SET balance = balance - ${amount} WHERE id = ${source}`,
            sql`INSERT INTO ledger ${sql.insert({ id, attempt: n, part, source, target, amount })}`,
            sql`UPDATE accounts SET balance = balance + ${amount} WHERE id = ${target}`
          ], { discard: true })
        }),
      slow: Effect.suspend(() => {
        const seconds = chance.between(0.02, 0.4)
        return sql.onDialectOrElse({
          pg: () => Effect.asVoid(sql`SELECT pg_sleep(${seconds})`),
          orElse: () => Effect.sleep(seconds * 1_000)
        })
      })
    })

    const transfer = (
      worker: number,
      kind: string,
      { alternative, commits = true, parts, run }: Kind,
      chance: Random
    ) =>
      Effect.suspend(() => {
        const id = `${name}-${++count}`
        let attempts = 0
        const sessionOptions = options.sessionOptions?.(worker) ?? optionsFrom(chance)
        const since = performance.now()
        record({ id, event: "requested", kind, parts, alternative }, worker)
        const registerHooks = (attempt: number) =>
          Effect.zipRight(
            Session.afterCommit(Effect.sync(() => record({ id, event: "committed", attempt }, worker))),
            Session.afterRollback(Effect.sync(() => record({ id, event: "rolled back", attempt }, worker)))
          )
        return run(
          (work) =>
            Effect.suspend(() => {
              const n = ++attempts
              return Effect.zipRight(registerHooks(n), work(attemptAt(id, n, chance)))
            }),
          sessionOptions
        ).pipe(Effect.onExit((exit) =>
          Effect.sync(() => {
            const outcome = outcomeOf(exit, commits)
            if (outcome.reason === "SessionTimeout" && sessionOptions.timeout !== undefined) {
              maxExcess = Math.max(maxExcess, performance.now() - since - Duration.toMillis(sessionOptions.timeout))
            }
            record({ id, ...outcome }, worker)
          })
        ))
      })

    const work = (worker: number) => {
      const own = random.branch(worker)
      const kinds = Object.entries(kindsOf({ ...options, random: own })).filter(([kind]) =>
        options.kinds?.includes(kind) ?? true
      )
      return Effect.whileLoop({
        while: () => !stopping,
        step: () => {},
        body: () =>
          Effect.gen(function*() {
            const [name, kind] = own.chance(0.3) ? kinds[0] : own.pick(kinds)
            const fiber = yield* Effect.fork(transfer(worker, name, kind, own.branch(own.next())))
            running.set(worker, fiber)
            const exit = yield* Fiber.await(fiber)
            running.delete(worker)
            // A client backs off after a failure.
            yield* Effect.sleep(Exit.isSuccess(exit) ? 0 : own.between(1, 60))
          })
      })
    }

    const interruptWorkers = (maxPause: number) =>
      Effect.forever(Effect.suspend(() => {
        const chance = interruptions
        return Effect.zipRight(
          Effect.sleep(chance.between(0, maxPause)),
          Effect.suspend(() => {
            const fibers = Array.from(running.values())
            if (fibers.length === 0) {
              return Effect.void
            }
            const since = performance.now()
            return Effect.map(Fiber.interrupt(chance.pick(fibers)), () => {
              maxInterruption = Math.max(maxInterruption, performance.now() - since)
            })
          })
        )
      }))
    const interruptions = random.branch("interruptions")

    const fibers = yield* Effect.forEach(
      Array.from({ length: options.workers }, (_, worker) => worker),
      (worker) => Effect.forkDaemon(work(worker))
    )
    const interrupter = yield* Effect.forkDaemon(
      options.maxPause === undefined ? Effect.void : interruptWorkers(options.maxPause)
    )
    return {
      stop: Effect.zipRight(
        Effect.sync(() => {
          stopping = true
        }),
        Effect.zipRight(Fiber.interrupt(interrupter), Effect.asVoid(Fiber.joinAll(fibers)))
      ),
      maxMillis: () => ({ interruption: Math.round(maxInterruption), excess: Math.round(maxExcess) })
    }
  })
