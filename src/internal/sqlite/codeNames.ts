/**
 * The names of SQLite's result codes by their numbers: https://sqlite.org/rescode.html.
 */

/** The code of a request that was refused because the file was deleted or replaced. The connection is then unusable. */
export const fileMoved = "SQLITE_READONLY_DBMOVED"

/** The names of the primary codes, which are the low byte of an extended code: those from 0, and two from 100. */
const primaryNames: ReadonlyMap<number, string> = new Map([
  ...("OK ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL CANTOPEN " +
    "PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE NOTADB NOTICE WARNING").split(" ")
    .entries(),
  [100, "ROW"],
  [101, "DONE"]
])

/** The name of the primary code of a code. Undefined if there is none. */
export const nameOfPrimary = (code: number): string | undefined => {
  const name = primaryNames.get(code & 0xff)
  return name === undefined ? undefined : `SQLITE_${name}`
}

/** By the name of a primary code, the second parts of its extended codes from 1, the second byte of the number. */
const extensions: { readonly [primary: string]: string } = {
  OK: "LOAD_PERMANENTLY SYMLINK",
  ERROR: "MISSING_COLLSEQ RETRY SNAPSHOT RESERVESIZE KEY UNABLE",
  ABORT: "- ROLLBACK",
  BUSY: "RECOVERY SNAPSHOT TIMEOUT",
  LOCKED: "SHAREDCACHE VTAB",
  READONLY: "RECOVERY CANTLOCK ROLLBACK DBMOVED CANTINIT DIRECTORY",
  IOERR: "READ SHORT_READ WRITE FSYNC DIR_FSYNC TRUNCATE FSTAT UNLOCK RDLOCK DELETE BLOCKED NOMEM ACCESS " +
    "CHECKRESERVEDLOCK LOCK CLOSE DIR_CLOSE SHMOPEN SHMSIZE SHMLOCK SHMMAP SEEK DELETE_NOENT MMAP GETTEMPPATH " +
    "CONVPATH VNODE AUTH BEGIN_ATOMIC COMMIT_ATOMIC ROLLBACK_ATOMIC DATA CORRUPTFS IN_PAGE BADKEY CODEC",
  CORRUPT: "VTAB SEQUENCE INDEX",
  CANTOPEN: "NOTEMPDIR ISDIR FULLPATH CONVPATH DIRTYWAL SYMLINK",
  CONSTRAINT: "CHECK COMMITHOOK FOREIGNKEY FUNCTION NOTNULL PRIMARYKEY TRIGGER UNIQUE VTAB ROWID PINNED DATATYPE",
  AUTH: "USER",
  NOTICE: "RECOVER_WAL RECOVER_ROLLBACK RBU",
  WARNING: "AUTOINDEX"
}

/** The name of an extended code, or of its primary code if it is newer than this table. */
export const nameOfCode = (code: number): string => {
  const primary = primaryNames.get(code & 0xff)
  if (primary === undefined) {
    return `UNKNOWN_SQLITE_ERROR_${code}`
  }
  const extension = extensions[primary]?.split(" ")[(code >> 8) - 1]
  return `SQLITE_${primary}${extension === undefined || extension === "-" ? "" : `_${extension}`}`
}
