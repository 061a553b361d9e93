/**
 * How to speak to a SQLite file, or to a database in memory.
 *
 * A file is in WAL mode with `synchronous = FULL`: a commit that was reported survives a crash of the process and a loss
 * of power. Foreign keys are enforced. What a borrower of the connection can leave behind is a transaction, temporary
 * tables, attached databases and settings (`PRAGMA … = …`); any of these makes it `dirty`, and a reset clears them: a
 * file is opened anew, in memory they are removed one by one and sqlayer's own settings restored.
 *
 * One connection does everything but what sessions do that say that they only read: where the file is in WAL mode, these
 * have connections of their own, which read beside the one that writes and beside each other. A file that was deleted or
 * replaced is noticed when a session that only reads begins, before a commit, and by a ping: the connection is then lost,
 * and no other file is made in its place.
 *
 * A file's statements run in a thread of their own, unless the configuration says otherwise, so a long one never holds
 * up the application. It is stopped between two rows. One that gives no rows cannot be stopped from outside: if it does
 * not end within a fifth of a second its connection is given up, its thread ends when the statement does, and nothing
 * that it wrote is ever committed. Until then it holds its locks, and the process cannot exit.
 *
 * The statements of a database in memory run in the thread of the application, where a long one holds up everything
 * and can be stopped only by its own timeout, between two rows.
 */
import * as Statement from "@effect/sql/Statement"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Path from "node:path"
import type * as DatabaseConfig from "../../DatabaseConfig.js"
import { typed } from "../../DatabaseError.js"
import type { Driver } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { extend } from "./client.js"
import * as Connection from "./connection.js"
import * as Link from "./transport.js"
import type { OpenOptions } from "./protocol.js"
import { fromSqlite, moved } from "./resultCode.js"
import { thread } from "./workerTransport.js"

const memory = ":memory:"

/** How many connections may read at once, each of which has a thread; they are opened when they are needed. */
const readers = 4

/** The driver of a file or of a database in memory. */
export const make = (settings: DatabaseConfig.Settings, target: DatabaseConfig.SqliteTarget): Driver => {
  const isMemory = target.filename === memory
  const filename = isMemory ? memory : Path.resolve(target.filename)
  const description = target.filename
  const extensions: Array<string> = []
  const open = isMemory || target.thread === "main" ? Link.local : thread
  const timeoutError = () =>
    makeError("ConnectionFailed", {
      dialect: "sqlite",
      code: "SQLITE_BUSY",
      reason: `could not open ${description}: it took longer than ${Duration.format(settings.connectTimeout)}`,
      transient: true
    })
  /** Of the connection that was opened last. */
  let journalMode: unknown
  /** Those of the connections that are open. */
  const links = new Set<Link.Link>()
  const linked = (options: OpenOptions): Link.Link => {
    const way = open(options)
    const link: Link.Link = {
      ...way,
      destroy: () => {
        links.delete(link)
        way.destroy()
      }
    }
    links.add(link)
    return link
  }
  const connect = (reader: boolean): Driver["connect"] => (onLost, restore) =>
    Effect.suspend(() => {
      let link: Link.Link
      try {
        // A file that was there is not made again: who deleted it would get an empty database in its place.
        const mustExist = reader || (!isMemory && journalMode !== undefined)
        link = linked({ filename, readOnly: target.readOnly, reader, mustExist, extensions })
      } catch (error) {
        return Effect.fail(fromSqlite(error, { phase: "connect", description }))
      }
      const opening = Connection.make({
        link,
        description,
        limits: settings,
        openTimeout: settings.connectTimeout,
        extensions,
        onOpen: (mode) => {
          journalMode = mode
        },
        onLost: (error) => {
          if (error.code === moved) {
            // For all of them. While one is open SQLite does not let go of what was there, and cannot open what is there.
            links.forEach(({ destroy }) => destroy())
          }
          onLost(error)
        }
      }).pipe(
        Effect.timeoutFail({ duration: settings.connectTimeout, onTimeout: timeoutError }),
        Effect.withClock(Connection.clock)
      )
      return Effect.onError(restore(opening), () => Effect.sync(link.destroy))
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
    connect: connect(false),
    serverInfo: (connection) =>
      connection.executeValues("SELECT sqlite_version()", []).pipe(
        typed,
        Effect.map(([row]) => ({ version: String(row?.[0]), role: "embedded" as const }))
      ),
    extendClient: (client, acquire) =>
      Effect.sync(() =>
        extend({
          client,
          // Every connection of this driver is one of its own.
          acquire: acquire as Effect.Effect<Connection.SqliteConnection, Effect.Effect.Error<typeof acquire>>,
          config: {
            filename: target.filename,
            readonly: target.readOnly,
            transformQueryNames: settings.transformQueryNames,
            transformResultNames: settings.transformResultNames
          },
          onExtension: (path) => {
            extensions.push(path)
          }
        })
      ),
    // One connection, handed over in order: SQLite has one writer at a time, and a database in memory is its connection.
    pool: { size: 1, maxOverflow: 0, recycle: Duration.infinity },
    // Where there is no WAL, who reads keeps who writes from committing. Two on the main thread would take turns anyway.
    readers: () =>
      open === thread && journalMode === "wal"
        ? { connect: connect(true), pool: { size: readers, maxOverflow: 0, recycle: Duration.infinity } }
        : undefined
  }
}
