/**
 * The bank's workers: they move money in sessions of every kind, and say what they were told.
 */
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
import * as Session from "../../src/Session.js"
import { type Entry, initialBalance } from "./bankJournal.js"
import type { Random } from "./random.js"

const accounts = 20

export interface Options {
  readonly db: Database.Service
  /** Transfers begin with it, so that no two processes have the same. */
  readonly name: string
  readonly workers: number
  readonly random: Random
  readonly tell: (entry: Entry) => void
  /** How often a worker is interrupted: up to this many milliseconds lie between. */
  readonly calm: number
}

export interface Workers {
  /** Ends when each worker has done with what it is at. */
  readonly stop: Effect.Effect<void>
  /** How long the longest interruption took, and by how much a session exceeded its timeout at most, in milliseconds. */
  readonly longest: () => { readonly interruption: number; readonly excess: number }
}

/** What the application itself has against a transfer. */
class Refused {
  readonly _tag = "Refused"
}

const refusal = Effect.fail(new Refused())

const tagOf = (error: unknown): string => {
  const { _tag } = error as { readonly _tag: string }
  return _tag === "SqlError" ? fromSqlError(error as SqlError)._tag : _tag
}

type End = Exclude<Entry["said"], "asked" | "committed" | "rolled back">

const endOf = (exit: Exit.Exit<unknown, unknown>, kept: boolean): { readonly said: End; readonly why?: string } => {
  if (Exit.isSuccess(exit)) {
    return { said: kept ? "acknowledged" : "refused" }
  }
  if (Cause.isDie(exit.cause)) {
    return { said: "defect", why: Cause.pretty(exit.cause) }
  }
  const failure = Cause.failureOption(exit.cause)
  if (Option.isNone(failure)) {
    return { said: "interrupted" }
  }
  const why = tagOf(failure.value)
  return { said: why === "CommitOutcomeUnknown" ? "unknown" : "refused", why }
}

/** One attempt at a transfer, inside of its session. */
interface Attempt {
  /** Moves the money of a part. */
  readonly move: (part: string) => Effect.Effect<void, SqlError>
  /** Its statements take a while. */
  readonly dawdle: Effect.Effect<void, SqlError>
}

/** Tells how the attempt ends. */
type Enter = (n: number) => Effect.Effect<void, never, Session.Session>

interface Kind {
  readonly parts: ReadonlyArray<string>
  /** Whether its success means that the money was moved. */
  readonly kept?: boolean
  readonly run: (
    attempted: <A, E, R>(
      work: (attempt: Attempt) => Effect.Effect<A, E, R>
    ) => Effect.Effect<A, E, R | Session.Session>,
    options: Session.Options
  ) => Effect.Effect<unknown, unknown>
}

