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
import * as EngineClient from "./engineClient.js"
import { bindError } from "./params.js"
import type { Batch, Operation, Run } from "./protocol.js"
import * as Sandbox from "./sandbox.js"
import { quote } from "./statementText.js"

/** A connection with the additional methods of @effect/sql-sqlite-node's client. */
export interface SqliteConnection extends Connection {
  readonly export: Effect.Effect<Uint8Array, SqlError>
  readonly backup: (destination: string) => Effect.Effect<SqliteClient.BackupMetadata, SqlError>
  readonly loadExtension: (path: string) => Effect.Effect<void, SqlError>
}

export interface Options extends EngineClient.Options {
  /** Called with the journal mode of the file, once it is open. */
  readonly onOpen: (journalMode: unknown) => void
}

/** How long closing waits for the engine. */
const closeTimeout = Duration.seconds(1)

/** Timeouts of files, locks and threads run in real time, also under a TestClock. */
export const clock = Clock.make()

let connectionCount = 0

/** Opens a connection through a new transport. */
export const make = (options: Options): Effect.Effect<SqliteConnection, DatabaseError> => {
  const { description, transport } = options
  const id = ++connectionCount
  const client = new EngineClient.EngineClient(options)
  let cursorCount = 0

  const perform = <A = void>(operation: Operation) => client.perform(operation) as Effect.Effect<A, DatabaseError>

  /** Parameters as they are sent to the engine. */
  const sendable = (params: ReadonlyArray<unknown>) => transport.synchronous ? params : params.map(compact)

  const command: Sandbox.Command = (sql) =>
    Effect.asVoid(perform({ _tag: "Run", sql, params: [], form: "rows", cached: false, safeIntegers: false }))

  const statement = <Row extends object>(
    sql: string,
    params: ReadonlyArray<unknown>,
    form: Run["form"],
    cached: boolean,
    refusal: Refusal | undefined
  ): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    Effect.withFiberRuntime((fiber) => {
      const invalid = bindError(sql, params)
      if (invalid !== undefined) {
        return Effect.fail(toSqlError(invalid))
      }
      const safeIntegers = Context.get(fiber.currentContext, SqlClient.SafeIntegers)
      return client.request(
        { _tag: "Run", sql, params: sendable(params), form, cached, safeIntegers },
        toSqlError,
        undefined,
        refusal
      ) as Effect.Effect<ReadonlyArray<Row>, SqlError>
    })

  const rows = (cached: boolean): Connection["execute"] => (sql, params, transformRows, refusal) => {
    // @effect/sql passes no params for `sql.unsafe(text).unprepared`.
    const effect = statement(sql, params ?? [], "rows", cached, refusal)
    return transformRows === undefined ? effect : Effect.map(effect, transformRows)
  }

  const executeStream: Connection["executeStream"] = (sql, params, transformRows, refusal) =>
    Stream.fromPull(Effect.gen(function*() {
      const safeIntegers = yield* SqlClient.SafeIntegers
      const info = { sql, params }
      const cursor = ++cursorCount
      let started = false
      let done = false
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => started && !done ? Effect.ignore(perform({ _tag: "FetchEnd", cursor })) : Effect.void)
      )
      return Effect.suspend((): Effect.Effect<Chunk.Chunk<unknown>, Option.Option<SqlError>> => {
        if (done) {
          return Effect.fail(Option.none())
        }
        const invalid = bindError(sql, params)
        if (invalid !== undefined) {
          return Effect.fail(Option.some(toSqlError(invalid)))
        }
        const operation: Operation = started
          ? { _tag: "FetchNext", cursor }
          : { _tag: "Fetch", cursor, sql, params: sendable(params), safeIntegers }
        started = true
        return Effect.map(
          client.request(operation, (error) => Option.some(toSqlError(error)), info, refusal) as Effect.Effect<
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
    status: () => client.status,
    execute: rows(true),
    executeRaw: (sql, params, refusal) => statement(sql, params, "raw", true, refusal),
    executeValues: (sql, params, refusal) => statement(sql, params, "values", true, refusal),
    executeUnprepared: rows(false),
    executeStream,
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
      Effect.zipRight(
        command(`ROLLBACK TO ${quote(name)}`),
        command(`RELEASE ${quote(name)}`)
      ),
    ...Sandbox.make(client, command, description),
    failStatement: Effect.suspend(() =>
      client.status === "active"
        ? Effect.catchTag(command("FAIL"), "InvalidStatement", () => Effect.void)
        : Effect.void
    ),
    ping: perform({ _tag: "Ping" }),
    reset: perform({ _tag: "Reset" }),
    close: client.close.pipe(
      Effect.timeoutOption(closeTimeout),
      Effect.withClock(clock),
      Effect.ensuring(Effect.sync(transport.destroy))
    ),
    destroy: () => client.destroy(),
    export: Effect.mapError(perform({ _tag: "Export" }), toSqlError),
    backup: (destination) => Effect.mapError(perform({ _tag: "Backup", destination }), toSqlError),
    loadExtension: (path) => Effect.mapError(perform({ _tag: "LoadExtension", path }), toSqlError)
  }

  return Effect.map(perform({ _tag: "Open" }), (journalMode) => {
    client.markOpen()
    options.onOpen(journalMode)
    return connection
  })
}
