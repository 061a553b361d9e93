/**
 * A PostgreSQL server of a test's own, which can be stopped and killed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ClusterOptions, makeCluster, type StopMode } from "./cluster.js"
import { type Installation, prepare } from "./installation.js"

/** A server of a test's own. It keeps its port and data when it is stopped and started again. */
export interface Server {
  /** As superuser. */
  readonly url: string
  readonly port: number
  /** The postmaster's, of the last start. */
  readonly pid: number
  /** Holds the server's Unix socket. */
  readonly socketDir: string
  /** Completes when the server has ended: in `smart` mode that is when its clients have left. */
  readonly stop: (mode: StopMode) => Effect.Effect<void>
  /** SIGKILL to the server and all of its processes: a crash. */
  readonly kill: Effect.Effect<void>
  /** SIGSTOP to all of its processes: connections stay open, new ones are accepted by the system, nothing answers. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

/** An installation that is removed when the scope closes. */
export const scopedInstallation: Effect.Effect<Installation, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => prepare()),
  ({ remove }) => Effect.promise(remove)
).pipe(Effect.map(({ installation }) => installation))

/** Starts a server. It is stopped and its data removed when the scope closes. */
export const serverFrom = (
  installation: Installation,
  options?: ClusterOptions
): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => makeCluster(installation, options)),
    (cluster) => Effect.promise(cluster.dispose)
  ).pipe(
    Effect.map((cluster) => ({
      url: cluster.url,
      port: cluster.port,
      get pid() {
        return cluster.pid()
      },
      socketDir: cluster.socketDir,
      stop: (mode) => Effect.promise(() => cluster.stop(mode)),
      kill: Effect.uninterruptible(Effect.promise(cluster.kill)),
      pause: Effect.uninterruptible(Effect.promise(cluster.pause)),
      resume: Effect.sync(cluster.resume),
      start: Effect.uninterruptible(Effect.promise(cluster.start))
    }))
  )
