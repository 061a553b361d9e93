/**
 * Lets the process exit while a worker thread runs a statement.
 *
 * Node terminates all threads when it exits, and waits for them. A thread in native code ends only with its statement, and
 * if that throws, better-sqlite3 aborts the process: it constructs the error in JavaScript, which a terminated thread
 * cannot run (https://github.com/WiseLibs/better-sqlite3/issues/842).
 */
import { createRequire } from "node:module"
import { isMainThread } from "node:worker_threads"
import { Activity } from "./protocol.js"

/** A thread that has not ended. */
export interface RunningThread {
  /** Cancels everything in flight, so that nothing more is committed and no other statement is started. */
  readonly cancel: () => void
  /** Blocks this thread until the other's `Activity` is as wanted. False if it is not after so many milliseconds. */
  readonly waitUntil: (isReached: (activity: number) => boolean, millis: number) => boolean
}

/** How long the exit waits for threads to start, in milliseconds. */
const startGrace = 10_000
/** How long it waits for statements and commits to end. */
const idleGrace = 500
/** How long it waits for threads that are ending. */
const endGrace = 100

const threads = new Set<RunningThread>()

/**
 * Ends the process with the exit function of the C library, which does not terminate the threads first. Only WASI calls it
 * in Node. A thread that starts or ends meanwhile may crash; one that is idle or in SQLite does not notice.
 */
const exitNow = (code: number): void => {
  try {
    const { WASI } = createRequire(import.meta.url)("node:wasi")
    const { Memory } = Reflect.get(globalThis, "WebAssembly")
    const wasi = new WASI({ version: "preview1", returnOnExit: false })
    wasi.initialize({ exports: { memory: new Memory({ initial: 1 }) } })
    wasi.wasiImport.proc_exit(code)
  } catch {
    // Node's permission model may forbid WASI.
    process.kill(process.pid, "SIGKILL")
  }
}

const onExit = (code: number): void => {
  for (const { cancel } of threads) {
    cancel()
  }
  for (const { waitUntil } of threads) {
    waitUntil((activity) => activity !== Activity.starting, startGrace)
  }
  const deadline = performance.now() + (isMainThread ? idleGrace : Number.POSITIVE_INFINITY)
  const busy = Array.from(threads).filter(({ waitUntil }) =>
    !waitUntil((activity) => activity <= Activity.idle, Math.max(0, deadline - performance.now()))
  )
  if (busy.length === 0) {
    return
  }
  const listeners = process.listeners("exit")
  for (const listener of listeners.slice(listeners.indexOf(onExit) + 1)) {
    listener.call(process, code)
  }
  busy[0].waitUntil(() => false, endGrace)
  exitNow(Number(process.exitCode ?? code))
}

/** Registers a thread until it ends. */
export const addThread = (thread: RunningThread): void => {
  if (threads.size === 0) {
    process.on("exit", onExit)
  }
  threads.add(thread)
}

/** Removes a thread that has ended. */
export const removeThread = (thread: RunningThread): void => {
  if (threads.delete(thread) && threads.size === 0) {
    process.off("exit", onExit)
  }
}
