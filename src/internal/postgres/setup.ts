/**
 * What all connections of a driver have in common.
 */
import * as Duration from "effect/Duration"
import type { PostgresHost, PostgresTarget, Settings } from "../../DatabaseConfig.js"
import { ConnectLimit } from "../cluster/connectLimit.js"
import { Servers } from "../cluster/servers.js"
import { realClock } from "../pool/clock.js"
import { Engine } from "./engine.js"
import { SilenceMonitor } from "./silence.js"
import { StartupParameters, startupParameters } from "./startupParameters.js"
import { PreparePolicy } from "./statementCache.js"
import { StatementTimeoutMonitor } from "./statementTimeout.js"
import { TypeRegistry } from "./types/registry.js"

/** A host as it is shown in errors and spans. Contains no secret. */
export const describeHost = (target: PostgresTarget, { host, port }: PostgresHost): string =>
  host.startsWith("/")
    ? `${host}/.s.PGSQL.${port}/${target.database}`
    : `${host.includes(":") ? `[${host}]` : host}:${port}/${target.database}`

/** All hosts of a target, as they are shown in errors and logs. */
export const describe = (target: PostgresTarget): string =>
  target.hosts.map((host) => describeHost(target, host)).join(", ")

/** What all connections of a driver have in common. */
export interface Setup {
  readonly settings: Settings
  readonly target: PostgresTarget
  readonly preparePolicy: PreparePolicy
  /** Undefined if the setting `silence` is zero. */
  readonly silence: SilenceMonitor | undefined
  readonly statementTimeouts: StatementTimeoutMonitor
  readonly startupParameters: StartupParameters
  readonly types: TypeRegistry
  readonly engine: Engine
  /** The known state of the servers. */
  readonly servers: Servers
  readonly connectLimit: ConnectLimit
}

/** Opens nothing. */
export const makeSetup = (settings: Settings, target: PostgresTarget): Setup => {
  const silence = Duration.toMillis(settings.silence)
  return {
    settings,
    target,
    preparePolicy: new PreparePolicy(settings.preparedStatements),
    silence: silence === 0 ? undefined : new SilenceMonitor(silence),
    statementTimeouts: new StatementTimeoutMonitor(),
    startupParameters: new StartupParameters(startupParameters(settings, target)),
    types: new TypeRegistry(settings.types),
    engine: new Engine(),
    servers: new Servers({ clock: realClock, recheck: Duration.toMillis(settings.hostRecheck) }),
    connectLimit: new ConnectLimit(realClock)
  }
}
