/**
 * A cluster as operators have it: three PostgreSQL servers under Patroni with etcd, and HAProxy in front, from Debian's packages.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import { once } from "node:events"
import * as Fs from "node:fs"
import type { Socket } from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { query } from "./client.js"
import { eventually } from "./eventually.js"
import { chown, environment, type Owner } from "./installation.js"
import { freePort, isAlive } from "./serverProcess.js"

const existing = (...paths: ReadonlyArray<string>) => paths.find((path) => Fs.existsSync(path))

/** PostgreSQL's programs of the newest version that Debian's packages have installed. */
const postgresBin = (): string | undefined => {
  const root = "/usr/lib/postgresql"
  const versions = Fs.existsSync(root) ? Fs.readdirSync(root).map(Number).sort((a, b) => b - a) : []
  return versions.map((version) => Path.join(root, String(version), "bin")).find((bin) =>
    ["postgres", "initdb", "pg_basebackup", "pg_rewind"].every((program) => Fs.existsSync(Path.join(bin, program)))
  )
}

const programs = {
  patroni: existing("/usr/bin/patroni"),
  etcd: existing("/usr/bin/etcd"),
  haproxy: existing("/usr/sbin/haproxy"),
  postgres: postgresBin()
}

/** The programs that are not installed here, by name; without them there is no cluster. */
export const missing: ReadonlyArray<string> = Object.entries(programs)
  .filter(([, path]) => path === undefined)
  .map(([name]) => name)

/** One server and its Patroni. */
export interface Node {
  readonly name: string
  /** Past HAProxy, as superuser. */
  readonly url: string
}

export interface PatroniCluster {
  readonly nodes: ReadonlyArray<Node>
  /** HAProxy's port of the leader, as superuser. */
  readonly writerUrl: string
  /** HAProxy's port of the replicas. */
  readonly readerUrl: string
  /** The node that is the leader now, as Patroni's REST API says. */
  readonly leader: Effect.Effect<Node>
  /** A planned switchover to another node, which completes when that one is the leader. */
  readonly switchover: Effect.Effect<Node>
  /** SIGKILL to the leader and its Patroni, as when a machine dies. Completes when another node is the leader. */
  readonly killLeader: Effect.Effect<Node>
}

/** The user `postgres` of Debian's packages, if this one is root, which PostgreSQL refuses to run as. */
const owner = (): Owner | undefined => {
  const fields = Fs.readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"))
    .find(([name]) => name === "postgres")
  return process.getuid?.() !== 0 || fields === undefined
    ? undefined
    : { uid: Number(fields[2]), gid: Number(fields[3]) }
}

// Ends everything that works within the directory, when its input ends: also when this process is killed. Patroni first, which
// would start PostgreSQL again, and PostgreSQL so that it frees its shared memory.
const keeperScript = `
trap '' HUP INT TERM
directory=$1
within() { find /proc -mindepth 2 -maxdepth 2 -name cwd -lname "$directory$1*" 2>/dev/null | cut -d / -f 3; }
read -r _
for pid in $(within /patroni); do kill -KILL "$pid"; done
for file in "$directory"/data/*/postmaster.pid; do
  pid=$(head -n 1 "$file")
  [ "$(readlink "/proc/$pid/cwd")" = "\${file%/*}" ] && kill -QUIT "$pid"
done
n=0
while [ -n "$(within /data)" ] && [ "$n" -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
for pid in $(within ""); do kill -KILL "$pid"; done
rm -rf -- "$directory"
n=0
while [ -e "$directory" ] && [ "$n" -lt 50 ]; do sleep 0.1; n=$((n + 1)); rm -rf -- "$directory"; done
`

/** A directory whose processes end, and that is removed, when the scope closes or this process ends. */
const workingDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-patroni-"))
      const keeper = spawn("/bin/sh", ["-c", keeperScript, "keeper", directory], {
        cwd: "/",
        detached: true,
        stdio: ["pipe", "ignore", "ignore"]
      })
      const exited = once(keeper, "exit")
      keeper.unref()
      const input = keeper.stdin as Socket
      input.unref()
      return {
        directory,
        end: async () => {
          keeper.ref()
          input.end()
          await exited
        }
      }
    }),
    ({ end }) => Effect.promise(end)
  ),
  ({ directory }) => directory
)

