/**
 * Makes the `Driver` for PostgreSQL.
 */
import type * as PgClientModule from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Arr from "effect/Array"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import type { PostgresTarget, Settings } from "../../DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import * as Telemetry from "../../Telemetry.js"
import type { Server } from "../cluster/servers.js"
import type { Driver, Notification, Replicas, Restore } from "../driver.js"
import { packageError } from "../packages.js"
import * as Bulk from "./bulk.js"
import { json, PgClient, TypeId } from "./client.js"
import { cleaningInterval, cleanRecords } from "./commitRecord.js"
import { makeCompiler } from "./compiler.js"
import { connect, probeServer } from "./connect.js"
import type { Connection as PostgresConnection } from "./connection.js"
import { copyFromText, copyToText } from "./copy/text.js"
import { checkHealth } from "./healthCheck.js"
import { inspection } from "./inspection.js"
import * as Listen from "./listen.js"
import { migrations } from "./migrations.js"
import { monitoring } from "./monitoring.js"
import * as Pg from "./pg.js"
import { accepts } from "./role.js"
import { describe, makeSetup, type Setup } from "./setup.js"
import { PreparePolicy } from "./statementCache.js"
import { testDatabases } from "./testDatabase.js"
import { format } from "./url.js"

const serverInfoStatement = "SELECT pg_catalog.current_setting('server_version') AS version, " +
  "pg_catalog.pg_is_in_recovery() AS standby"

const requiresTls = ({ sslMode }: PostgresTarget): boolean =>
  sslMode !== "disable" && sslMode !== "allow" && sslMode !== "prefer"

/**
 * A URL that pg understands too. pg takes `prefer` for `require`, so that is left out, and reads certificates and keys
 * from files only. The URL has no password if that is asked for at each connection.
 */
const clientUrl = (target: PostgresTarget): Redacted.Redacted => {
  const { sslCert, sslKey, sslMode, sslRootCert } = target
  const file = (value: typeof sslCert) => typeof value === "string" ? value : undefined
  const tls = { sslmode: sslMode, sslrootcert: file(sslRootCert), sslcert: file(sslCert), sslkey: file(sslKey) }
  return Redacted.make(format(target, requiresTls(target) ? tls : {}))
}

/** The configuration as PgClient exposes it. The URL and the password are redacted. */
const clientConfig = (settings: Settings, target: PostgresTarget): PgClientModule.PgClientConfig => {
  const { host, port } = target.hosts[0]
  return {
    url: clientUrl(target),
    host,
    port,
    database: target.database,
    // Neither the user nor the password is known here if it is asked for at each connection.
    username: target.username || undefined,
    password: target.password,
    ssl: requiresTls(target),
    applicationName: target.applicationName,
    connectTimeout: settings.connectTimeout,
    maxConnections: settings.poolSize + settings.poolMaxOverflow,
    connectionTTL: settings.poolRecycle,
    spanAttributes: settings.spanAttributes,
    transformQueryNames: settings.transformQueryNames,
    transformResultNames: settings.transformResultNames,
    transformJson: settings.transformJson
  }
}

/** None for several hosts, since only a connection decides which of them executes a statement. */
const serverAttributes = ({ hosts: [{ host, port }, ...others] }: PostgresTarget): Driver["spanAttributes"] => {
  if (others.length > 0) {
    return []
  }
  return host.startsWith("/")
    ? [["server.address", `${host}/.s.PGSQL.${port}`]]
    : [["server.address", host], ["server.port", port]]
}

/** Loads `pg`. */
export const load: Effect.Effect<void, DatabaseError> = Effect.flatMap(
  Effect.promise(Pg.load),
  (error) =>
    error === undefined ? Effect.void : Effect.fail(packageError("postgres", "08001", "pg", error, "npm install pg@8"))
)

/** LISTEN needs a primary. With several hosts the target asks for one, and so finds the new one after a failover. */
const listenSetup = (setup: Setup): Setup => {
  const { target } = setup
  const { hosts, targetSessionAttrs } = target
  return hosts.length > 1 && (targetSessionAttrs === "any" || targetSessionAttrs === "prefer-standby")
    ? { ...setup, target: { ...target, targetSessionAttrs: "primary" } }
    : setup
}

const payloads = <E>(notifications: Stream.Stream<Notification, E>): Stream.Stream<string, E> =>
  Stream.filterMap(
    notifications,
    (notification) => notification._tag === "Message" ? Option.some(notification.payload) : Option.none()
  )

/** The setup of the readers' connections, which shares the state of servers and types with the primary's. */
const readersSetup = (settings: Settings, setup: Setup, target: PostgresTarget): Setup => ({
  ...setup,
  target,
  startupParameters: makeSetup(settings, target).startupParameters,
  preparePolicy: new PreparePolicy(settings.preparedStatements)
})

