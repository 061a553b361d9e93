/**
 * The driver of a SQLite file, or of a database in memory.
 *
 * A file is in WAL mode with `synchronous = FULL`, so a reported commit survives a crash of the process and a loss of
 * power. Foreign keys are enforced. A connection is `dirty` if it has an open transaction, temporary tables, attached
 * databases or changed settings (`PRAGMA … = …`). A reset removes these: a file is reopened; in memory they are removed
 * one by one, and sqlayer's own settings are restored.
 *
 * One connection runs all statements but those of read-only sessions. In WAL mode these have connections of their own,
 * which read concurrently with the writer and with each other. A deleted or replaced file is detected when a read-only
 * session begins, before a commit, and by a ping. The connection is then lost, and no new file is created.
 *
 * A file's statements run on a worker thread unless the configuration says otherwise, so a long one never blocks the
 * event loop. One is canceled between two rows. One that returns no rows cannot be canceled: if it does not end within
 * 200 milliseconds, its connection is given up. The thread ends when the statement does, and nothing that it wrote is
 * committed. Until then the thread holds its locks. The process can exit meanwhile. Lookups, whose work is bounded, run
 * on the main thread (`lookups.ts`).
 *
 * The statements of a database in memory run on the main thread. A long one blocks the event loop, and can be canceled
 * only by its own timeout, between two rows. If another fiber has run the last statement of the transaction, a
 * statement waits for the next iteration of the event loop: if its fiber has lost a race, or a sibling has failed, it
 * is interrupted before the statement runs.
 */
import * as Statement from "@effect/sql/Statement"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Path from "node:path"
import type * as DatabaseConfig from "../../DatabaseConfig.js"
import { type DatabaseError, typed } from "../../DatabaseError.js"
import type { Driver } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { timeoutFail } from "../raceFirst.js"
import * as Recorders from "../telemetry/recorders.js"
import * as Backup from "./backup.js"
import { type Binding, memory, SqliteError } from "./binding.js"
import { CheckpointGap, walLimit } from "./checkpointGap.js"
import { chooseBinding } from "./chooseBinding.js"
import { extendClient } from "./client.js"
import { fileMoved } from "./codeNames.js"
import * as Connection from "./connection.js"
import { copyFromText } from "./copy.js"
import { type LoadedFunctions, loadFunctions } from "./functions.js"
import { inspection } from "./inspection.js"
import * as LockFile from "./lockFile.js"
import { Lookups } from "./lookups.js"
import { migrations } from "./migrations.js"
import { monitoring } from "./monitoring.js"
import { OpenFiles } from "./openFiles.js"
import type { OpenOptions } from "./protocol.js"
import { fromSqlite } from "./resultCode.js"
import { SharedSettings } from "./sharedSettings.js"
import { walSizeOf } from "./staleWal.js"
import { hasWorker, missingWorker } from "./startWorker.js"
import { localTransport, type Transport } from "./transport.js"
import { workerTransport } from "./workerTransport.js"

/** The maximum number of connections for read-only sessions. Each has a thread, and they are opened on demand. */
const maxReaders = 4

/** The SQLite library. Undefined until it is loaded. */
let binding: Binding

/** Loads the SQLite library: better-sqlite3, or the runtime's own where that is not installed. */
export const load: Effect.Effect<void, DatabaseError> = Effect.map(chooseBinding, (chosen) => {
  binding = chosen
})

