/**
 * Lets the process exit while worker threads run statements.
 *
 * When Node exits it terminates all threads and waits for them. A thread in native code ends only after its statement,
 * which may never end. If the statement fails, better-sqlite3 then aborts the process: it constructs its error in
 * JavaScript, which a terminated thread cannot run (https://github.com/WiseLibs/better-sqlite3/issues/842). So the exit
 * cancels all statements and waits until the threads are idle. After too long, it ends the process without Node.
 */
import { isMainThread } from "node:worker_threads"
import { Activity } from "./protocol.js"

/** A thread that has not ended. */
export interface RunningThread {
  /** Cancels everything in flight, so that nothing more is committed and no other statement is started. */
  readonly cancel: () => void
  /** Blocks this thread until the other's `Activity` satisfies `isReached`. False if it does not within `millis`. */
  readonly waitUntil: (isReached: (activity: number) => boolean, millis: number) => boolean
}

/** How long the exit waits for threads that start, in milliseconds. */
const startGrace = 5_000
/** How long it waits for canceled statements, and for commits. */
const idleGrace = 500
/** How long it waits for threads that end, if it ends the process without Node. */
const endGrace = 100

const threads = new Set<RunningThread>()

/** The functions that close this thread's connections to files that other threads have open. */
const closers = new Set<() => void>()

/**
 * Calls `exit` of the C library, which does not terminate the threads first. In Node only WASI calls it. It destroys what
 * a thread uses to start and to end, but nothing that an idle thread or SQLite uses.
 */
const exitNow = (code: number): void => {
  try {
    const { WASI } = process.getBuiltinModule("node:wasi")
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
  closers.forEach((close) => close())
  const isStarted = (activity: number) => activity !== Activity.starting
  const isIdle = (activity: number) => activity <= Activity.idle
  for (const { cancel } of threads) {
    cancel()
  }
  for (const { waitUntil } of threads) {
    waitUntil(isStarted, startGrace)
  }
  // On another thread only that thread exits, so this waits without a limit.
  const deadline = performance.now() + (isMainThread ? idleGrace : Number.POSITIVE_INFINITY)
  const busy = Array.from(threads).filter(({ waitUntil }) => !waitUntil(isIdle, deadline - performance.now()))
  if (busy.length === 0) {
    return
  }
  // Node calls no other listeners after this.
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

/**
 * Registers a function that closes a connection on this thread. The thread that closes the file last empties its WAL.
 */
export const addCloser = (close: () => void): void => {
  closers.add(close)
}

/** Removes a function that has closed its connection. */
export const removeCloser = (close: () => void): void => {
  closers.delete(close)
}

/** Removes a thread that has ended. */
export const removeThread = (thread: RunningThread): void => {
  if (threads.delete(thread) && threads.size === 0) {
    process.off("exit", onExit)
  }
}
