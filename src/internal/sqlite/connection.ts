/**
 * A connection to a SQLite file, or to a database in memory.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import type { SqlError } from "@effect/sql/SqlError"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Connection, Pull, StatementGuard } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { timeoutFail, timeoutOption } from "../raceFirst.js"
import { rowStream } from "../rowStream.js"
import * as Backup from "./backup.js"
import * as Copy from "./copy.js"
import * as EngineClient from "./engineClient.js"
import type { StatementInfo } from "./errors.js"
import { bindable } from "./params.js"
import type { Batch, FirstBatch, OpenedFile, Operation, Run } from "./protocol.js"
import * as Sandbox from "./sandbox.js"
import { quote } from "./statementText.js"

/** A connection with the additional methods of @effect/sql-sqlite-node's client. */
export interface SqliteConnection extends Connection {
  readonly export: Effect.Effect<Uint8Array, SqlError>
  readonly backup: Backup.Backup
  readonly loadExtension: (path: string) => Effect.Effect<void, SqlError>
  /** Turns foreign keys on or off. Fails with InvalidStatement in a transaction, where SQLite ignores that. */
  readonly enforceForeignKeys: (enforced: boolean) => Effect.Effect<void, DatabaseError>
  /** Replaces the timeout of the statements outside of transactions until the scope closes. */
  readonly setStatementTimeout: (timeout: Duration.Duration) => Effect.Effect<void, never, Scope.Scope>
}

export interface Options extends EngineClient.Options {
  /** How long one attempt to open the file may take, without waiting for locks. */
  readonly openTimeout: Duration.Duration
  /** The error of an attempt that takes longer. */
  readonly openTimeoutError: () => DatabaseError
  /** Called with the setting that a transaction has changed on the connection, before a reset undoes it. */
  readonly onUndone: (setting: string) => Effect.Effect<void>
  /** Called each time that the connection has opened the file. */
  readonly onOpen: (opened: OpenedFile) => void
}

/**
 * How long opening tries to change the journal mode of a file that another connection uses, in milliseconds. If several
 * processes open a new file at once, it soon succeeds; while one of them holds a lock on the file, it cannot.
 */
const journalModeTimeout = 250

/** How long closing waits for the engine. */
const closeTimeout = Duration.seconds(1)

/** Timeouts of files, locks and threads run in real time, also under a TestClock. */
export const clock = Clock.make()

/** The delays between attempts to open a file that another connection has locked, as between those of a statement. */
const openSchedule = (lockTimeout: Duration.Duration) => {
  const delays = Schedule.jittered(
    Schedule.union(Schedule.exponential(EngineClient.minRetryDelay), Schedule.spaced(EngineClient.maxRetryDelay))
  )
  return Duration.isZero(lockTimeout) ? delays : Schedule.upTo(delays, lockTimeout)
}

let connectionCount = 0