/** The driver of a file or of a database in memory. */
export const make = (settings: DatabaseConfig.Settings, target: DatabaseConfig.SqliteTarget): Driver => {
  const isMemory = target.filename === memory
  const filename = isMemory ? memory : Path.resolve(target.filename)
  const description = target.filename
  const extensions: Array<string> = []
  const sharedSettings = new SharedSettings()
  const wantedMode = target.journalMode ?? "wal"
  const lacksWorker = !isMemory && target.thread === "worker" && !hasWorker()
  const runsHere = isMemory || target.thread === "main" || lacksWorker
  const sources = target.functions ?? []
  /** The functions of the application, if the statements run on this thread. */
  let functions: LoadedFunctions = []
  const loadHere = runsHere && sources.length > 0
    ? Effect.map(Effect.promise(() => loadFunctions(sources)), (loaded) => {
      functions = loaded
    })
    : Effect.void
  const makeTransport = (options: OpenOptions) =>
    runsHere ? localTransport(options, binding, functions) : workerTransport(options)
  const timeoutError = () =>
    makeError("ConnectionFailed", {
      dialect: "sqlite",
      code: "SQLITE_BUSY",
      reason: `could not open ${description}: it took longer than ${Duration.format(settings.connectTimeout)}`,
      transient: true
    })
  const warned = new Set<string>()
  const warnOnce = (message: string): Effect.Effect<void> =>
    Effect.suspend(() => {
      const isNew = !warned.has(message)
      warned.add(message)
      return isNew ? Effect.logWarning(message) : Effect.void
    })
  const warnOfThread = lacksWorker
    ? warnOnce(
      `the statements of ${description} run on the main thread, which a long statement blocks: ${missingWorker}`
    )
    : Effect.void
  const warnOfJournalMode = Effect.suspend(() =>
    isMemory || target.readOnly || journalMode === wantedMode
      ? Effect.void
      : warnOnce(
        `${description} is not in the journal mode ${wantedMode}: it is used by another process, cannot be written, or is ` +
          `on a file system that does not allow it (mode: ${String(journalMode)})`
      )
  )
  /** The journal mode of the connection that was opened last. */
  let journalMode: unknown
  const files = new OpenFiles(filename)
  const limit = runsHere ? Infinity : walLimit(target.pragmas ?? {})
  const gap = isMemory ? undefined : new CheckpointGap(filename, limit, Recorders.wal(settings.name, "sqlite"))
  /** Waits until no connection has a replaced file open, and checks that the WAL is not that of another file. */
  const prepareFile = isMemory || target.immutable === true ? Effect.void : Effect.suspend(() => {
    const ending = files.leaveReplaced()
    const check = Effect.suspend(() => {
      const kept = files.setAsideWal()
      const reason = files.describeStaleWal()
      return reason !== undefined
        ? Effect.fail(fromSqlite(new SqliteError(reason, "SQLITE_CORRUPT"), { phase: "connect", description }))
        : kept === undefined
        ? Effect.void
        : Effect.logWarning(`${description} was replaced while it was open: the WAL of the old file is kept as ${kept}`)
    })
    return ending.length === 0
      ? check
      : Effect.zipRight(
        timeoutFail(Effect.promise(() => Promise.all(ending)), settings.connectTimeout, timeoutError).pipe(
          Effect.withClock(Connection.clock)
        ),
        check
      )
  })
  /**
   * Whether another connection can read concurrently with the one that writes. Without WAL a reader blocks the commit
   * of the writer, and on the main thread only one connection runs at a time.
   */
  const canReadConcurrently = (): boolean => !runsHere && journalMode === "wal"
  const connect = (reader: boolean): Driver["connect"] => (onLost, restore) =>
    Effect.zipRight(
      restore(Effect.zipRight(loadHere, prepareFile)),
      Effect.suspend(() => {
        let transport: Transport
        try {
          // A file that was opened once is not created again: if it was deleted, an empty database would replace it.
          const mustExist = reader || target.mustExist === true || (!isMemory && journalMode !== undefined)
          transport = files.add(makeTransport({
            binding: binding.name,
            filename,
            readOnly: target.readOnly,
            immutable: target.immutable === true,
            journalMode: wantedMode,
            pragmas: target.pragmas ?? {},
            settings: sharedSettings.after(0),
            reader,
            mustExist,
            extensions,
            functions: sources
          }))
        } catch (error) {
          return Effect.fail(fromSqlite(error, { phase: "connect", description }))
        }
        const lookups = reader || runsHere || target.immutable === true || sources.length > 0
          ? undefined
          : new Lookups({ binding, filename, pragmas: target.pragmas ?? {} })
        const opening = Connection.make({
          transport,
          lookups,
          description,
          timeouts: settings,
          openTimeout: settings.connectTimeout,
          openTimeoutError: timeoutError,
          extensions,
          settings: sharedSettings,
          gap,
          isReader: reader,
          onUndone: (setting) =>
            isMemory ? Effect.void : warnOnce(
              `what a session changes on its connection to ${description} is undone when it ends (${setting}): outside of ` +
                "sessions it applies to every connection of the file, and so do the PRAGMAs of the option pragmas"
            ),
          onOpen: (opened) => {
            journalMode = opened.journalMode
            files.opened(transport, opened)
            lookups?.follow(opened)
          },
          onLost: (error) => {
            if (error.code === fileMoved) {
              // While any connection has the old file open, SQLite cannot open the new one.
              files.destroyAll()
            }
            onLost(error)
          }
        })
        return Effect.onError(
          restore(Effect.zipRight(warnOfThread, Effect.zipLeft(opening, warnOfJournalMode))),
          () => Effect.sync(transport.destroy)
        )
      })
    )
  return {
    dialect: "sqlite",
    description,
    compiler: Statement.makeCompilerSqlite(settings.transformQueryNames),
    spanAttributes: [
      ...Object.entries(settings.spanAttributes),
      ["db.system.name", "sqlite"],
      ["db.namespace", isMemory ? memory : Path.basename(filename)]
    ],
    listen: undefined,
    copiesInParts: true,
    copyText: { from: copyFromText, to: ({ query }) => query },
    connect: connect(false),
    // The ping fails if the file is gone. A statement that does not read the file would succeed.
    serverInfo: (connection) =>
      connection.ping.pipe(
        Effect.zipRight(typed(connection.executeValues("SELECT sqlite_version()", []))),
        Effect.map(([row]) => ({ version: String(row?.[0]), role: "embedded" as const }))
      ),
    extendClient: (client, acquire) =>
      Effect.sync(() =>
        extendClient({
          client,
          // The pool holds only connections of this driver.
          acquire: acquire as Effect.Effect<Connection.SqliteConnection, Effect.Effect.Error<typeof acquire>>,
          config: {
            filename: target.filename,
            readonly: target.readOnly,
            spanAttributes: settings.spanAttributes,
            transformQueryNames: settings.transformQueryNames,
            transformResultNames: settings.transformResultNames
          },
          backup: () =>
            canReadConcurrently()
              ? Backup.onOwnConnection(
                connect(true)(() => undefined, (effect) => effect) as Effect.Effect<
                  Connection.SqliteConnection,
                  DatabaseError
                >
              )
              : undefined,
          onExtension: (path) => {
            extensions.push(path)
          }
        })
      ),
    supportsSettings: false,
    migrations: migrations(isMemory ? undefined : LockFile.make(filename, () => binding)),
    inspection: inspection(target),
    monitoring: monitoring(isMemory, !runsHere),
    testDatabases: undefined,
    inMemory: isMemory,
    walSize: isMemory ? undefined : () => walSizeOf(filename),
    // SQLite has one writer at a time, and a database in memory is lost with its connection.
    pool: { size: 1, maxOverflow: 0, min: 1, recycle: Duration.infinity },
    readers: () =>
      canReadConcurrently()
        ? {
          connect: connect(true),
          pool: { size: maxReaders, maxOverflow: 0, min: maxReaders, recycle: Duration.infinity }
        }
        : undefined
  }
}
