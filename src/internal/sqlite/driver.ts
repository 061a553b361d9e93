/**
 * How to speak to a SQLite file, or to a database in memory.
 *
 * A file is in WAL mode with `synchronous = FULL`: a commit that was reported survives a crash of the process and a loss
 * of power. Foreign keys are enforced. What a borrower of the connection can leave behind is a transaction, temporary
 * tables, attached databases and settings (`PRAGMA … = …`); any of these makes it `dirty`, and a reset clears them: a
 * file is opened anew, in memory they are removed one by one and sqlayer's own settings restored.
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
import { make as makeError } from "../failure.js"
import { extend } from "./client.js"
import * as Connection from "./connection.js"
import * as Link from "./link.js"
import { fromSqlite } from "./resultCode.js"

const memory = ":memory:"

/** The driver of a file or of a database in memory. */
export const make = (settings: DatabaseConfig.Settings, target: DatabaseConfig.SqliteTarget): Driver => {
  const isMemory = target.filename === memory
  const filename = isMemory ? memory : Path.resolve(target.filename)
  const description = target.filename
  const extensions: Array<string> = []
  const open = isMemory || target.thread === "main" ? Link.local : Link.thread
  const timeoutError = () =>
    makeError("ConnectionFailed", {
      dialect: "sqlite",
      code: "SQLITE_BUSY",
      reason: `could not open ${description}: it took longer than ${Duration.format(settings.connectTimeout)}`,
      transient: true
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
    connect: (onLost) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.suspend(() => {
          let link: Link.Link
          try {
            link = open({ filename, readOnly: target.readOnly, extensions })
          } catch (error) {
            return Effect.fail(fromSqlite(error, { phase: "connect", description }))
          }
          const opening = Connection.make({
            link,
            description,
            limits: settings,
            openTimeout: settings.connectTimeout,
            onLost
          }).pipe(
            Effect.timeoutFail({ duration: settings.connectTimeout, onTimeout: timeoutError }),
            Effect.withClock(Connection.clock)
          )
          return Effect.onError(restore(opening), () => Effect.sync(link.destroy))
        })
      ),
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
    pool: { size: 1, maxOverflow: 0, recycle: Duration.infinity }
  }
}
