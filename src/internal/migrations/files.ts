/**
 * Migrations in the files of a directory.
 */
import * as Effect from "effect/Effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { label, type Loader, MigrationError, type Resolved } from "./model.js"
import * as SqlText from "./sqlText.js"

const named = /^(\d+)_([^.]+)\.(sql|[cm]?[jt]s)$/

/** Whether a file that is not a migration is ignored, rather than refused as a misnamed migration. */
const isIgnored = (name: string, isDirectory: boolean): boolean =>
  /^[._]/.test(name) || /\.d\.[cm]?ts$/.test(name) || name.endsWith(".map") ||
  (!/^\d+_/.test(name) && (isDirectory || !/\.(?:sql|[cm]?[jt]s)$/.test(name)))

const reasonOf = (error: unknown): string => error instanceof Error ? error.message : String(error)

/** The hash of a text. Line ends and a byte order mark make no difference, since a git checkout may change them. */
export const checksum = (kind: string, text: string): string =>
  `${kind}:${Crypto.createHash("sha256").update(text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n")).digest("hex")}`

const importHint = (error: unknown): string =>
  error instanceof Error && "code" in error && error.code === "ERR_UNKNOWN_FILE_EXTENSION"
    ? "this Node.js loads no TypeScript by itself: compile it, or run with a loader (node --import tsx)"
    : reasonOf(error)

const resolved = (directory: string, file: string, [, digits, name, extension]: RegExpExecArray) =>
  Effect.gen(function*() {
    const path = Path.join(directory, file)
    const id = Number(digits)
    const migration = { id, name }
    const fail = (reason: string, cause: unknown) =>
      new MigrationError({
        kind: "load",
        id,
        migration: label(migration),
        message: `migration ${label(migration)} cannot be loaded from ${path}: ${reason}`,
        cause
      })
    const text = yield* Effect.tryPromise({
      try: () => Fs.readFile(path, "utf8"),
      catch: (error) => fail(reasonOf(error), error)
    })
    const load = extension === "sql" ? SqlText.migration(migration, text) : Effect.tryPromise({
      try: () => import(/* @vite-ignore */ /* webpackIgnore: true */ pathToFileURL(path).href),
      catch: (error) => fail(importHint(error), error)
    })
    return Object.assign([id, name, load] as const, { checksum: checksum(extension, text) }) satisfies Resolved
  })

/** The migrations among the entries of a directory. An entry that looks like a misnamed migration is refused. */
const migrationsAmong = (
  directory: string,
  entries: ReadonlyArray<{ readonly name: string; isDirectory(): boolean }>
) =>
  Effect.gen(function*() {
    const found: Array<readonly [string, RegExpExecArray]> = []
    for (const entry of entries) {
      const { name } = entry
      const match = entry.isDirectory() ? null : named.exec(name)
      if (match !== null) {
        found.push([name, match])
      } else if (!isIgnored(name, entry.isDirectory())) {
        return yield* new MigrationError({
          kind: "invalid",
          message: `${Path.join(directory, name)} is no migration: ` +
            `they are files called <number>_<name>.sql, .js, .mjs, .cjs, .ts, .mts or .cts (0001_create_account.sql)`
        })
      }
    }
    return found
  })

export const fromDirectory = (directory: string | URL): Loader =>
  Effect.gen(function*() {
    if (directory === "") {
      return yield* new MigrationError({ kind: "invalid", message: "the directory of the migrations has no name" })
    }
    const path = yield* Effect.try({
      try: () => directory instanceof URL ? fileURLToPath(directory) : Path.resolve(directory),
      catch: (cause) =>
        new MigrationError({
          kind: "invalid",
          message: `the directory of the migrations is ${String(directory)}: a path or a file: URL is accepted`,
          cause
        })
    })
    const entries = yield* Effect.tryPromise({
      try: () => Fs.readdir(path, { withFileTypes: true }),
      catch: (error) =>
        new MigrationError({
          kind: "load",
          message: `the directory of the migrations cannot be read: ${reasonOf(error)}`,
          cause: error
        })
    })
    return yield* Effect.forEach(
      yield* migrationsAmong(path, entries),
      ([file, match]) => resolved(path, file, match)
    )
  })
