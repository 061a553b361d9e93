/** Settings, targets and connections for the tests of the PostgreSQL driver. */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { PostgresTarget, Settings } from "../../../src/DatabaseConfig.js"
import { type DatabaseError, toSqlError } from "../../../src/DatabaseError.js"
import type * as Driver from "../../../src/internal/driver.js"
import * as PostgresDriver from "../../../src/internal/postgres/driver.js"
import { eventually } from "../../support/eventually.js"
import { query } from "../../support/postgres.js"

await Effect.runPromise(PostgresDriver.load)

export const settings: Settings = {
  environment: "test",
  // Not used by the driver: it is given the target.
  target: { _tag: "sqlite", filename: ":memory:", readOnly: false, thread: "main" },
  name: "test",
  poolSize: 5,
  poolMaxOverflow: 10,
  poolMin: 5,
  poolIdleTimeout: Duration.seconds(30),
  poolTimeout: Duration.seconds(30),
  poolRecycle: Duration.minutes(30),
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
  transformJson: true,
  onNotice: undefined,
  types: {},
  spanAttributes: {},
  spanNames: "summary",
  spanParameters: false
}

export const target = (url: string, overrides: Partial<PostgresTarget> = {}): PostgresTarget => {
  const parsed = new URL(url)
  return {
    _tag: "postgres",
    hosts: [{ host: parsed.hostname, port: Number(parsed.port) }],
    targetSessionAttrs: "any",
    database: decodeURIComponent(parsed.pathname.slice(1)),
    username: decodeURIComponent(parsed.username),
    password: parsed.password === "" ? undefined : Redacted.make(decodeURIComponent(parsed.password)),
    sslMode: "disable",
    channelBinding: "disable",
    sslRootCert: undefined,
    sslCert: undefined,
    sslKey: undefined,
    applicationName: "sqlayer-test",
    serverOptions: undefined,
    ...overrides
  }
}

export interface Overrides {
  readonly settings?: Partial<Settings> | undefined
  readonly target?: Partial<PostgresTarget> | undefined
}

export const driver = (url: string, overrides: Overrides = {}): Driver.Driver =>
  PostgresDriver.make({ ...settings, ...overrides.settings }, target(url, overrides.target))

/** A connection, and the errors of `onLost`. */
export interface Connected {
  readonly connection: Driver.Connection
  readonly losses: Array<DatabaseError>
}

export const connected = (
  url: string,
  overrides: Overrides = {}
): Effect.Effect<Connected, DatabaseError, Scope.Scope> => {
  const losses: Array<DatabaseError> = []
  return Effect.map(
    Effect.uninterruptibleMask((restore) =>
      Effect.tap(
        driver(url, overrides).connect((error) => losses.push(error), restore),
        (connection) => Effect.addFinalizer(() => Effect.sync(() => connection.destroy()))
      )
    ),
    (connection) => ({ connection, losses })
  )
}

export const connection = (
  url: string,
  overrides: Overrides = {}
): Effect.Effect<Driver.Connection, DatabaseError, Scope.Scope> =>
  Effect.map(connected(url, overrides), (each) => each.connection)

/**
 * Fails where an effect takes longer than 30 seconds, also if it cannot be interrupted. To be used where the alternative is
 * never, so that no test depends on how busy the machine is.
 */
export const promptly = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  effect.pipe(
    Effect.disconnect,
    Effect.timeoutTo({
      duration: "30 seconds",
      onSuccess: (value: A) => Effect.succeed(value),
      onTimeout: () => Effect.dieMessage("it took longer than 30 seconds")
    }),
    Effect.flatten
  )

/**
 * Repeats an attempt until its connection survives a cancellation. A cancellation that takes longer than its timeout
 * destroys the connection, which may happen a few times on a busy machine.
 */
export const untilKept = <E>(
  attempt: Effect.Effect<Driver.Connection, E, Scope.Scope>,
  attempts = 10
): Effect.Effect<void, E> =>
  Effect.flatMap(
    Effect.scoped(Effect.map(attempt, (connection) => connection.status() !== "closed")),
    (isKept) =>
      isKept
        ? Effect.void
        : attempts > 1
        ? untilKept(attempt, attempts - 1)
        : Effect.dieMessage("no connection survived a cancellation")
  )

/** Waits until a connection is executing a statement, as another one sees it. */
export const executing = (url: string, { id }: Driver.Connection): Effect.Effect<void> =>
  eventually(
    Effect.map(
      query(url, `SELECT 1 FROM pg_stat_activity WHERE pid = ${id} AND state = 'active'`),
      (rows) => rows.length === 1
    )
  )

/** The rows of a statement. */
export const rows = (connection: Driver.Connection, sql: string, params: ReadonlyArray<unknown> = []) =>
  connection.execute(sql, params, undefined)

/** The driver's client. Each statement has a connection of its own. */
export const client = (
  url: string,
  overrides: Overrides = {}
): Effect.Effect<Context.Context<SqlClient.SqlClient>, never, Scope.Scope> => {
  const made = driver(url, overrides)
  const acquire = Effect.uninterruptibleMask((restore) =>
    Effect.tap(made.connect(() => undefined, restore), (each) => Effect.addFinalizer(() => each.close))
  )
  return SqlClient.make({
    acquirer: Effect.mapError(acquire, toSqlError),
    compiler: made.compiler,
    spanAttributes: made.spanAttributes
  }).pipe(
    Effect.flatMap((standard) =>
      Effect.flatMap(made.listen!, (listen) => made.extendClient(standard, acquire, listen))
    ),
    Effect.provide(Reactivity.layer)
  )
}
