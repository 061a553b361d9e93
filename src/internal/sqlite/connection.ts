/**
 * A connection to a SQLite file, or to a database in memory.
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
import * as Stream from "effect/Stream"
import { type DatabaseError, toSqlError } from "../../DatabaseError.js"
import type { Connection, Refusal } from "../driver.js"
import { compact } from "./bytes.js"
import * as Conversation from "./engineClient.js"
import { unbindable } from "./params.js"
import type { Batch, Request, Run } from "./protocol.js"
import * as Within from "./sandbox.js"

/** A connection, and what SqliteClient can do beyond one. */
export interface SqliteConnection extends Connection {
  readonly export: Effect.Effect<Uint8Array, SqlError>
  readonly backup: (destination: string) => Effect.Effect<SqliteClient.BackupMetadata, SqlError>
  readonly loadExtension: (path: string) => Effect.Effect<void, SqlError>
}

/** What a connection is made of. */
export interface Options extends Conversation.Options {
  /** Called with the journal mode that the file is in. */
  readonly onOpen: (journalMode: unknown) => void
}

const closeTimeout = Duration.seconds(1)

/** Files, locks and threads take real time, also where a test has a clock of its own. */
export const clock = Clock.make()

let connections = 0

/** Opens a connection through a link that is not open yet. */
export const make = (options: Options): Effect.Effect<SqliteConnection, DatabaseError> => {
  const { description, link } = options
  const id = ++connections
  const conversation = new Conversation.Conversation(options)
  let cursors = 0

  const ask = <A = void>(request: Request) => conversation.ask(request) as Effect.Effect<A, DatabaseError>

  /** Given away between threads, bytes take along all the memory that they are a part of. */
  const given = (params: ReadonlyArray<unknown>) => link.immediate ? params : params.map(compact)

  const command: Within.Command = (sql) =>
    Effect.asVoid(ask({ _tag: "Run", sql, params: [], form: "rows", cached: false, safeIntegers: false }))

  const statement = <Row extends object>(
    sql: string,
    params: ReadonlyArray<unknown>,
    form: Run["form"],
    cached: boolean,
    refusal: Refusal | undefined
  ): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    Effect.withFiberRuntime((fiber) => {
      const unbound = unbindable(sql, params)
      if (unbound !== undefined) {
        return Effect.fail(toSqlError(unbound))
      }
      const safeIntegers = Context.get(fiber.currentContext, SqlClient.SafeIntegers)
      return conversation.asked(
        { _tag: "Run", sql, params: given(params), form, cached, safeIntegers },
        toSqlError,
        undefined,
        refusal
      ) as Effect.Effect<ReadonlyArray<Row>, SqlError>
    })

  const rows = (cached: boolean): Connection["execute"] => (sql, params, transformRows, refusal) => {
    // @effect/sql gives none at all for `sql.unsafe(text).unprepared`.
    const effect = statement(sql, params ?? [], "rows", cached, refusal)
    return transformRows === undefined ? effect : Effect.map(effect, transformRows)
  }

  const executeStream: Connection["executeStream"] = (sql, params, transformRows, refusal) =>
    Stream.fromPull(Effect.gen(function*() {
      const safeIntegers = yield* SqlClient.SafeIntegers
      const about = { sql, params }
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
          : { _tag: "Fetch", cursor, sql, params: given(params), safeIntegers }
        started = true
        return Effect.map(
          conversation.asked(request, (error) => Option.some(toSqlError(error)), about, refusal) as Effect.Effect<
            Batch,
            Option.Option<SqlError>
          >,
          (batch) => {
            done = batch.done
            const rows = batch.rows as ReadonlyArray<object>
            return Chunk.unsafeFromArray(transformRows === undefined ? rows : transformRows(rows))
          }
        )
      })
    }))

  const connection: SqliteConnection = {
    id,
    status: () => conversation.status,
    execute: rows(true),
    executeRaw: (sql, params, refusal) => statement(sql, params, "raw", true, refusal),
    executeValues: (sql, params, refusal) => statement(sql, params, "values", true, refusal),
    executeUnprepared: rows(false),
    executeStream,
    begin: (begin) =>
      Effect.suspend(() => {
        const error = conversation.begin(begin)
        return error === undefined ? Effect.void : Effect.fail(error)
      }),
    commit: ask({ _tag: "Commit" }),
    fate: undefined,
    rollback: ask({ _tag: "Rollback" }),
    savepoint: (name) => command(`SAVEPOINT ${Within.identifier(name)}`),
    releaseSavepoint: (name) => command(`RELEASE ${Within.identifier(name)}`),
    rollbackToSavepoint: (name) =>
      Effect.zipRight(command(`ROLLBACK TO ${Within.identifier(name)}`), command(`RELEASE ${Within.identifier(name)}`)),
    ...Within.make(conversation, command, description),
    failStatement: Effect.suspend(() =>
      conversation.status === "active"
        ? Effect.catchTag(command("FAIL"), "InvalidStatement", () => Effect.void)
        : Effect.void
    ),
    ping: ask({ _tag: "Ping" }),
    reset: ask({ _tag: "Reset" }),
    close: conversation.goodbye.pipe(
      Effect.timeoutOption(closeTimeout),
      Effect.withClock(clock),
      Effect.ensuring(Effect.sync(link.destroy))
    ),
    destroy: () => conversation.destroy(),
    export: Effect.mapError(ask({ _tag: "Export" }), toSqlError),
    backup: (destination) => Effect.mapError(ask({ _tag: "Backup", destination }), toSqlError),
    loadExtension: (path) => Effect.mapError(ask({ _tag: "LoadExtension", path }), toSqlError)
  }

  return Effect.map(ask({ _tag: "Open" }), (journalMode) => {
    conversation.opened()
    options.onOpen(journalMode)
    return connection
  })
}
