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
 * event loop. It is canceled between two rows. One that returns no rows cannot be canceled: if it does not end within 200
 * milliseconds, its connection is given up. The thread ends when the statement does, and nothing that it wrote is
 * committed. Until then it holds its locks. The process can exit meanwhile.
 *
 * The statements of a database in memory run on the main thread. A long one blocks the event loop, and can be canceled
 * only by its own timeout, between two rows. In a transaction, a statement of another fiber than the last one waits for
 * the next iteration of the event loop: a fiber that has lost a race, or whose sibling has failed, is interrupted before.
 */
import * as Statement from "@effect/sql/Statement"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Path from "node:path"
import type * as DatabaseConfig from "../../DatabaseConfig.js"
import { type DatabaseError, typed } from "../../DatabaseError.js"
import type { Driver } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { timeoutOption } from "../raceFirst.js"
import type { Binding } from "./binding.js"
import { chooseBinding } from "./chooseBinding.js"
import { extendClient } from "./client.js"
import * as Connection from "./connection.js"
import { copyFromText } from "./copy.js"
import { inspection } from "./inspection.js"
import { migrations } from "./migrations.js"
import type { OpenOptions } from "./protocol.js"
import { fileMoved, fromSqlite } from "./resultCode.js"
import { hasWorker, missingWorker } from "./startWorker.js"
import { localTransport, type Transport } from "./transport.js"
import { workerTransport } from "./workerTransport.js"

const memory = ":memory:"

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
  const lacksWorker = !isMemory && target.thread === "worker" && !hasWorker()
  const runsHere = isMemory || target.thread === "main" || lacksWorker
  const makeTransport = (options: OpenOptions) => runsHere ? localTransport(options, binding) : workerTransport(options)
  const timeoutError = () =>
    makeError("ConnectionFailed", {
      dialect: "sqlite",
      code: "SQLITE_BUSY",
      reason: `could not open ${description}: it took longer than ${Duration.format(settings.connectTimeout)}`,
      transient: true
    })
  let isWarned = !lacksWorker
  const warnOnce = Effect.suspend(() => {
    const warning = isWarned
      ? Effect.void
      : Effect.logWarning(
        `the statements of ${description} run on the main thread, which long ones block: ${missingWorker}`
      )
    isWarned = true
    return warning
  })
  /** The journal mode of the connection that was opened last. */
  let journalMode: unknown
  /** The transports of the open connections. */
  const transports = new Set<Transport>()
  const openTransport = (options: OpenOptions): Transport => {
    const { destroy, ...rest } = makeTransport(options)
    const transport: Transport = {
      ...rest,
      destroy: () => {
        transports.delete(transport)
        destroy()
      }
    }
    transports.add(transport)
    return transport
  }
  const connect = (reader: boolean): Driver["connect"] => (onLost, restore) =>
    Effect.suspend(() => {
      let transport: Transport
      try {
        // A file that was opened once is not created again: if it was deleted, an empty database would replace it.
        const mustExist = reader || (!isMemory && journalMode !== undefined)
        transport = openTransport({
          binding: binding.name,
          filename,
          readOnly: target.readOnly,
          reader,
          mustExist,
          extensions
        })
      } catch (error) {
        return Effect.fail(fromSqlite(error, { phase: "connect", description }))
      }
      const opening = Connection.make({
        transport,
        description,
        timeouts: settings,
        openTimeout: settings.connectTimeout,
        extensions,
        onOpen: (mode) => {
          journalMode = mode
        },
        onLost: (error) => {
          if (error.code === fileMoved) {
            // While any connection has the old file open, SQLite cannot open the new one.
            transports.forEach(({ destroy }) => destroy())
          }
          onLost(error)
        }
      }).pipe(
        (opening) => timeoutOption(opening, settings.connectTimeout),
        Effect.flatMap(Option.match({ onNone: () => Effect.fail(timeoutError()), onSome: Effect.succeed })),
        Effect.withClock(Connection.clock)
      )
      return Effect.onError(restore(Effect.zipRight(warnOnce, opening)), () => Effect.sync(transport.destroy))
    })
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
    // A file that is gone answers statements that do not read it.
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
          onExtension: (path) => {
            extensions.push(path)
          }
        })
      ),
    // SQLite has one writer at a time, and a database in memory is the same as its connection.
    supportsSettings: false,
    migrations,
    inspection: inspection(target),
    testDatabases: undefined,
    inMemory: isMemory,
    pool: { size: 1, maxOverflow: 0, min: 1, recycle: Duration.infinity },
    // Without WAL a reader blocks the commit of the writer. On the main thread two connections would not run at once.
    readers: () =>
      !runsHere && journalMode === "wal"
        ? {
          connect: connect(true),
          pool: { size: maxReaders, maxOverflow: 0, min: maxReaders, recycle: Duration.infinity }
        }
        : undefined
  }
}
