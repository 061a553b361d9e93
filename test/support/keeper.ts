/**
 * Sees to it that nothing outlives the tests, however they end.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import type { Socket } from "node:net"

/** Watches one directory, and the server in it, on our behalf. */
export interface Keeper {
  /** The server that must not outlive us, then those of its processes that are stopped; none when it has ended. */
  readonly watch: (...pids: ReadonlyArray<number>) => void
  /** Ends the server, removes the directory, and returns when both are gone. */
  readonly end: () => Promise<void>
}

// It reads process ids until its input ends, which happens when we say so and also when we die without a word (SIGKILL,
// a crash). It survives the terminal's Ctrl-C because it is in a session of its own. SIGQUIT lets the server end its
// processes and give back its shared memory.
const script = `
trap '' HUP INT TERM
directory=$1
pids=
while IFS= read -r line; do pids=$line; done
set -- $pids
if [ "$#" -gt 0 ]; then
  kill -CONT "$@"
  kill -QUIT "$1"
  n=0
  while kill -0 "$1" && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  kill -KILL "$1"
fi
n=0
rm -rf -- "$directory"
while [ -e "$directory" ] && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); rm -rf -- "$directory"; done
`

export const makeKeeper = (directory: string): Keeper => {
  const child = spawn("/bin/sh", ["-c", script, "keeper", directory], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })
  const exited = once(child, "exit")
  child.unref()
  const input = child.stdin as Socket
  input.unref()
  return {
    watch: (...pids) => void input.write(`${pids.join(" ")}\n`),
    end: async () => {
      child.ref()
      input.end()
      await exited
    }
  }
}
