/**
 * One PostgreSQL server process with a data directory of its own.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { chown, environment, type Installation, run } from "./installation.js"
import { makeKeeper } from "./keeper.js"

/** How a server differs from a fresh one. */
export interface ServerOptions {
  /** Settings as postgresql.conf has them, without quotes. */
  readonly config?: Readonly<Record<string, string>> | undefined
  /** PEM texts. `clientCa` is what the server checks clients' certificates against. */
  readonly ssl?: { readonly cert: string; readonly key: string; readonly clientCa?: string | undefined } | undefined
  /** The whole of pg_hba.conf; default: a password for everyone. */
  readonly hba?: string | undefined
  readonly maxConnections?: number | undefined
  /** Makes the data directory; default: a copy of the empty one. Its postgresql.conf is written afterwards. */
  readonly makeData?: MakeData | undefined
}

/** Fills a data directory that does not exist yet. Its files may belong to the user who runs the tests. */
export type MakeData = (directory: string) => Promise<void>

/** The signals PostgreSQL knows as its shutdown modes. */
export type StopMode = "smart" | "fast" | "immediate"

const signals = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const

/** One server. It keeps its port and data when it is stopped and started again. */
export interface ServerProcess {
  readonly url: string
  readonly port: number
  /** The postmaster's, of the last start. */
  readonly pid: () => number
  readonly socketDir: string
  /** The data directory. */
  readonly data: string
  readonly start: () => Promise<void>
  /** Waits until the server has ended; in `smart` mode that is when its clients have left. */
  readonly stop: (mode: StopMode) => Promise<void>
  readonly kill: () => Promise<void>
  readonly pause: () => Promise<void>
  readonly resume: () => void
  /** Changes settings, which a running server reads at once. */
  readonly configure: (settings: Readonly<Record<string, string>>) => void
  /** Writes a file into the data directory. */
  readonly put: (name: string, content: string) => void
  /** Replaces the data directory of a server that does not run. */
  readonly replaceData: (makeData: MakeData) => Promise<void>
  readonly dispose: () => Promise<void>
}

/** Parent and state of every process there is. */
const processes = (): ReadonlyArray<{ readonly pid: number; readonly parent: number; readonly state: string }> => {
  if (!Fs.existsSync("/proc/self/stat")) {
    const { stdout } = spawnSync("ps", ["-A", "-o", "pid=,ppid=,state="], { encoding: "utf8" })
    return stdout.trim().split("\n").map((line) => {
      const [pid, parent, state] = line.trim().split(/\s+/)
      return { pid: Number(pid), parent: Number(parent), state: state ?? "" }
    })
  }
  return Fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
    try {
      // The program's name, in parentheses, may contain anything.
      const stat = Fs.readFileSync(`/proc/${name}/stat`, "utf8")
      const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
      return [{ pid: Number(name), parent: Number(parent), state: state ?? "" }]
    } catch {
      return []
    }
  })
}

/** The processes whose parent this is. */
export const childrenOf = (parent: number): ReadonlyArray<number> =>
  processes().filter((process) => process.parent === parent).map(({ pid }) => pid)

/** Whether the process still runs: one that has ended and only waits to be reaped does not. */
export const isAlive = (pid: number): boolean =>
  processes().some((process) => process.pid === pid && !process.state.startsWith("Z"))

const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name)
  } catch (error) {
    // The process has already ended.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") {
      throw error
    }
  }
}

let ports = 0

/**
 * Finds a port that is not in use. A server that is restarted needs the same port again, so it is outside the system's range for
 * outgoing connections, and processes that run at the same time search different blocks.
 */
export const freePort = async (): Promise<number> => {
  for (;;) {
    const port = 20_000 + (process.pid % 240) * 50 + ports++ % 50
    const server = Net.createServer()
    try {
      server.listen({ port, host: "127.0.0.1", exclusive: true })
      await once(server, "listening")
      server.close()
      await once(server, "close")
      return port
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") {
        throw error
      }
    }
  }
}