/** Transfers of all kinds. What is called `never` must not be left. */
const kindsOf = ({ db, random }: Options): Readonly<Record<string, Kind>> => {
  const { session, sql } = db
  return {
    plain: {
      parts: ["a"],
      run: (attempted, options) => session(attempted(({ move }) => move("a")), options)
    },
    slow: {
      parts: ["a", "b"],
      run: (attempted, options) =>
        session(
          attempted(({ dawdle, move }) => Effect.zipRight(move("a"), Effect.zipRight(dawdle, move("b")))),
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
    undone: {
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
      kept: false,
      run: (attempted, options) =>
        session(attempted(({ move }) => Effect.zipRight(move("a"), Session.rollbackOnly)), options)
    },
    // Which has aborted the transaction.
    swallowed: {
      parts: ["a"],
      run: (attempted, options) =>
        session(attempted(({ move }) => Effect.zipRight(move("a"), Effect.ignore(sql`SELECT nothing`))), options)
    },
    withTransaction: {
      parts: ["a", "b"],
      run: (attempted) => session(sql.withTransaction(attempted(({ move }) => Effect.zipRight(move("a"), move("b")))))
    },
    acquired: {
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
    abandoned: {
      parts: ["a"],
      kept: false,
      run: (attempted, options) =>
        Effect.scoped(
          Effect.flatMap(db.acquireSession(Struct.omit(options, "retry")), (handle) =>
            handle.run(attempted(({ move }) => move("a"))))
        )
    },
    // Left in the middle of a transaction of its own.
    reserved: {
      parts: [],
      kept: false,
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
    // On a connection of its own, if there is one.
    beside: {
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
    // A fiber that outlives its session must not write into another's.
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
    // A stream that is left before its end.
    looking: {
      parts: ["a"],
      run: (attempted, options) =>
        session(
          attempted(({ move }) =>
            Effect.zipRight(Stream.runDrain(Stream.take(sql`SELECT balance FROM accounts`.stream, 1)), move("a"))
          ),
          options
        )
    },
    outside: {
      parts: [],
      kept: false,
      run: () =>
        Effect.zipRight(
          sql`SELECT balance FROM accounts`,
          Stream.runDrain(Stream.take(sql`SELECT balance FROM accounts`.stream, 3))
        )
    },
    audit: {
      parts: [],
      kept: false,
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

/** Of every transfer its own. */
const optionsFrom = (random: Random): Session.Options => ({
  name: "bank",
  retry: random.chance(0.6),
  ...(random.chance(0.4) && { commit: "verified" }),
  ...(random.chance(0.3) && { timeout: random.between(20, 1_500) }),
  ...(random.chance(0.2) && { statementTimeout: random.between(100, 1_000) }),
  ...(random.chance(0.2) && { lockTimeout: random.between(20, 1_000) }),
  ...(random.chance(0.4) && {
    isolation: random.pick(["read committed", "repeatable read", "serializable"] as const)
  })
})

/** Creates the accounts. */
export const open = ({ sql }: Database.Service): Effect.Effect<void, SqlError> =>
  Effect.all([
    sql`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)`,
    // Nothing is unique here: a transfer that is made twice must not be prevented, but found.
    sql`CREATE TABLE ledger (
      id TEXT NOT NULL, attempt INTEGER NOT NULL, part TEXT NOT NULL,
      source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL
    )`,
    sql`INSERT INTO accounts ${
      sql.insert(Array.from({ length: accounts }, (_, i) => ({ id: i + 1, balance: initialBalance })))
    }`
  ], { discard: true })

/** Sets them to work. */
export const start = (options: Options): Effect.Effect<Workers> =>
  Effect.gen(function*() {
    const { db, name, random, tell } = options
    const { sql } = db
    let count = 0
    let stopping = false
    let interruption = 0
    let excess = 0
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
      dawdle: Effect.suspend(() => {
        const seconds = chance.between(0.02, 0.4)
        return sql.onDialectOrElse({
          pg: () => Effect.asVoid(sql`SELECT pg_sleep(${seconds})`),
          orElse: () => Effect.sleep(seconds * 1_000)
        })
      })
    })

    const transfer = (kind: string, { kept = true, parts, run }: Kind, chance: Random) =>
      Effect.suspend(() => {
        const id = `${name}-${++count}`
        let attempts = 0
        const wanted = optionsFrom(chance)
        const since = performance.now()
        tell({ id, said: "asked", kind, parts })
        const enter: Enter = (attempt) =>
          Effect.zipRight(
            Session.afterCommit(Effect.sync(() => tell({ id, said: "committed", attempt }))),
            Session.afterRollback(Effect.sync(() => tell({ id, said: "rolled back", attempt })))
          )
        return run(
          (work) =>
            Effect.suspend(() => {
              const n = ++attempts
              return Effect.zipRight(enter(n), work(attemptAt(id, n, chance)))
            }),
          wanted
        ).pipe(Effect.onExit((exit) =>
          Effect.sync(() => {
            const end = endOf(exit, kept)
            if (end.why === "SessionTimeout" && wanted.timeout !== undefined) {
              excess = Math.max(excess, performance.now() - since - Duration.toMillis(wanted.timeout))
            }
            tell({ id, ...end })
          })
        ))
      })

    const work = (worker: number) => {
      const own = random.branch(worker)
      const kinds = Object.entries(kindsOf({ ...options, random: own }))
      return Effect.whileLoop({
        while: () => !stopping,
        step: () => {},
        body: () =>
          Effect.gen(function*() {
            const [kind, how] = own.chance(0.3) ? kinds[0] : own.pick(kinds)
            const fiber = yield* Effect.fork(transfer(kind, how, own.branch(own.next())))
            running.set(worker, fiber)
            const exit = yield* Fiber.await(fiber)
            running.delete(worker)
            // As somebody would who was told that the database is away.
            yield* Effect.sleep(Exit.isSuccess(exit) ? 0 : own.between(1, 60))
          })
      })
    }

    const disturb = Effect.forever(Effect.suspend(() => {
      const chance = disturbances
      return Effect.zipRight(
        Effect.sleep(chance.between(0, options.calm)),
        Effect.suspend(() => {
          const at = Array.from(running.values())
          if (at.length === 0) {
            return Effect.void
          }
          const since = performance.now()
          return Effect.map(Fiber.interrupt(chance.pick(at)), () => {
            interruption = Math.max(interruption, performance.now() - since)
          })
        })
      )
    }))
    const disturbances = random.branch("interruptions")

    const fibers = yield* Effect.forEach(
      Array.from({ length: options.workers }, (_, worker) => worker),
      (worker) => Effect.forkDaemon(work(worker))
    )
    const disturber = yield* Effect.forkDaemon(disturb)
    return {
      stop: Effect.zipRight(
        Effect.sync(() => {
          stopping = true
        }),
        Effect.zipRight(Fiber.interrupt(disturber), Effect.asVoid(Fiber.joinAll(fibers)))
      ),
      longest: () => ({ interruption: Math.round(interruption), excess: Math.round(excess) })
    }
  })
