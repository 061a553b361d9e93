/**
 * A real PgBouncer in front of a server, from Debian's package.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { eventually } from "./eventually.js"
import { scopedProcess } from "./scopedProcess.js"
import { freePort } from "./serverProcess.js"
import { connectError } from "./tcp.js"

const candidates = [
  process.env.PGBOUNCER,
  "/usr/sbin/pgbouncer",
  "/usr/local/bin/pgbouncer",
  "/opt/homebrew/bin/pgbouncer"
]

const binary = candidates.find((path) => path !== undefined && Fs.existsSync(path))

/** Whether there is one on this machine. */
export const isInstalled = binary !== undefined

/** Starts one for the database of a URL, and gives the URL through it. It ends when the scope closes. */
export const pgbouncer = (
  url: string,
  mode: "session" | "transaction",
  serverConnections: number
): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { hostname, password, pathname, port: serverPort, username } = new URL(url)
    const database = pathname.slice(1)
    const port = yield* Effect.promise(freePort)
    const directory = yield* Effect.acquireRelease(
      Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-pgbouncer-"))),
      (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true }))
    )
    const file = Path.join(directory, "pgbouncer.ini")
    const isRoot = process.getuid?.() === 0
    Fs.writeFileSync(
      file,
      `[databases]
${database} = host=${hostname} port=${serverPort} dbname=${database} user=${username} password=${password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${mode}
default_pool_size = ${serverConnections}
max_client_conn = 100
server_reset_query_always = 0
ignore_startup_parameters = extra_float_digits,options
${isRoot ? "user = nobody" : ""}
`
    )
    Fs.chmodSync(directory, 0o755)
    yield* scopedProcess(() => spawn(binary!, ["-q", file], { stdio: "ignore" }))
    yield* eventually(Effect.map(connectError(port), (code) => code === undefined))
    return `postgres://${username}:${password}@127.0.0.1:${port}/${database}`
  })
