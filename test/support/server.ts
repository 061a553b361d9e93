/**
 * A PostgreSQL server of a test's own, which can be stopped and killed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Installation, prepare } from "./installation.js"
import { makeServerProcess, type ServerOptions, type ServerProcess, type StopMode } from "./serverProcess.js"

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
  /** Changes settings of postgresql.conf, which a running server reads at once. */
  readonly configure: (settings: Readonly<Record<string, string>>) => Effect.Effect<void>
}

/** An installation that is removed when the scope closes. */
export const scopedInstallation: Effect.Effect<Installation, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => prepare()),
  ({ remove }) => Effect.promise(remove)
).pipe(Effect.map(({ installation }) => installation))

/** What a test does with a server's process. */
export const fromProcess = (serverProcess: ServerProcess): Server => ({
  url: serverProcess.url,
  port: serverProcess.port,
  get pid() {
    return serverProcess.pid()
  },
  socketDir: serverProcess.socketDir,
  stop: (mode) => Effect.promise(() => serverProcess.stop(mode)),
  kill: Effect.uninterruptible(Effect.promise(serverProcess.kill)),
  pause: Effect.uninterruptible(Effect.promise(serverProcess.pause)),
  resume: Effect.sync(serverProcess.resume),
  start: Effect.uninterruptible(Effect.promise(serverProcess.start)),
  configure: (settings) => Effect.sync(() => serverProcess.configure(settings))
})

/** Starts a server. It is stopped and its data removed when the scope closes. */
export const serverFrom = (
  installation: Installation,
  options?: ServerOptions
): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => makeServerProcess(installation, options)),
      ({ dispose }) => Effect.promise(dispose)
    ),
    fromProcess
  )
