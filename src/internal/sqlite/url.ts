/**
 * SQLite's URLs: SQLAlchemy's `sqlite:///relative.db` and `sqlite:////absolute.db`, and SQLite's own `file:` URIs.
 */
import { cut, decode, formatQuery, mask, mayHoldSecret, problem, query, type Reading } from "../config/text.js"
import { booleanOf } from "./pragmas.js"

/** The file name of a database in memory. The configuration does not load `binding.ts`, which has the same for the engine. */
export const memory = ":memory:"

/** The parts of a URL. */
export interface SqliteUrl {
  readonly _tag: "sqlite"
  /** A path, or `:memory:`. */
  readonly filename: string
  readonly readOnly: boolean
  readonly mustExist?: boolean | undefined
  readonly immutable?: boolean | undefined
  /** In seconds. `target.ts` validates it. */
  readonly timeout?: string | undefined
}

/** The value of a URL that cannot be parsed. */
const inMemory: SqliteUrl = { _tag: "sqlite", filename: memory, readOnly: false }

const modes: ReadonlyArray<string> = ["ro", "rw", "rwc", "memory"]

/** The parameters of SQLite's own URIs (https://sqlite.org/uri.html). */
const uriParameters = ["mode", "immutable", "cache"] as const

type Parameter = (typeof uriParameters)[number] | "uri" | "timeout" | "check_same_thread"

// The parameters that SQLAlchemy passes to Python's driver. `check_same_thread` is accepted and has no effect.
const sqlAlchemyParameters = [...uriParameters, "timeout", "check_same_thread"] as const

/** The file that a URL names, or the expected form if it names none. */
type FileReference =
  | { readonly path: string; readonly search: string; readonly parameters: ReadonlyArray<Parameter> }
  | { readonly expected: string }

const parseSqliteUrl = (rest: string): FileReference => {
  const [path, search = ""] = cut(rest, "?")
  const nested = /^\/\/\/file:(.*)$/is.exec(path)
  if (nested !== null) {
    return parseFileUri(`${nested[1]}?${search}`, [...sqlAlchemyParameters, "uri"])
  }
  const inner = path.startsWith("//") ? path.slice(2) : `/${path}`
  if (inner !== "" && inner !== memory && !inner.startsWith("/")) {
    return { expected: "sqlite:///relative.db, sqlite:////absolute.db or sqlite:///:memory: (no host between slashes)" }
  }
  const isMemory = path.startsWith("//") && (inner === "" || inner === "/")
  return { path: isMemory ? memory : inner.replace(/^\//, ""), search, parameters: sqlAlchemyParameters }
}

const parseFileUri = (rest: string, parameters: ReadonlyArray<Parameter> = uriParameters): FileReference => {
  const [path, search = ""] = cut(cut(rest, "#")[0], "?")
  const local = /^\/\/(?:localhost)?(\/.*)$/is.exec(path)
  return local === null && path.startsWith("//")
    ? { expected: "file:relative.db or file:///absolute.db (no host between slashes)" }
    : { path: local?.[1] ?? path, search, parameters }
}

/** A path of a URL as the operating system writes it: `/C:/data/app.db` is `C:\\data\\app.db` on Windows. */
export const localPath = (path: string, platform: string): string =>
  platform === "win32" && /^\/?[a-z]:\//i.test(path) ? path.replace(/^\//, "").replaceAll("/", "\\") : path

const parsers = { sqlite: parseSqliteUrl, file: parseFileUri }

export type Scheme = keyof typeof parsers

/** Reads what follows the scheme and its colon. */
export const parse = (scheme: Scheme, rest: string, platform: string = process.platform): Reading<SqliteUrl> => {
  // Text that may be a user and a password is refused, so that it is never shown as a file's name.
  const reference = /:.*@/s.test(rest)
    ? { expected: "a file and no user (@ in a file's name is %40)" }
    : parsers[scheme](rest)
  if ("expected" in reference) {
    return { problems: [problem(reference.expected, `${scheme}://${mask}`)], value: inMemory }
  }
  const unmet: Array<string> = []
  const name = localPath(decode(reference.path, "the file's name", unmet), platform)
  if (mayHoldSecret(name)) {
    return {
      problems: [problem("a file whose name does not look like a password", `${scheme}://${mask}`)],
      value: inMemory
    }
  }
  const { shown, values } = query(reference.search, { accepted: reference.parameters }, unmet)
  const mode = values.mode ?? "rwc"
  const filename = mode === "memory" ? memory : name
  if (!modes.includes(mode)) {
    unmet.push(`parameter mode to be one of ${modes.join(", ")}`)
  }
  const immutable = booleanOf(values.immutable?.toLowerCase() ?? "0")
  const isImmutable = immutable === true
  if (immutable === undefined) {
    unmet.push("parameter immutable to be 1 or 0")
  }
  if (values.cache !== undefined && values.cache !== "private") {
    unmet.push(
      "parameter cache to be private (connections that share a cache lock each other's tables and do not wait for them; " +
        "in WAL mode they read while another one writes, without a shared cache)"
    )
  }
  if (reference.path === "" || filename.trim() !== filename) {
    unmet.push("a file's name without spaces around it")
  }
  if (filename === memory && (mode === "ro" || mode === "rw" || isImmutable)) {
    unmet.push("a file, as a database in memory is writable and begins empty")
  }
  const given = `${scheme}:${cut(rest, "?")[0]}${shown}`
  return {
    problems: unmet.map((expected) => problem(expected, given)),
    // SQLite would read a name that begins with file: as a URI.
    value: {
      _tag: "sqlite",
      filename: /^file:/i.test(filename) ? `./${filename}` : filename,
      readOnly: mode === "ro" || isImmutable,
      ...(mode === "rw" && !isImmutable ? { mustExist: true } : {}),
      ...(isImmutable ? { immutable: true } : {}),
      timeout: values.timeout
    }
  }
}

/** Writes a URL that `parse` reads as the same file. */
export const format = ({ filename, immutable, mustExist, readOnly }: Omit<SqliteUrl, "_tag" | "timeout">): string => {
  const path = filename === memory ? memory : filename.split("/").map(encodeURIComponent).join("/")
  const mode = immutable === true ? undefined : readOnly ? "ro" : mustExist === true ? "rw" : undefined
  return `sqlite:///${path}${formatQuery({ mode, immutable: immutable === true ? "1" : undefined })}`
}
