/**
 * Stops servers and removes their files when the tests end, even when they are killed.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import type { Socket } from "node:net"

/** A process that outlives this one, and cleans up one directory and the server in it. */
export interface Keeper {
  /** The process id of the server, then those of its stopped processes. Without arguments: the server has ended. */
  readonly watch: (...pids: ReadonlyArray<number>) => void
  /** Stops the server and removes the directory. */
  readonly end: () => Promise<void>
}

// The script reads process ids until its input ends: when `end` is called, and also when this process is killed or crashes.
// It has a session of its own, so that the terminal's Ctrl-C does not reach it. On SIGQUIT the server ends its processes
// and frees its shared memory.
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
