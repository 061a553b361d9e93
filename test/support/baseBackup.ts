/**
 * Copies of a server's data directory: a base backup of one that runs, and a copy of one that is stopped. The embedded binaries
 * lack pg_basebackup.
 */
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { withClient } from "./client.js"
import type { MakeData, ServerProcess } from "./serverProcess.js"

// What pg_basebackup leaves out: https://www.postgresql.org/docs/18/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP-DATA
const emptied = /^(pg_dynshmem|pg_notify|pg_replslot|pg_serial|pg_snapshots|pg_stat_tmp|pg_subtrans|pg_wal)\/[^/]+$/
const omitted = /^(postmaster\.(pid|opts)|standby\.signal|backup_label.*|.*pg_internal\.init.*|(.*\/)?pgsql_tmp.*)$/

const copyTree = async (
  source: string,
  target: string,
  isOmitted: (path: string, isDirectory: boolean) => boolean
): Promise<void> => {
  const copyDirectory = async (path: string): Promise<void> => {
    await Fs.mkdir(Path.join(target, path), { mode: 0o700 })
    const entries = await Fs.readdir(Path.join(source, path), { withFileTypes: true })
    await Promise.all(entries.map(async (entry) => {
      const inner = Path.join(path, entry.name)
      if (isOmitted(inner, entry.isDirectory())) {
        return
      }
      if (entry.isDirectory()) {
        return copyDirectory(inner)
      }
      try {
        await Fs.copyFile(Path.join(source, inner), Path.join(target, inner))
      } catch (error) {
        // A running server may have removed it since.
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
          throw error
        }
      }
    }))
  }
  await copyDirectory("")
}

/** A base backup of a running server, for a standby, which gets its WAL by streaming. */
export const baseBackup = (server: ServerProcess): MakeData => (directory) =>
  withClient({ connectionString: server.url }, async (client) => {
    await client.query("SELECT pg_backup_start('test', fast => true)")
    await copyTree(
      server.data,
      directory,
      (path, isDirectory) =>
        omitted.test(path) ||
        emptied.test(path) && !(isDirectory && /^pg_wal\/(archive_status|summaries)$/.test(path))
    )
    const { rows: [{ labelfile }] } = await client.query(
      "SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)"
    )
    await Fs.writeFile(Path.join(directory, "backup_label"), labelfile, { mode: 0o600 })
  })

/** A copy of a server that does not run, with all of its WAL. */
export const coldCopy = (server: ServerProcess): MakeData => (directory) =>
  copyTree(server.data, directory, (path) => omitted.test(path))
