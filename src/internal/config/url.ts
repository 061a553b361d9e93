/**
 * The URLs that name a database, whatever the dialect.
 */
import * as PostgresUrl from "./postgresUrl.js"
import * as SqliteUrl from "./sqliteUrl.js"
import { mask, problem, type Reading } from "./text.js"

/** What a URL says. */
export type Url = PostgresUrl.PostgresUrl | SqliteUrl.SqliteUrl

type Reader = (rest: string) => Reading<Url>

const schemes: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ["postgres", (rest) => PostgresUrl.parse("postgres", rest)],
  ["postgresql", (rest) => PostgresUrl.parse("postgresql", rest)],
  ["sqlite", (rest) => SqliteUrl.parse("sqlite", rest)],
  ["file", (rest) => SqliteUrl.parse("file", rest)]
])

/** The forms in short, for whoever gave none of them. */
export const forms = "a URL that begins with postgres:, postgresql:, sqlite: or file:, or :memory:"

/** Reads any of the forms. A driver behind the scheme (`postgresql+asyncpg:`) says nothing here. */
export const parse = (text: string): Reading<Url> => {
  const [, scheme = "", driver, rest = ""] = /^([a-z][a-z0-9.-]*)(\+[\w.-]+)?:(.*)$/is.exec(text) ?? []
  const reader = schemes.get(scheme.toLowerCase())
  if (reader !== undefined) {
    return reader(rest)
  }
  if (text === SqliteUrl.memory) {
    return { problems: [], url: SqliteUrl.inMemory }
  }
  // What has no scheme may be anything, a password too.
  const given = rest.startsWith("//") ? `${scheme}${driver ?? ""}://${mask}` : "something else (not shown)"
  return { problems: [problem(`${forms} (a file's path is sqlite:///path)`, given)], url: SqliteUrl.inMemory }
}
