/**
 * SQLite's URLs: SQLAlchemy's `sqlite:///relative.db` and `sqlite:////absolute.db`, and SQLite's own `file:` URIs.
 */
import { cut, decode, formatQuery, mask, problem, query, type Reading } from "./text.js"

/** What a URL says. */
export interface SqliteUrl {
  readonly _tag: "sqlite"
  /** A path, or `:memory:`. */
  readonly filename: string
  readonly readOnly: boolean
  /** Seconds, validated by those who use it. */
  readonly timeout?: string | undefined
}

/** What stands for a database in memory wherever a file's name is expected. */
export const memory = ":memory:"

/** A database in memory. */
export const inMemory: SqliteUrl = { _tag: "sqlite", filename: memory, readOnly: false }

const modes: ReadonlyArray<string> = ["ro", "rwc", "memory"]

type Parameter = "mode" | "uri" | "timeout" | "check_same_thread"

// What SQLAlchemy passes to Python's driver. Which threads it would allow has no meaning here.
const sqlAlchemys = ["mode", "timeout", "check_same_thread"] as const

/** Where a URL's file is, or how such URLs begin where it names none. */
type Place =
  | { readonly path: string; readonly search: string; readonly parameters: ReadonlyArray<Parameter> }
  | { readonly expected: string }

const sqlitePlace = (rest: string): Place => {
  const [path, search = ""] = cut(rest, "?")
  const nested = /^\/\/\/file:(.*)$/is.exec(path)
  if (nested !== null) {
    return filePlace(`${nested[1]}?${search}`, [...sqlAlchemys, "uri"])
  }
  const inner = path.startsWith("//") ? path.slice(2) : `/${path}`
  if (inner !== "" && inner !== memory && !inner.startsWith("/")) {
    return { expected: "sqlite:///relative.db, sqlite:////absolute.db or sqlite:///:memory: (no host between slashes)" }
  }
  const isMemory = path.startsWith("//") && (inner === "" || inner === "/")
  return { path: isMemory ? memory : inner.replace(/^\//, ""), search, parameters: sqlAlchemys }
}

const filePlace = (rest: string, parameters: ReadonlyArray<Parameter> = ["mode"]): Place => {
  const [path, search = ""] = cut(cut(rest, "#")[0], "?")
  const local = /^\/\/(?:localhost)?(\/.*)$/is.exec(path)
  return local === null && path.startsWith("//")
    ? { expected: "file:relative.db or file:///absolute.db (no host between slashes)" }
    : { path: local?.[1] ?? path, search, parameters }
}

const places = { sqlite: sqlitePlace, file: filePlace }

/** Reads what follows the scheme. */
export const parse = (scheme: keyof typeof places, rest: string): Reading<SqliteUrl> => {
  // What looks like a user and a password is not shown as a file's name.
  const place = /:.*@/s.test(rest)
    ? { expected: "a file and no user (@ in a file's name is %40)" }
    : places[scheme](rest)
  if ("expected" in place) {
    return { problems: [problem(place.expected, `${scheme}://${mask}`)], url: inMemory }
  }
  const unmet: Array<string> = []
  const name = decode(place.path, "the file's name", unmet)
  const { shown, values } = query(place.search, place.parameters, unmet)
  const mode = values.mode ?? "rwc"
  const filename = mode === "memory" ? memory : name
  if (!modes.includes(mode)) {
    unmet.push(`parameter mode to be one of ${modes.join(", ")}`)
  }
  if (place.path === "" || filename.trim() !== filename) {
    unmet.push("a file's name without spaces around it")
  }
  if (filename === memory && mode === "ro") {
    unmet.push("a file in place of memory, which cannot be read only")
  }
  const given = `${scheme}:${cut(rest, "?")[0]}${shown}`
  return {
    problems: unmet.map((expected) => problem(expected, given)),
    // A name that begins with file: would be taken for a URI by what opens the file.
    url: {
      _tag: "sqlite",
      filename: /^file:/i.test(filename) ? `./${filename}` : filename,
      readOnly: mode === "ro",
      timeout: values.timeout
    }
  }
}

/** Writes what `parse` reads. */
export const format = ({ filename, readOnly }: Pick<SqliteUrl, "filename" | "readOnly">): string => {
  const path = filename === memory ? memory : filename.split("/").map(encodeURIComponent).join("/")
  return `sqlite:///${path}${formatQuery({ mode: readOnly ? "ro" : undefined })}`
}
