/**
 * Writes a backup to a file atomically: the destination has either the complete backup or its previous content. This
 * does not use Effect, so that a worker thread need not load it.
 */
import { randomBytes } from "node:crypto"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { memory, SqliteError } from "./binding.js"
import { byteAt, walOf } from "./staleWal.js"

/** An error of the file system as SQLite's error for a file that cannot be opened. */
const cannotWrite = (error: unknown): SqliteError =>
  new SqliteError(
    `the backup cannot be written: ${error instanceof Error ? error.message : String(error)}`,
    "SQLITE_CANTOPEN"
  )

const refuse = (reason: string): never => {
  throw new SqliteError(reason, "SQLITE_CANTOPEN")
}

const isSame = (a: Fs.Stats, b: Fs.Stats | undefined): boolean => b !== undefined && a.dev === b.dev && a.ino === b.ino

/** The file that SQLite would apply to a file of that name when it opens it: a WAL or a hot journal. */
const recoveredFrom = (target: string): string | undefined => {
  const wal = walOf(target)
  if (Fs.existsSync(wal)) {
    return wal
  }
  const journal = `${target}-journal`
  // The first byte of a journal that is kept after its commit is zero.
  return Fs.existsSync(journal) && (byteAt(journal, 0) ?? 0) !== 0 ? journal : undefined
}

const checkRecovery = (target: string): void => {
  const recovered = recoveredFrom(target)
  if (recovered !== undefined) {
    refuse(
      `the destination has a ${
        recovered === walOf(target) ? "WAL" : "journal"
      }, ${recovered}, which would be added to the ` +
        "backup: another program has it open, or was killed"
    )
  }
}

/** The file that a backup replaces: that of a link, if the destination is one. Throws if it must not be replaced. */
const targetOf = (
  destination: string,
  source: string
): { readonly target: string; readonly mode: number | undefined } => {
  if (destination.trim() === "" || destination === memory) {
    return refuse("a backup needs the name of a file")
  }
  const stats = Fs.statSync(destination, { throwIfNoEntry: false })
  if (stats === undefined && Fs.lstatSync(destination, { throwIfNoEntry: false }) !== undefined) {
    // A link whose file does not exist yet.
    return targetOf(Path.resolve(Fs.realpathSync(Path.dirname(destination)), Fs.readlinkSync(destination)), source)
  }
  const target = stats === undefined ? Path.resolve(destination) : Fs.realpathSync(destination)
  const copied = Path.resolve(source)
  if (
    [copied, walOf(copied), `${copied}-shm`, `${copied}-journal`].some((own) =>
      target === own || (stats !== undefined && isSame(stats, Fs.statSync(own, { throwIfNoEntry: false })))
    )
  ) {
    return refuse("a backup cannot replace the file that it copies, its WAL or its journal")
  }
  if (stats?.isFile() === false || destination.endsWith(Path.sep)) {
    return refuse("the destination of a backup has to be a file")
  }
  checkRecovery(target)
  return { target, mode: stats === undefined ? undefined : stats.mode & 0o777 }
}

const sync = (path: string, flags: string): void => {
  const file = Fs.openSync(path, flags)
  try {
    Fs.fsyncSync(file)
  } finally {
    Fs.closeSync(file)
  }
}

/** Makes the new name survive a loss of power. Windows cannot open a directory, so nothing is done there. */
const syncDirectory = (path: string): void => {
  if (process.platform !== "win32") {
    sync(path, "r")
  }
}

/**
 * Lets `write` copy the database `source` to a new file next to the destination, and renames that to the destination
 * when it is complete. If this fails or is canceled, the new file is removed and the destination stays as it was.
 */
export const writeBackup = async <A>(
  destination: string,
  source: string,
  write: (filename: string) => Promise<A>
): Promise<A> => {
  let incomplete: string | undefined
  try {
    const { mode, target } = targetOf(destination, source)
    const filename = `${target}-${randomBytes(4).toString("hex")}.incomplete`
    incomplete = filename
    const result = await write(filename)
    if (mode !== undefined) {
      Fs.chmodSync(filename, mode)
    }
    sync(filename, "r+")
    checkRecovery(target)
    Fs.renameSync(filename, target)
    syncDirectory(Path.dirname(target))
    return result
  } catch (error) {
    if (incomplete !== undefined) {
      Fs.rmSync(incomplete, { force: true })
      Fs.rmSync(`${incomplete}-journal`, { force: true })
    }
    // Errors of Node's file system name their syscall, and those of SQLite do not.
    throw error instanceof Error && "syscall" in error ? cannotWrite(error) : error
  }
}