const configuration = (settings: Readonly<Record<string, string>>): string =>
  Object.entries(settings).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`).join("")

/** Starts a server, in about half a second. */
export const makeServerProcess = async (
  installation: Installation,
  options: ServerOptions = {}
): Promise<ServerProcess> => {
  const { owner } = installation
  const socketDir = Fs.mkdtempSync(Path.join(installation.root, "s-"))
  const keeper = makeKeeper(socketDir)
  const data = Path.join(socketDir, "data")
  const logFile = Path.join(socketDir, "log")
  const pidFile = Path.join(data, "postmaster.pid")
  let child: ChildProcess | undefined
  let port = 0
  let sharedMemory: string | undefined
  let settings: Readonly<Record<string, string>> = {}

  const put = (name: string, content: string): void => {
    const path = Path.join(data, name)
    Fs.writeFileSync(path, content, { mode: 0o600 })
    chown(owner, path)
  }

  const writeConfiguration = (): void =>
    put(
      "postgresql.conf",
      Fs.readFileSync(Path.join(installation.template, "postgresql.conf"), "utf8") + configuration(settings)
    )

  const create = async (makeData: MakeData | undefined): Promise<void> => {
    const { hba, ssl } = options
    if (makeData === undefined) {
      await run(owner, "cp", "-Rp", installation.template, data)
    } else {
      await makeData(data)
      if (owner !== undefined) {
        await run(undefined, "chown", "-R", `${owner.uid >>> 0}:${owner.gid >>> 0}`, data)
      }
    }
    writeConfiguration()
    if (ssl !== undefined) {
      put("server.crt", ssl.cert)
      put("server.key", ssl.key)
      if (ssl.clientCa !== undefined) {
        put("clientCa.crt", ssl.clientCa)
      }
    }
    if (hba !== undefined) {
      put("pg_hba.conf", hba)
    }
  }

  const running = (): ChildProcess | undefined =>
    child !== undefined && child.exitCode === null && child.signalCode === null ? child : undefined

  const runningPid = (): number => {
    const pid = running()?.pid
    if (pid === undefined) {
      throw new Error("The server does not run")
    }
    return pid
  }

  /** None while there is no such file: a server that starts deletes that of a killed one before it writes its own. */
  const pidFileLines = (): ReadonlyArray<string> => {
    try {
      return Fs.readFileSync(pidFile, "utf8").split("\n")
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        throw error
      }
      return []
    }
  }

  const start = async (): Promise<void> => {
    if (running() !== undefined) {
      throw new Error("The server runs already")
    }
    const log = Fs.openSync(logFile, "a")
    const logged = Fs.fstatSync(log).size
    const started = spawn(Path.join(installation.native, "bin", "postgres"), ["-D", data, "-p", String(port)], {
      ...owner,
      cwd: data,
      // A session of its own: the terminal's Ctrl-C must not stop the server before the tests have ended.
      detached: true,
      env: environment(),
      stdio: ["ignore", log, log]
    })
    Fs.closeSync(log)
    child = started
    let failure: Error | undefined
    started.once("error", (error) => {
      failure = error
    })
    started.once("exit", () => keeper.watch())
    started.unref()
    if (started.pid !== undefined) {
      keeper.watch(started.pid)
    }
    const deadline = Date.now() + 60_000
    for (;;) {
      // The postmaster says on the last line of this file when it accepts connections.
      const lines = pidFileLines()
      if (lines[0] === String(started.pid) && /^(ready|standby)/.test(lines[7] ?? "")) {
        sharedMemory = lines[6]?.trim().split(/\s+/)[1]
        return
      }
      if (failure !== undefined || running() === undefined || Date.now() > deadline) {
        const said = Fs.readFileSync(logFile, "utf8").slice(logged)
        throw new Error(`PostgreSQL did not start: ${failure?.message ?? ""}\n${said}`)
      }
      await sleep(10)
    }
  }

  const firstStart = async (): Promise<void> => {
    for (let attempt = 1;; attempt++) {
      port = await freePort()
      try {
        return await start()
      } catch (error) {
        // Another process may have taken the port since it was found free.
        if (attempt === 5 || !String(error).includes("Address already in use")) {
          throw error
        }
      }
    }
  }

  const ended = async (postmaster: ChildProcess): Promise<void> => {
    if (postmaster.exitCode === null && postmaster.signalCode === null) {
      postmaster.ref()
      await once(postmaster, "exit")
    }
  }

  const stop = async (mode: StopMode): Promise<void> => {
    const postmaster = running()
    if (postmaster !== undefined) {
      signal(postmaster.pid!, signals[mode])
      await ended(postmaster)
    }
  }

  /** Suspends the postmaster first, so that it starts no more processes, then its children. Returns their process ids. */
  const freeze = async (): Promise<ReadonlyArray<number>> => {
    const pid = runningPid()
    signal(pid, "SIGSTOP")
    const deadline = Date.now() + 10_000
    for (;;) {
      for (const backend of childrenOf(pid)) {
        signal(backend, "SIGSTOP")
      }
      const family = processes().filter((process) => process.pid === pid || process.parent === pid)
      if (family.every(({ state }) => /^[TZ]/.test(state))) {
        return family.map((process) => process.pid).filter((member) => member !== pid)
      }
      if (Date.now() > deadline) {
        throw new Error("The server's processes did not stop")
      }
      await sleep(2)
    }
  }

  const pause = async (): Promise<void> => {
    const backends = await freeze()
    keeper.watch(runningPid(), ...backends)
  }

  const kill = async (): Promise<void> => {
    const postmaster = running()
    if (postmaster === undefined) {
      return
    }
    const backends = await freeze()
    for (const pid of [postmaster.pid!, ...backends]) {
      signal(pid, "SIGKILL")
    }
    await ended(postmaster)
    while (backends.some(isAlive)) {
      await sleep(5)
    }
  }

  const resume = (): void => {
    const pid = runningPid()
    for (const member of [...childrenOf(pid), pid]) {
      signal(member, "SIGCONT")
    }
    keeper.watch(pid)
  }

  const configure = (changes: Readonly<Record<string, string>>): void => {
    settings = { ...settings, ...changes }
    writeConfiguration()
    const pid = running()?.pid
    if (pid !== undefined) {
      signal(pid, "SIGHUP")
    }
  }

  /** A killed server does not free its shared memory segment. Without ipcrm its 56 bytes stay until the next boot. */
  const freeSharedMemory = (): void => {
    if (child?.signalCode === "SIGKILL" && sharedMemory !== undefined) {
      spawnSync("ipcrm", ["-m", sharedMemory], { stdio: "ignore" })
    }
  }

  const replaceData = async (makeData: MakeData): Promise<void> => {
    if (running() !== undefined) {
      throw new Error("The server runs")
    }
    freeSharedMemory()
    Fs.rmSync(data, { recursive: true, force: true })
    await create(makeData)
  }

  const dispose = async (): Promise<void> => {
    if (running() !== undefined) {
      resume()
      const timer = setTimeout(() => void kill(), 10_000)
      await stop("immediate")
      clearTimeout(timer)
    }
    freeSharedMemory()
    await keeper.end()
  }

  try {
    chown(owner, socketDir)
    const { ssl } = options
    settings = {
      listen_addresses: "127.0.0.1",
      unix_socket_directories: socketDir,
      max_connections: String(options.maxConnections ?? 100),
      shared_buffers: "32MB",
      max_wal_size: "128MB",
      // Killed servers would leave files in /dev/shm.
      dynamic_shared_memory_type: "mmap",
      timezone: "UTC",
      log_timezone: "UTC",
      ...(ssl && { ssl: "on", ssl_cert_file: "server.crt", ssl_key_file: "server.key" }),
      ...(ssl?.clientCa !== undefined && { ssl_ca_file: "clientCa.crt" }),
      ...options.config
    }
    await create(options.makeData)
    await firstStart()
  } catch (error) {
    await dispose()
    throw error
  }
  return {
    url: `postgres://${installation.username}:${installation.password}@127.0.0.1:${port}/postgres`,
    port,
    pid: () => child?.pid ?? 0,
    socketDir,
    data,
    start,
    stop,
    kill,
    pause,
    resume,
    configure,
    put,
    replaceData,
    dispose
  }
}
