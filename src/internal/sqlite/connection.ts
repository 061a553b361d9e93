/**
 * A connection to a SQLite file, or to a database in memory.
 *
 * What comes back from the engine is noted as soon as it is there, whether or not someone still waits for it, so that
 * the status is right after an interruption too. Nothing ever waits for a lock within SQLite: what finds the file busy
 * is tried again from here, which blocks no thread and can be interrupted.
 */
import type * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { BeginOptions, Connection, Status } from "../driver.js"
import { type Context as FailureContext, located, lostTag, make as makeError } from "../failure.js"
import { compact } from "./bytes.js"
import type { Link, Outcome } from "./link.js"
import { unbindable } from "./params.js"
import type { Batch, Request, Run } from "./protocol.js"
import { fromSqlite } from "./resultCode.js"
import { makeTurn } from "./turn.js"

/** A connection, and what SqliteClient can do beyond one. */
export interface SqliteConnection extends Connection {
  readonly export: Effect.Effect<Uint8Array, SqlError>
  readonly backup: (destination: string) => Effect.Effect<SqliteClient.BackupMetadata, SqlError>
  readonly loadExtension: (path: string) => Effect.Effect<void, SqlError>
}

/** The longest that things may take. Zero is without a limit. */
export interface Limits {
  readonly statementTimeout?: Duration.Duration | undefined
  readonly lockTimeout?: Duration.Duration | undefined
}

/** What a connection is made of. */
export interface Options {
  readonly link: Link
  readonly description: string
  readonly limits: Limits
  /** How long opening may wait for another's lock. */
  readonly openTimeout: Duration.Duration
  /** What every connection has loaded when a transaction begins. */
  readonly extensions: ReadonlyArray<string>
  /** Called with the journal mode that the file is in. */
  readonly onOpen: (journalMode: unknown) => void
  readonly onLost: (error: DatabaseError) => void
}

/** What is known of a request besides itself. */
interface About {
  readonly statement?: string | undefined
  readonly params?: ReadonlyArray<unknown> | undefined
}

const defaultLockTimeout = Duration.seconds(5)
const closeTimeout = Duration.seconds(1)
const firstPause = 1
const longestPause = 50

/** Files, locks and threads take real time, also where a test has a clock of its own. */
export const clock = Clock.make()

let connections = 0

/** Milliseconds; zero is without a limit. */
const millisOf = (duration: Duration.Duration | undefined): number | undefined => {
  const millis = duration === undefined ? 0 : Duration.toMillis(duration)
  return millis > 0 && Number.isFinite(millis) ? millis : undefined
}

const identifier = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

const isRun = (request: Request): boolean =>
  request._tag === "Run" || request._tag === "Fetch" || request._tag === "FetchNext"

const isEnd = (request: Request): boolean =>
  request._tag === "Commit" || request._tag === "Rollback" || request._tag === "Reset"

const phaseOf = (request: Request): FailureContext["phase"] =>
  request._tag === "Open" ? "connect" : request._tag === "Commit" ? "commit" : "statement"

