/**
 * SQLite files and drivers for tests.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import type { Driver } from "../../../src/internal/driver.js"
import { chooseBinding } from "../../../src/internal/sqlite/chooseBinding.js"
import type { Options as ConnectionOptions, SqliteConnection } from "../../../src/internal/sqlite/connection.js"
import * as SqliteDriver from "../../../src/internal/sqlite/driver.js"
import { closedError } from "../../../src/internal/sqlite/errors.js"
import type { OpenOptions } from "../../../src/internal/sqlite/protocol.js"
import { SharedSettings } from "../../../src/internal/sqlite/sharedSettings.js"
import type { Transport } from "../../../src/internal/sqlite/transport.js"

/** A directory that is removed when the scope closes. */
export const directory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-"))),
  (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
)

/** The name of a file that does not exist yet. */
export const file: Effect.Effect<string, never, Scope.Scope> = Effect.map(
  directory,
  (path) => Path.join(path, "test.db")
)

await Effect.runPromise(SqliteDriver.load)

/** The SQLite library that the tests run on. */
export const { name: binding } = await Effect.runPromise(chooseBinding)

/** What opens a file in WAL mode, which is created if it is missing. */
export const openOptions = (filename: string): OpenOptions => ({
  binding,
  filename,
  readOnly: false,
  immutable: false,
  journalMode: "wal",
  pragmas: {},
  settings: [],
  reader: false,
  mustExist: false,
  extensions: [],
  functions: []
})

/** The options of a connection over a transport that a test makes. */
export const connectionOptions = (filename: string, transport: Transport): ConnectionOptions => ({
  transport,
  description: filename,
  timeouts: {},
  openTimeout: Duration.seconds(60),
  openTimeoutError: () => closedError(filename),
  onUndone: () => Effect.void,
  extensions: [],
  settings: new SharedSettings(),
  onOpen: () => {},
  onLost: () => {}
})

/** The settings of a driver, unless a test sets others. */
const settings: Omit<DatabaseConfig.Settings, "target"> = {
  environment: "test",
  name: "test",
  poolSize: 1,
  poolMaxOverflow: 0,
  poolMin: 1,
  poolIdleTimeout: Duration.seconds(30),
  poolTimeout: Duration.seconds(30),
  poolRecycle: Duration.infinity,
  connectTimeout: Duration.seconds(10),
  connectRetry: Duration.zero,
  statementTimeout: undefined,
  lockTimeout: undefined,
  idleInTransactionTimeout: undefined,
  readers: undefined,
  silence: Duration.seconds(10),
  hostRecheck: Duration.seconds(5),
  shutdownTimeout: Duration.seconds(10),
  healthTimeout: Duration.seconds(2),
  slowStatement: Duration.seconds(1),
  preparedStatements: "auto",
  reset: "auto",
  transformQueryNames: undefined,
  transformResultNames: undefined,
  transformJson: false,
  onNotice: undefined,
  types: {},
  spanAttributes: {},
  spanNames: "summary",
  spanParameters: false
}

/** A driver of a file. */
export const driver = (
  filename: string,
  options: Partial<DatabaseConfig.Settings> & Partial<Omit<DatabaseConfig.SqliteTarget, "_tag" | "filename">> = {}
): Driver => {
  const { immutable, journalMode, mustExist, pragmas, readOnly = false, thread = "worker", ...rest } = options
  const target: DatabaseConfig.SqliteTarget = {
    _tag: "sqlite",
    filename,
    readOnly,
    thread,
    immutable,
    journalMode,
    mustExist,
    pragmas
  }
  return SqliteDriver.make({ ...settings, ...rest, target }, target)
}

/** A connection that is closed when the scope closes. */
export const connect = (driver: Driver, onLost: Parameters<Driver["connect"]>[0] = () => {}) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.tap(
      driver.connect(onLost, restore) as Effect.Effect<
        SqliteConnection,
        Effect.Effect.Error<ReturnType<Driver["connect"]>>
      >,
      (connection) => Effect.addFinalizer(() => connection.close)
    )
  )