/** Opens a connection through a new transport. */
export const make = (options: Options): Effect.Effect<SqliteConnection, DatabaseError> => {
  const { description, transport } = options
  const id = ++connectionCount
  const client = new EngineClient.EngineClient(options)
  let cursorCount = 0

  const perform = <A = void>(operation: Operation) => client.perform(operation) as Effect.Effect<A, DatabaseError>

  /** A statement of sqlayer's own. */
  const own = (sql: string): Operation => ({
    _tag: "Run",
    sql,
    params: [],
    form: "rows",
    cached: false,
    safeIntegers: false,
    own: true
  })

  const command: Sandbox.Command = (sql) => perform(own(sql))

  const statement = <Row extends object>(
    sql: string,
    params: ReadonlyArray<unknown>,
    form: Run["form"],
    cached: boolean,
    guard: StatementGuard | undefined
  ): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    Effect.withFiberRuntime((fiber) => {
      const bound = bindable(sql, params, transport)
      if (bound._tag === "Left") {
        return Effect.fail(toSqlError(bound.left))
      }
      const safeIntegers = Context.get(fiber.currentContext, SqlClient.SafeIntegers)
      return client.request(
        { _tag: "Run", sql, params: bound.right, form, cached, safeIntegers },
        toSqlError,
        undefined,
        guard
      ) as Effect.Effect<ReadonlyArray<Row>, SqlError>
    })

  const fetch = (operation: Operation, statement: StatementInfo, guard: StatementGuard) =>
    client.request(operation, (error) => Option.some(toSqlError(error)), statement, guard) as Effect.Effect<
      Batch,
      Option.Option<SqlError>
    >

  const rows = (cached: boolean): Connection["execute"] => (sql, params, transformRows, guard) => {
    // @effect/sql passes no params for `sql.unsafe(text).unprepared`.
    const effect = statement(sql, params ?? [], "rows", cached, guard)
    return transformRows === undefined ? effect : Effect.map(effect, transformRows)
  }

  const cursor: Connection["cursor"] = (sql, params, guard) =>
    Effect.flatMap(
      SqlClient.SafeIntegers,
      (safeIntegers) => openCursor({ sql, params, form: "rows", safeIntegers, onFirst: () => undefined }, guard)
    )

  const openCursor = (
    { form, onFirst, params, safeIntegers, sql }: Copy.CursorOptions,
    guard: StatementGuard | undefined
  ): Effect.Effect<Pull, never, Scope.Scope> =>
    Effect.gen(function*() {
      const id = ++cursorCount
      /** The engine's cursor. Set when the request that opens it is sent. */
      let opened: EngineClient.Cursor | undefined
      let done = false
      let info: StatementInfo = { sql }
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => opened !== undefined && !done ? client.closeCursor(opened) : Effect.void)
      )
      const fetchFirst = Effect.suspend((): Pull => {
        const bound = bindable(sql, params, transport)
        if (bound._tag === "Left") {
          return Effect.fail(Option.some(toSqlError(bound.left)))
        }
        info = { sql, params: bound.right }
        const firstGuard: StatementGuard = {
          refusal: () => guard?.refusal(),
          get isSent() {
            return opened !== undefined
          },
          set isSent(isSent) {
            opened = isSent ? client.makeCursor(id) : undefined
            if (guard !== undefined) {
              guard.isSent = isSent
            }
          },
          mayWrite: true
        }
        return Effect.map(
          fetch(
            { _tag: "Fetch", cursor: id, sql, params: bound.right, form, safeIntegers },
            info,
            firstGuard
          ),
          (batch) => {
            done = batch.done
            if (guard !== undefined && (batch as FirstBatch).isQuery) {
              guard.mayWrite = false
            }
            onFirst(batch as FirstBatch)
            return batch.rows as ReadonlyArray<object>
          }
        )
      })
      // The first batch has run the statement. The further ones do not, so they leave its guard as it is.
      const nextGuard: StatementGuard = { refusal: () => guard?.refusal(), isSent: false, mayWrite: true }
      const fetchNext = Effect.suspend(() =>
        Effect.map(fetch({ _tag: "FetchNext", cursor: id }, info, nextGuard), (batch) => {
          done = batch.done
          return batch.rows as ReadonlyArray<object>
        })
      )
      return Effect.suspend(() => done ? Effect.fail(Option.none()) : opened === undefined ? fetchFirst : fetchNext)
    })

  const copying: Copy.Copying = {
    isSynchronous: transport.synchronous,
    openCursor,
    runMany: (sql, rows, lines, guard) =>
      client.request({ _tag: "RunMany", sql, rows }, toSqlError, { sql, lines }, guard) as Effect.Effect<
        void,
        SqlError
      >,
    failStatement: Effect.suspend(() => connection.failStatement)
  }

  const connection: SqliteConnection = {
    id,
    status: () => client.status,
    execute: rows(true),
    executeRaw: (sql, params, guard) => statement(sql, params, "raw", true, guard),
    executeValues: (sql, params, guard) => statement(sql, params, "values", true, guard),
    // SQLite has no types for dates and times.
    executeTexts: (sql, params, guard) => statement(sql, params, "values", true, guard),
    executeUnprepared: rows(false),
    executeStream: (sql, params, transformRows) => rowStream(cursor(sql, params), transformRows),
    cursor,
    copyFrom: (request, source, guard) => Copy.copyFrom(copying, request, source, guard),
    copyTo: (request, guard) => Copy.copyTo(copying, request, guard),
    begin: (begin) =>
      Effect.suspend(() => {
        const error = client.begin(begin)
        return error === undefined ? Effect.void : Effect.fail(error)
      }),
    commit: perform({ _tag: "Commit" }),
    transactionOutcome: undefined,
    rollback: perform({ _tag: "Rollback" }),
    savepoint: (name) => command(`SAVEPOINT ${quote(name)}`),
    releaseSavepoint: (name) => command(`RELEASE ${quote(name)}`),
    rollbackToSavepoint: (name) =>
      Effect.suspend(() => {
        // What another fiber still runs in it is rolled back too.
        client.cancelStatements()
        return Effect.zipRight(
          command(`ROLLBACK TO ${quote(name)}`),
          command(`RELEASE ${quote(name)}`)
        )
      }),
    ...Sandbox.make(client, command, description),
    enforceForeignKeys: (enforced) => {
      const value = enforced ? "ON" : "OFF"
      return Effect.filterOrFail(
        Effect.zipRight(
          command(`PRAGMA foreign_keys = ${value}`),
          perform<ReadonlyArray<{ readonly foreign_keys: unknown }>>(own("PRAGMA foreign_keys"))
        ),
        ([{ foreign_keys }]) => Boolean(foreign_keys) === enforced,
        () =>
          makeError("InvalidStatement", {
            dialect: "sqlite",
            code: "SQLITE_ERROR",
            reason: `foreign keys cannot be turned ${value} inside a transaction`
          })
      )
    },
    setStatementTimeout: (timeout) => {
      const set = (timeout: Duration.Duration | undefined) =>
        Effect.sync(() => {
          client.statementTimeout = timeout
        })
      return Effect.acquireRelease(set(timeout), () => set(undefined))
    },
    failStatement: Effect.suspend(() => {
      if (client.transaction === undefined) {
        client.failTransaction()
      }
      return client.status === "active"
        ? Effect.catchTag(command("FAIL"), "InvalidStatement", () => Effect.void)
        : Effect.void
    }),
    ping: perform({ _tag: "Ping" }),
    reset: Effect.suspend(() => {
      const undone = client.takeTemporarySetting()
      const reset = Effect.map(perform<OpenedFile | undefined>({ _tag: "Reset" }), (opened) => {
        if (opened !== undefined) {
          options.onOpen(opened)
        }
      })
      return undone === undefined ? reset : Effect.zipRight(options.onUndone(undone), reset)
    }),
    // The engine knows what a statement has changed.
    markDirty: () => undefined,
    resetLater: () => false,
    close: timeoutOption(client.close, closeTimeout).pipe(
      Effect.withClock(clock),
      Effect.ensuring(Effect.sync(transport.destroy))
    ),
    destroy: () => client.destroy(),
    export: Effect.mapError(perform({ _tag: "Export" }), toSqlError),
    backup: Backup.make((operation) => Effect.mapError(perform(operation), toSqlError), clock),
    loadExtension: (path) => Effect.mapError(perform({ _tag: "LoadExtension", path }), toSqlError)
  }

  const start = performance.now()
  const attempt = Effect.suspend(() =>
    perform<OpenedFile>({ _tag: "Open", keepsMode: performance.now() - start >= journalModeTimeout })
  )
  const opened = timeoutFail(attempt, options.openTimeout, options.openTimeoutError).pipe(
    Effect.retry({
      while: ({ _tag }) => _tag === "LockTimeout",
      schedule: openSchedule(options.timeouts.lockTimeout ?? EngineClient.defaultLockTimeout)
    }),
    Effect.withClock(clock)
  )
  return Effect.map(opened, (file) => {
    client.markOpen()
    options.onOpen(file)
    return connection
  })
}