/** Opens a connection through a link that is not open yet. */
export const make = (options: Options): Effect.Effect<SqliteConnection, DatabaseError> => {
  const { description, limits, link } = options
  const id = ++connections
  const turn = makeTurn()
  let cursors = 0
  let opened = false
  let closed = false
  let inTransaction = false
  let dirty = false
  /** What `begin` was asked for, from then on until the transaction is ended from here. */
  let begun: BeginOptions | undefined

  const closedError = (): DatabaseError =>
    makeError("ConnectionLost", {
      dialect: "sqlite",
      code: "SQLITE_MISUSE",
      reason: `the connection to ${description} is closed`
    })

  const abortedError = (about: About): DatabaseError =>
    makeError("TransactionAborted", {
      dialect: "sqlite",
      code: "SQLITE_ABORT",
      reason: "the transaction has already ended, by an earlier failure or by a statement of its own",
      statement: about.statement
    })

  const timeoutError = (about: About): DatabaseError =>
    makeError("StatementTimeout", {
      dialect: "sqlite",
      code: "SQLITE_INTERRUPT",
      reason: "the statement ran longer than the statement timeout",
      statement: about.statement
    })

  const lostError = (phase: FailureContext["phase"], reason: string, about: About): DatabaseError => {
    const tag = lostTag(phase)
    return makeError(tag, {
      dialect: "sqlite",
      code: "SQLITE_ABORT",
      reason: located(tag, reason, { phase, description }, "open"),
      statement: about.statement
    })
  }

  const lose = (error: DatabaseError): void => {
    if (!closed) {
      closed = true
      link.destroy()
      if (opened) {
        options.onLost(error)
      }
    }
  }

  link.watch((reason) => lose(lostError("statement", reason, {})))

  /** Notes where a request left the connection, and tells what came of it. */
  const settle = (
    request: Request,
    about: About,
    begin: BeginOptions | undefined,
    outcome: Outcome
  ): Effect.Effect<unknown, DatabaseError> => {
    if (outcome._tag === "Lost") {
      const phase = outcome.committing ? "commit" : request._tag === "Open" ? "connect" : "statement"
      const error = lostError(phase, outcome.reason, about)
      lose(error)
      return Effect.fail(outcome.timedOut ? timeoutError(about) : error)
    }
    const { failure, value } = outcome.reply
    inTransaction = outcome.reply.inTransaction
    dirty = outcome.reply.dirty
    if (request._tag === "Begin") {
      begun = failure === undefined ? begin : begun
    } else if (!inTransaction && isEnd(request)) {
      begun = undefined
    }
    if (failure === undefined) {
      return Effect.succeed(value)
    }
    if (outcome.timedOut && failure.code === "SQLITE_INTERRUPT") {
      return Effect.fail(timeoutError(about))
    }
    const error = fromSqlite(failure, { phase: phaseOf(request), description, ...about })
    if (error._tag === "ConnectionLost" || error._tag === "CommitOutcomeUnknown") {
      lose(error)
    }
    return Effect.fail(error)
  }

  const exchange = (
    request: Request,
    about: About = {},
    begin?: BeginOptions
  ): Effect.Effect<unknown, DatabaseError> =>
    Effect.suspend(() => {
      const limit = isRun(request) ? millisOf(begun?.statementTimeout ?? limits.statementTimeout) : undefined
      const patience = request._tag === "Open"
        ? options.openTimeout
        : (begin ?? begun)?.lockTimeout ?? limits.lockTimeout ?? defaultLockTimeout
      const deadline = performance.now() + (millisOf(patience) ?? Number.POSITIVE_INFINITY)
      const within = inTransaction
      const attempt = (pause: number): Effect.Effect<unknown, DatabaseError> =>
        Effect.catchAll(
          link.call(request, limit, (outcome) => settle(request, about, begin, outcome)),
          (error) => {
            const now = performance.now()
            return now < deadline && inTransaction === within && canPass(request, error)
              ? Effect.flatMap(Random.nextRange(pause / 2, pause), (millis) =>
                Effect.sleep(Math.min(millis, deadline - now)).pipe(
                  Effect.withClock(clock),
                  Effect.zipRight(attempt(Math.min(pause * 2, longestPause)))
                ))
              : Effect.fail(error)
          }
        )
      return attempt(firstPause)
    })

  /** Whether it failed for another's lock, and nothing that it has done or read stands in the way of trying again. */
  const canPass = (request: Request, error: DatabaseError): boolean =>
    !closed && request._tag !== "FetchNext" && error.code.startsWith("SQLITE_BUSY") &&
    (error._tag === "LockTimeout" || !inTransaction)

  /** In turn, and refused where it would not do what it is meant to. */
  const ask = (
    request: Request,
    about: About = {},
    begin?: BeginOptions
  ): Effect.Effect<unknown, DatabaseError> =>
    turn(Effect.suspend(() => {
      if (closed) {
        return Effect.fail(closedError())
      }
      // What SQLite rolled back by itself must not go on as statements that each commit alone.
      if (begun !== undefined && !inTransaction) {
        if (request._tag === "Commit") {
          return Effect.zipRight(exchange({ _tag: "Rollback" }), Effect.fail(abortedError(about)))
        }
        if (isRun(request)) {
          return Effect.fail(abortedError(about))
        }
      }
      return exchange(request, about, begin)
    }))

  const command = (sql: string): Effect.Effect<void, DatabaseError> =>
    Effect.asVoid(ask({ _tag: "Run", sql, params: [], form: "rows", cached: false, safeIntegers: false }, {
      statement: sql
    }))

  /** What breaks a foreign key now, and how often. */
  const violations: Effect.Effect<ReadonlyMap<string, number>, DatabaseError> = Effect.map(
    ask({
      _tag: "Run",
      sql: "PRAGMA foreign_key_check",
      params: [],
      form: "values",
      cached: false,
      safeIntegers: true
    }) as Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, DatabaseError>,
    (rows) => {
      const counts = new Map<string, number>()
      for (const row of rows) {
        const key = row.map(String).join("\0")
        counts.set(key, (counts.get(key) ?? 0) + 1)
      }
      return counts
    }
  )

  /** By `beginWithin`: what broke a foreign key then. */
  const before = new Map<string, ReadonlyMap<string, number>>()

  /** Puts back what holds for one transaction. */
  const restored = (name: string, around: BeginOptions | undefined): Effect.Effect<void, DatabaseError> =>
    Effect.suspend(() => {
      const readOnly = begun?.readOnly === true && around?.readOnly !== true
      before.delete(name)
      begun = around ?? {}
      return Effect.zipRight(
        readOnly ? command("PRAGMA query_only = OFF") : Effect.void,
        around === undefined ? command("PRAGMA defer_foreign_keys = OFF") : Effect.void
      )
    })

  const statement = <Row extends object>(
    sql: string,
    params: ReadonlyArray<unknown>,
    form: Run["form"],
    cached: boolean
  ): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    Effect.contextWithEffect((context: Context.Context<never>) => {
      const unbound = unbindable(sql, params)
      if (unbound !== undefined) {
        return Effect.fail(toSqlError(unbound))
      }
      const safeIntegers = Context.get(context, SqlClient.SafeIntegers)
      const request: Run = { _tag: "Run", sql, params: params.map(compact), form, cached, safeIntegers }
      return Effect.mapError(
        ask(request, { statement: sql, params }) as Effect.Effect<ReadonlyArray<Row>, DatabaseError>,
        toSqlError
      )
    })

  const rows: Connection["execute"] = (sql, params, transformRows) => {
    const effect = statement(sql, params, "rows", true)
    return transformRows === undefined ? effect : Effect.map(effect, transformRows)
  }

  const executeStream: Connection["executeStream"] = (sql, params, transformRows) =>
    Stream.fromPull(Effect.gen(function*() {
      const safeIntegers = yield* SqlClient.SafeIntegers
      const about = { statement: sql, params }
      const cursor = ++cursors
      let started = false
      let done = false
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => started && !done ? Effect.ignore(ask({ _tag: "FetchEnd", cursor })) : Effect.void)
      )
      return Effect.suspend((): Effect.Effect<Chunk.Chunk<unknown>, Option.Option<SqlError>> => {
        if (done) {
          return Effect.fail(Option.none())
        }
        const unbound = unbindable(sql, params)
        if (unbound !== undefined) {
          return Effect.fail(Option.some(toSqlError(unbound)))
        }
        const request: Request = started
          ? { _tag: "FetchNext", cursor }
          : { _tag: "Fetch", cursor, sql, params: params.map(compact), safeIntegers }
        started = true
        return (ask(request, about) as Effect.Effect<Batch, DatabaseError>).pipe(
          Effect.mapError((error) => Option.some(toSqlError(error))),
          Effect.map((batch) => {
            done = batch.done
            const rows = batch.rows as ReadonlyArray<object>
            return Chunk.unsafeFromArray(transformRows === undefined ? rows : transformRows(rows))
          })
        )
      })
    }))

  const connection: SqliteConnection = {
    id,
    status: (): Status => {
      if (closed) {
        return "closed"
      }
      if (inTransaction) {
        return "active"
      }
      return begun !== undefined ? "aborted" : dirty ? "dirty" : "idle"
    },
    execute: rows,
    executeRaw: (sql, params) => statement(sql, params, "raw", true),
    executeValues: (sql, params) => statement(sql, params, "values", true),
    executeUnprepared: (sql, params, transformRows) => {
      // @effect/sql gives none at all for `sql.unsafe(text).unprepared`.
      const effect = statement(sql, params ?? [], "rows", false)
      return transformRows === undefined ? effect : Effect.map(effect, transformRows)
    },
    executeStream,
    begin: (begin) =>
      Effect.asVoid(
        ask({ _tag: "Begin", readOnly: begin.readOnly === true, extensions: [...options.extensions] }, {}, begin)
      ),
    commit: Effect.asVoid(ask({ _tag: "Commit" })),
    fate: undefined,
    rollback: turn(
      Effect.suspend(() =>
        closed || (begun === undefined && !inTransaction) ? Effect.void : Effect.asVoid(exchange({ _tag: "Rollback" }))
      )
    ),
    savepoint: (name) => command(`SAVEPOINT ${identifier(name)}`),
    releaseSavepoint: (name) => command(`RELEASE ${identifier(name)}`),
    rollbackToSavepoint: (name) =>
      Effect.zipRight(command(`ROLLBACK TO ${identifier(name)}`), command(`RELEASE ${identifier(name)}`)),
    beginWithin: (name, options) =>
      Effect.gen(function*() {
        yield* command(`SAVEPOINT ${identifier(name)}`)
        before.set(name, yield* violations)
        if (options.readOnly === true) {
          yield* command("PRAGMA query_only = ON")
        }
        begun = options
      }),
    // SQLite checks what is deferred at the end of the whole transaction only, and does not count for others what is left.
    commitWithin: (name, around) =>
      Effect.gen(function*() {
        const known = before.get(name)
        for (const [key, count] of yield* violations) {
          if (count > (known?.get(key) ?? 0)) {
            return yield* Effect.fail(fromSqlite(
              { message: "FOREIGN KEY constraint failed", code: "SQLITE_CONSTRAINT_FOREIGNKEY" },
              { phase: "commit", description }
            ))
          }
        }
        yield* command(`RELEASE ${identifier(name)}`)
        yield* restored(name, around)
      }),
    rollbackWithin: (name, around) =>
      Effect.gen(function*() {
        yield* command(`ROLLBACK TO ${identifier(name)}`)
        yield* command(`RELEASE ${identifier(name)}`)
        yield* restored(name, around)
      }),
    failStatement: Effect.void,
    ping: Effect.asVoid(ask({ _tag: "Ping" })),
    reset: Effect.asVoid(ask({ _tag: "Reset" })),
    close: Effect.suspend(() => {
      if (closed) {
        return Effect.void
      }
      closed = true
      return turn(Effect.suspend(() => link.call({ _tag: "Close" }, undefined, () => Effect.void))).pipe(
        Effect.timeoutOption(closeTimeout),
        Effect.withClock(clock),
        Effect.ensuring(Effect.sync(link.destroy))
      )
    }),
    destroy: () => {
      closed = true
      link.destroy()
    },
    export: Effect.mapError(ask({ _tag: "Export" }) as Effect.Effect<Uint8Array, DatabaseError>, toSqlError),
    backup: (destination) =>
      Effect.mapError(
        ask({ _tag: "Backup", destination }) as Effect.Effect<SqliteClient.BackupMetadata, DatabaseError>,
        toSqlError
      ),
    loadExtension: (path) => Effect.mapError(Effect.asVoid(ask({ _tag: "LoadExtension", path })), toSqlError)
  }

  return Effect.map(ask({ _tag: "Open" }), (journalMode) => {
    opened = true
    options.onOpen(journalMode)
    return connection
  })
}
