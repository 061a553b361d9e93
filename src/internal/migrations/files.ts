/**
 * Migrations in the files of a directory.
 */
import * as Effect from "effect/Effect"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { Dialect } from "../../DatabaseError.js"
import { decode } from "./encoding.js"
import { type Loader, type Migration, MigrationError, migrationOf, type Options, type Resolved } from "./model.js"
import * as SqlText from "./sqlText.js"

/** `0001_create_account.sql`, `0001_create_account.sqlite.sql`, `0001_create_account.down.sql`. */
const named = /^(\d+)_([^.]+)(?:\.(?!down\.)([^.]+))?(\.down)?\.(sql|[cm]?[jt]s)$/

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
    ? "this version of Node.js does not load TypeScript: compile it, or run with a loader (node --import tsx)"
    : reasonOf(error)

/** A file of a migration, as its name describes it. */
interface File {
  readonly path: string
  readonly migration: Migration
  readonly label: string
  /** What follows the name: the dialect that it is for, or nothing. */
  readonly suffix: string | undefined
  /** The dialect that it is for. */
  readonly options: Pick<Options, "dialect">
  readonly isDown: boolean
  readonly extension: string
}

/** The file that a name describes. Undefined if it is not the name of a migration. */
const fileOf = (directory: string, name: string): File | undefined => {
  const [, digits, text, suffix, down, extension] = named.exec(name) ?? []
  const known = Dialect.literals.find((name) => name === suffix)
  if (digits === undefined || (suffix !== undefined && known === undefined)) {
    return undefined
  }
  const label = `${digits}_${text}`
  return {
    path: Path.join(directory, name),
    migration: migrationOf(Object.assign([Number(digits), text, Effect.void] as const, { label })),
    label,
    suffix,
    options: known === undefined ? {} : { dialect: known },
    isDown: down !== undefined,
    extension
  }
}

/** The content of a file. */
const read = ({ extension, isDown, label, migration, options: given, path }: File) =>
  Effect.gen(function*() {
    const fail = (reason: string, cause?: unknown) =>
      new MigrationError({
        kind: "load",
        id: migration.id,
        migration: label,
        message: `migration ${label} cannot be loaded from ${path}: ${reason}`,
        ...(cause === undefined ? {} : { cause })
      })
    const bytes = yield* Effect.tryPromise({
      try: () => Fs.readFile(path),
      catch: (error) => fail(reasonOf(error), error)
    })
    if (extension !== "sql") {
      const load = Effect.tryPromise({
        try: () => import(/* @vite-ignore */ /* webpackIgnore: true */ pathToFileURL(path).href),
        catch: (error) => fail(importHint(error), error)
      })
      return { load, options: given, checksum: checksum(extension, bytes.toString("utf8")), text: undefined }
    }
    const decoded = decode(bytes)
    if (decoded._tag === "NotUtf8") {
      return yield* new MigrationError({
        kind: "invalid",
        id: migration.id,
        migration: label,
        message: `migration ${label}: ${path} is not UTF-8, but ${decoded.encoding}: save it as UTF-8; nothing was run`
      })
    }
    const { text } = decoded
    const name = Path.basename(path)
    const options = yield* SqlText.withHeaders(migration, text, given, name)
    if (isDown && options.transaction !== undefined) {
      return yield* SqlText.invalidText(migration, "a migration is always taken back in a transaction", name)
    }
    return { load: SqlText.migration(migration, text, options), options, checksum: checksum(extension, text), text }
  })

const misnamed = (path: string): MigrationError =>
  new MigrationError({
    kind: "invalid",
    message:
      `${path} is not a migration: migrations are files called <number>_<name>.sql, .js, .mjs, .cjs, .ts, .mts or .cts ` +
      `(0001_create_account.sql)`
  })

/** The migrations among the entries of a directory. An entry that looks like a misnamed migration is refused. */
export const filesAmong = (
  directory: string,
  entries: ReadonlyArray<{ readonly name: string; isDirectory(): boolean }>
): Effect.Effect<ReadonlyArray<File>, MigrationError> =>
  Effect.suspend(() => {
    const files: Array<File> = []
    for (const entry of entries) {
      const { name } = entry
      const file = entry.isDirectory() ? undefined : fileOf(directory, name)
      if (file !== undefined) {
        files.push(file)
      } else if (!isIgnored(name, entry.isDirectory())) {
        return Effect.fail(misnamed(Path.join(directory, name)))
      }
    }
    return Effect.succeed(files)
  })

/** The migrations of files. A migration may have a second file, which takes it back. */
const resolved = (files: ReadonlyArray<File>) =>
  Effect.gen(function*() {
    const downs = files.filter(({ isDown }) => isDown)
    const ups = files.filter(({ isDown }) => !isDown)
    const isOf = (down: File) => (up: File) => up.label === down.label && up.suffix === down.suffix
    for (const down of downs) {
      if (!ups.some(isOf(down))) {
        return yield* SqlText.invalidText(down.migration, `${Path.basename(down.path)} has no migration to take back`)
      }
    }
    return yield* Effect.forEach(ups, (up) =>
      Effect.gen(function*() {
        const { load, ...content } = yield* read(up)
        const down = downs.find((down) => isOf(down)(up))
        return Object.assign([up.migration.id, up.migration.name, load] as const, {
          ...content,
          label: up.label,
          down: down === undefined ? undefined : yield* read(down)
        }) satisfies Resolved
      }))
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
    return yield* resolved(yield* filesAmong(path, entries))
  })