const includesServer = ({ hosts }: PostgresTarget) => (server: Server): boolean =>
  hosts.some(({ host, port }) => host === server.host && port === server.port)

/** Whether a server is up, or nothing is known of it, and is what the target asks for as far as that is known. */
const isUsable = ({ targetSessionAttrs }: PostgresTarget, { isReadOnly, role, state }: Server): boolean =>
  state !== "down" && state !== "silent" &&
  (role === "unknown" || targetSessionAttrs === "prefer-standby" ||
    accepts(targetSessionAttrs, { standby: role === "standby", readOnly: isReadOnly }))

/** Each host of the readers' target is one replica. */
const replicasOf = (
  { maxLag, poolSize, wait }: NonNullable<Settings["readers"]>,
  settings: Settings,
  setup: Setup,
  // The readers' URL is of this dialect too.
  { hosts, ...shared }: PostgresTarget
): Replicas => {
  const { servers } = setup
  return {
    servers: Arr.map(hosts, (host) => {
      const target: PostgresTarget = { ...shared, hosts: [host] }
      const own = readersSetup(settings, setup, target)
      return {
        description: describe(target),
        // A single server is not checked in the background.
        isUsable: () => {
          const known = servers.isCluster ? servers.list().filter(includesServer(target)) : []
          return known.length === 0 || known.some((server) => isUsable(target, server))
        },
        attributes: [...serverAttributes(target), [Telemetry.serverRole, "standby"]],
        connect: (onLost, restore) =>
          Effect.tap(connect(own, restore), (connection) => Effect.sync(() => connection.onLost(onLost)))
      }
    }),
    pool: { size: poolSize, maxOverflow: settings.poolMaxOverflow, min: poolSize, recycle: settings.poolRecycle },
    maxLag: Duration.toMillis(maxLag),
    wait: Duration.toMillis(wait)
  }
}

/** Opens no connection. */
export const make = (settings: Settings, target: PostgresTarget): Driver => {
  const compiler = Bulk.makeCompiler(makeCompiler(settings.transformQueryNames, settings.transformJson))
  const setup = makeSetup(settings, target)
  const { engine } = setup
  const { readers } = settings
  const readersTarget = readers?.target as PostgresTarget | undefined
  const forReaders = readersTarget === undefined ? undefined : readersSetup(settings, setup, readersTarget)
  setup.servers.probe = (server, onEnd) =>
    probeServer(forReaders === undefined || includesServer(target)(server) ? setup : forReaders, server, onEnd)
  const establish = (restore: Restore) =>
    Effect.tap(
      connect(setup, restore),
      (connection) => engine.needsProbe ? engine.probe(connection, restore) : Effect.void
    )
  return {
    dialect: "postgres",
    description: describe(target),
    compiler,
    spanAttributes: [
      ...Object.entries(settings.spanAttributes),
      ["db.system.name", "postgresql"],
      ["db.namespace", target.database],
      ...serverAttributes(target)
    ],
    connect: (onLost, restore) =>
      Effect.tap(establish(restore), (connection) => Effect.sync(() => connection.onLost(onLost))),
    servers: setup.servers,
    checkHealth: (connection) => checkHealth(connection as PostgresConnection, setup.servers, target),
    copyText: { from: copyFromText, to: copyToText },
    serverInfo: (connection) =>
      Effect.mapBoth(connection.executeUnprepared(serverInfoStatement, [], undefined), {
        onSuccess: ([row]) => ({ version: row.version, role: row.standby ? "standby" as const : "primary" as const }),
        onFailure: fromSqlError
      }),
    listen: Listen.make((restore) => connect(listenSetup(setup), restore), settings.silence),
    extendClient: (client, _acquire, listen) =>
      Effect.sync(() => {
        const extended: PgClientModule.PgClient = Object.assign(client, {
          [TypeId]: TypeId,
          config: clientConfig(settings, target),
          json: (value: unknown) => json(value),
          listen: (channel: string) => payloads(listen!(channel)),
          // As a statement of the session it runs in, so that the server delivers it when that commits.
          notify: (channel: string, payload: string) =>
            Effect.asVoid(client`SELECT pg_catalog.pg_notify(${channel}, ${payload})`)
        })
        return Context.make(SqlClient.SqlClient, extended as SqlClient.SqlClient).pipe(
          Context.add(PgClient, extended)
        )
      }),
    supportsSettings: true,
    replicas: readers === undefined ? undefined : replicasOf(readers, settings, setup, readersTarget!),
    migrations: migrations(engine),
    commitRecords: { clean: cleanRecords, interval: cleaningInterval },
    inspection: inspection(target),
    monitoring,
    testDatabases: testDatabases(target),
    pool: {
      size: settings.poolSize,
      maxOverflow: settings.poolMaxOverflow,
      min: settings.poolMin,
      recycle: settings.poolRecycle
    }
  }
}
