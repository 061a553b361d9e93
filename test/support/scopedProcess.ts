/**
 * Processes that end with the scope of a test.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ChildProcess } from "node:child_process"
import { once } from "node:events"

/** Starts a process. When the scope closes it is killed, unless it has ended, and its end is waited for. */
export const scopedProcess = <Process extends ChildProcess>(
  start: () => Process
): Effect.Effect<Process, never, Scope.Scope> =>
  Effect.acquireRelease(Effect.sync(start), (child) =>
    Effect.promise(async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGKILL")
        await once(child, "exit")
      }
    }))
