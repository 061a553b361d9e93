/**
 * Makes the `Driver` for PostgreSQL.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Statement from "@effect/sql/Statement"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { PostgresTarget, Settings } from "../../DatabaseConfig.js"
import { fromSqlError } from "../../DatabaseError.js"
import type { Driver, Restore } from "../driver.js"
import * as Bulk from "./bulk.js"
import { connect, describeHost, makeSetup } from "./connect.js"
import { inspection } from "./inspection.js"
import * as Listen from "./listen.js"
import { migrations } from "./migrations.js"
import { testDatabases } from "./testDatabase.js"
import { format } from "./url.js"

const json = Statement.custom<PgClient.PgCustom>("PgJson")

const serverInfoStatement = "SELECT pg_catalog.current_setting('server_version') AS version, " +
  "pg_catalog.pg_is_in_recovery() AS standby"

const requiresTls = ({ sslMode }: PostgresTarget): boolean =>
  sslMode !== "disable" && sslMode !== "allow" && sslMode !== "prefer"

/** A URL that pg understands too: it would take `prefer` for `require`. */
const clientUrl = (target: PostgresTarget): Redacted.Redacted => {
  const { sslCert, sslKey, sslMode, sslRootCert } = target
  const tls = { sslmode: sslMode, sslrootcert: sslRootCert, sslcert: sslCert, sslkey: sslKey }
  return Redacted.make(format(target, requiresTls(target) ? tls : {}))
}

/** The configuration as PgClient exposes it. The URL and the password are redacted. */
const clientConfig = (settings: Settings, target: PostgresTarget): PgClient.PgClientConfig => {
  const { host, port } = target.hosts[0]
  return {
    url: clientUrl(target),
    host,
    port,
    database: target.database,
    username: target.username,
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

/** Opens no connection. */
export const make = (settings: Settings, target: PostgresTarget): Driver => {
  const compiler = Bulk.makeCompiler(PgClient.makeCompiler(settings.transformQueryNames, settings.transformJson))
  const setup = makeSetup(settings, target)
  const establish = (restore: Restore) => connect(setup, restore)
  return {
    dialect: "postgres",
    description: target.hosts.map((host) => describeHost(target, host)).join(", "),
    compiler,
    spanAttributes: [
      ...Object.entries(settings.spanAttributes),
      ["db.system.name", "postgresql"],
      ["db.namespace", target.database],
      ...serverAttributes(target)
    ],
    connect: (onLost, restore) =>
      Effect.tap(establish(restore), (connection) => Effect.sync(() => connection.onLost(onLost))),
    serverInfo: (connection) =>
      Effect.mapBoth(connection.executeUnprepared(serverInfoStatement, [], undefined), {
        onSuccess: ([row]) => ({ version: row.version, role: row.standby ? "standby" as const : "primary" as const }),
        onFailure: fromSqlError
      }),
    extendClient: (client) =>
      Effect.map(Listen.make(establish, settings.silence), (listen) => {
        const extended: PgClient.PgClient = Object.assign(client, {
          [PgClient.TypeId]: PgClient.TypeId,
          config: clientConfig(settings, target),
          json: (value: unknown) => json(value),
          listen,
          // As a statement of the session it runs in, so that the server delivers it when that commits.
          notify: (channel: string, payload: string) =>
            Effect.asVoid(client`SELECT pg_catalog.pg_notify(${channel}, ${payload})`)
        })
        return Context.make(SqlClient.SqlClient, extended as SqlClient.SqlClient).pipe(
          Context.add(PgClient.PgClient, extended)
        )
      }),
    migrations,
    inspection: inspection(target),
    testDatabases: testDatabases(target),
    pool: { size: settings.poolSize, maxOverflow: settings.poolMaxOverflow, recycle: settings.poolRecycle }
  }
}
