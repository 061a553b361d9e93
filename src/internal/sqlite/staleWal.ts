/**
 * Recognizes a WAL that was left behind by another file of the same name. SQLite would add its transactions to a backup that
 * took the file's place, since nothing in a WAL tells which file it belongs to. This does not use Effect, so that a worker
 * thread need not load it.
 *
 * The format: https://sqlite.org/fileformat.html#walformat
 */
import * as Fs from "node:fs"

export const walOf = (filename: string): string => `${filename}-wal`

/** The size of the WAL in bytes. Undefined if there is none. */
export const walSizeOf = (filename: string): number | undefined => {
  try {
    return Fs.statSync(walOf(filename), { throwIfNoEntry: false })?.size
  } catch {
    return undefined
  }
}

const headerSize = 32
const frameHeaderSize = 24

/** Reads a part of an open file. Undefined if the file ends before. */
const readAt = (file: number, length: number, position: number): Buffer | undefined => {
  const bytes = Buffer.alloc(length)
  return Fs.readSync(file, bytes, 0, length, position) === length ? bytes : undefined
}

const withFile = <A>(filename: string, f: (file: number) => A): A => {
  const file = Fs.openSync(filename, "r")
  try {
    return f(file)
  } finally {
    Fs.closeSync(file)
  }
}

/** One byte of a file. Undefined if the file ends before. */
export const byteAt = (filename: string, position: number): number | undefined =>
  withFile(filename, (file) => readAt(file, 1, position)?.[0])

/** Whether a page of the file is the same as in the WAL, as it is once a part of the WAL was written into the file. */
const hasPageOfWal = (filename: string): boolean => {
  try {
    return readPages(filename)
  } catch {
    // If it cannot be read now, the WAL counts as that of the file.
    return true
  }
}

const readPages = (filename: string): boolean =>
  withFile(walOf(filename), (wal) => {
    const header = readAt(wal, headerSize, 0)
    if (header === undefined) {
      return true
    }
    const size = header.readUInt32BE(8)
    const salts = header.subarray(16, 24)
    return withFile(filename, (database) => {
      let position = headerSize
      for (;;) {
        const frame = readAt(wal, frameHeaderSize + size, position)
        if (frame === undefined || !frame.subarray(8, 16).equals(salts)) {
          // A WAL without frames adds nothing.
          return position === headerSize
        }
        const page = readAt(database, size, (frame.readUInt32BE(0) - 1) * size)
        if (page !== undefined && page.equals(frame.subarray(frameHeaderSize))) {
          return true
        }
        position += frameHeaderSize + size
      }
    })
  })

/** Whether a program writes to the WAL right now: it may have begun anew after its pages were written into the file. */
const isWritten = (filename: string, { ino, mtimeMs }: Fs.Stats): boolean => {
  const now = Fs.statSync(walOf(filename), { throwIfNoEntry: false })
  return now === undefined || now.mtimeMs !== mtimeMs || now.ino !== ino
}

/** Keeps the WAL under another name, and deletes the shared memory. Returns the name. */
export const setAsideWal = (filename: string): string => {
  const kept = `${walOf(filename)}.replaced`
  Fs.renameSync(walOf(filename), kept)
  Fs.rmSync(`${filename}-shm`, { force: true })
  return kept
}

/** Moving a file changes its inode's time (ctime) and keeps that of its content (mtime). Writing sets both to one time. */
const minDifference = 2

/**
 * Why a WAL does not belong to the file. Undefined if it does, and if this cannot find out: the file may be a backup of
 * the same database that was made after the WAL began and was copied into place.
 *
 * The process must have no connection to the file: reading the file here would release the locks of that connection.
 */
export const describeStaleWal = (filename: string): string | undefined => {
  const file = Fs.statSync(filename, { throwIfNoEntry: false })
  const wal = Fs.statSync(walOf(filename), { throwIfNoEntry: false })
  if (file === undefined || wal === undefined || file.size === 0 || wal.size <= headerSize) {
    return undefined
  }
  // Where the owner of both was changed, or both were moved here, they belong together.
  const isTouched = ({ ctimeMs, mtimeMs }: Fs.Stats) => ctimeMs - mtimeMs > minDifference
  const isMoved = file.ctimeMs > wal.ctimeMs && isTouched(file) && !isTouched(wal)
  const isWrittenLater = file.mtimeMs > wal.mtimeMs
  if (!isMoved && !(isWrittenLater && !hasPageOfWal(filename) && !isWritten(filename, wal))) {
    return undefined
  }
  const what = isMoved ? "was moved here, or linked, after" : "was written by another program after"
  return `the file ${what} its WAL was written: the WAL may belong to another file, and would be added to this one. After a ` +
    `restore delete ${walOf(filename)} and ${filename}-shm; if they belong together, touch ${walOf(filename)}`
}