const indented = (settings: Readonly<Record<string, string | number>>, spaces: number): string =>
  Object.entries(settings).map(([name, value]) => `${" ".repeat(spaces)}${name}: ${JSON.stringify(value)}\n`).join("")

/** Starts all of it, in about ten seconds. It ends when the scope closes. */
export const patroni: Effect.Effect<PatroniCluster, never, Scope.Scope> = Effect.gen(function*() {
  const user = owner()
  const directory = yield* workingDirectory
  const password = randomBytes(12).toString("hex")
  const makeDirectory = (name: string): string => {
    const path = Path.join(directory, name)
    Fs.mkdirSync(path, { mode: 0o700 })
    chown(user, path)
    return path
  }
  chown(user, directory)
  const port = Effect.promise(freePort)
  const log = (name: string) => Path.join(directory, `${name}.log`)
  const start = (name: string, cwd: string, program: string, ...args: ReadonlyArray<string>): ChildProcess => {
    const output = Fs.openSync(log(name), "a")
    const child = spawn(program, args, {
      ...user,
      cwd,
      detached: true,
      env: environment(),
      stdio: ["ignore", output, output]
    })
    Fs.closeSync(output)
    child.unref()
    return child
  }

  const etcdPort = yield* port
  const peerPort = yield* port
  const etcdDirectory = makeDirectory("etcd")
  start(
    "etcd",
    etcdDirectory,
    programs.etcd!,
    "--name",
    "etcd",
    "--data-dir",
    Path.join(etcdDirectory, "data"),
    "--unsafe-no-fsync",
    "--listen-client-urls",
    `http://127.0.0.1:${etcdPort}`,
    "--advertise-client-urls",
    `http://127.0.0.1:${etcdPort}`,
    "--listen-peer-urls",
    `http://127.0.0.1:${peerPort}`,
    "--initial-advertise-peer-urls",
    `http://127.0.0.1:${peerPort}`,
    "--initial-cluster",
    `etcd=http://127.0.0.1:${peerPort}`
  )

  makeDirectory("data")
  makeDirectory("patroni")
  const nodes: Array<Node & { readonly restPort: number; readonly port: number; readonly patroni: ChildProcess }> = []
  for (const name of ["node1", "node2", "node3"]) {
    const serverPort = yield* port
    const restPort = yield* port
    const cwd = makeDirectory(Path.join("patroni", name))
    const file = Path.join(cwd, "patroni.yml")
    Fs.writeFileSync(
      file,
      `scope: ledger
name: ${name}
restapi:
  listen: 127.0.0.1:${restPort}
  connect_address: 127.0.0.1:${restPort}
etcd3:
  host: 127.0.0.1:${etcdPort}
bootstrap:
  dcs:
    ttl: 10
    loop_wait: 1
    retry_timeout: 4
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 60
        wal_log_hints: "on"
  initdb:
    - encoding: UTF8
    - locale: C
    - no-sync
postgresql:
  listen: 127.0.0.1:${serverPort}
  connect_address: 127.0.0.1:${serverPort}
  data_dir: ${Path.join(directory, "data", name)}
  bin_dir: ${programs.postgres}
  pgpass: ${Path.join(cwd, "pgpass")}
  authentication:
    superuser:
      username: postgres
      password: ${password}
    replication:
      username: replicator
      password: ${password}
    rewind:
      username: postgres
      password: ${password}
  pg_hba:
    - local all all trust
    - host replication replicator 127.0.0.1/32 scram-sha-256
    - host all all 127.0.0.1/32 scram-sha-256
  parameters:
${
        indented({
          unix_socket_directories: cwd,
          fsync: "off",
          shared_buffers: "16MB",
          dynamic_shared_memory_type: "mmap",
          password_encryption: "scram-sha-256"
        }, 4)
      }`,
      { mode: 0o600 }
    )
    chown(user, file)
    nodes.push({
      name,
      restPort,
      port: serverPort,
      url: `postgres://postgres:${password}@127.0.0.1:${serverPort}/postgres`,
      patroni: start(name, cwd, programs.patroni!, file)
    })
  }

  const writerPort = yield* port
  const readerPort = yield* port
  const haproxyDirectory = makeDirectory("haproxy")
  const haproxyFile = Path.join(haproxyDirectory, "haproxy.cfg")
  const listen = (name: string, at: number, check: string) =>
    `listen ${name}
  bind 127.0.0.1:${at}
  option httpchk OPTIONS ${check}
  http-check expect status 200
  default-server inter 300ms fall 2 rise 1 on-marked-down shutdown-sessions
${
      nodes.map((node) => `  server ${node.name} 127.0.0.1:${node.port} maxconn 100 check port ${node.restPort}\n`)
        .join("")
    }`
  Fs.writeFileSync(
    haproxyFile,
    `global
  maxconn 500
defaults
  mode tcp
  retries 2
  timeout connect 2s
  timeout client 10m
  timeout server 10m
  timeout check 1s
${listen("writer", writerPort, "/primary")}${listen("reader", readerPort, "/replica")}`
  )
  chown(user, haproxyFile)
  start("haproxy", haproxyDirectory, programs.haproxy!, "-db", "-f", haproxyFile)

  const is = (node: { readonly restPort: number }, what: string) =>
    Effect.promise(() =>
      fetch(`http://127.0.0.1:${node.restPort}/${what}`, { signal: AbortSignal.timeout(2_000) }).then(
        (response) => response.status === 200,
        () => false
      )
    )
  const leaders = Effect.filter(nodes, (node) => is(node, "primary"))
  const leader = Effect.map(leaders, ([first]) => {
    if (first === undefined) {
      throw new Error("The cluster has no leader")
    }
    return first
  })
  const isSynchronous = Effect.map(Effect.filter(nodes, (node) => is(node, "synchronous")), ({ length }) => length > 0)
  const logs = Effect.sync(() =>
    ["etcd", "haproxy", ...nodes.map(({ name }) => name)].map((name) =>
      `--- ${name}\n${Fs.existsSync(log(name)) ? Fs.readFileSync(log(name), "utf8").slice(-3_000) : ""}`
    ).join("\n")
  )
  const within = (condition: Effect.Effect<boolean>) =>
    eventually(condition, { timeout: "90 seconds" }).pipe(
      Effect.catchAllDefect((defect) => Effect.flatMap(logs, (text) => Effect.dieMessage(`${String(defect)}\n${text}`)))
    )
  const hasChanged = (former: Node) =>
    Effect.zipRight(within(Effect.map(leaders, (now) => now.length === 1 && now[0] !== former)), leader)
  const url = (at: number) => `postgres://postgres:${password}@127.0.0.1:${at}/postgres`
  const accepts = (at: number) =>
    query(url(at), "SELECT 1").pipe(
      Effect.timeout("2 seconds"),
      Effect.matchCause({ onFailure: () => false, onSuccess: () => true })
    )

  yield* within(isSynchronous)
  yield* within(
    Effect.map(Effect.filter(nodes, (node) => is(node, "replica")), ({ length }) => length === nodes.length - 1)
  )
  yield* within(accepts(writerPort))
  yield* within(accepts(readerPort))

  return {
    nodes,
    writerUrl: url(writerPort),
    readerUrl: url(readerPort),
    leader,
    switchover: Effect.gen(function*() {
      yield* within(isSynchronous)
      const former = yield* leader
      yield* Effect.promise(async () => {
        const response = await fetch(`http://127.0.0.1:${former.restPort}/switchover`, {
          method: "POST",
          body: JSON.stringify({ leader: former.name })
        })
        if (response.status !== 200) {
          throw new Error(`Patroni answers ${response.status}: ${await response.text()}`)
        }
      })
      return yield* hasChanged(former)
    }),
    killLeader: Effect.gen(function*() {
      yield* within(isSynchronous)
      const former = yield* leader
      yield* Effect.promise(async () => {
        const lines = Fs.readFileSync(Path.join(directory, "data", former.name, "postmaster.pid"), "utf8").split("\n")
        const postmaster = Number(lines[0])
        for (const pid of [former.patroni.pid!, postmaster]) {
          process.kill(pid, "SIGKILL")
        }
        while (isAlive(postmaster)) {
          await sleep(10)
        }
        // A killed server does not free its shared memory segment.
        spawnSync("ipcrm", ["-m", lines[6].trim().split(/\s+/)[1]], { stdio: "ignore" })
      })
      return yield* hasChanged(former)
    })
  }
})
