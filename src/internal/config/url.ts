/**
 * The URLs that name a database of any dialect.
 */
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { dialectOf, dialects } from "./dialectOf.js"
import type { Rule } from "./rule.js"
import type { Dialect, Resolve } from "./target.js"
import { mask, problem, type Reading } from "./text.js"

type TargetOf<D> = D extends Dialect<infer Target> ? Target : never

/** Where a database of any dialect is. */
export type Target = TargetOf<(typeof dialects)[keyof typeof dialects]>

const all: ReadonlyArray<Dialect<Target>> = Object.values(dialects)

const prefixes = all.flatMap(({ schemes }) => schemes).map((scheme) => `${scheme}:`)

/** The accepted forms, for error messages. */
export const forms = `a URL that begins with ${prefixes.slice(0, -1).join(", ")} or ${prefixes.at(-1)}, or :memory:`

/** A database in memory, in the short form that SQLite itself has for it. */
const memory = ":memory:"

/** The URL that stands for one that is missing or cannot be read, so that the other options are still validated. */
export const placeholder = "sqlite:///:memory:"

/** Reads a URL in any of the forms. The name of a driver after the scheme (`postgresql+asyncpg:`) is ignored. */
export const parse = (text: string): Reading<Resolve<Target>> => {
  const url = text === memory ? placeholder : text
  const [, name = "", driver, rest = ""] = /^([a-z][a-z0-9.-]*)(\+[\w.-]+)?:(.*)$/is.exec(url) ?? []
  const scheme = name.toLowerCase()
  const found = all.find(({ schemes }) => schemes.includes(scheme))
  if (found !== undefined) {
    return found.readUrl(scheme, rest)
  }
  // Text without a scheme may be anything, even a password.
  const given = rest.startsWith("//") ? `${name}${driver ?? ""}://${mask}` : "something else (not shown)"
  return { ...parse(placeholder), problems: [problem(`${forms} (a file's path is sqlite:///path)`, given)] }
}

/** Whether it is the target of resolved settings. */
export const isTarget = (given: unknown): given is Target =>
  Predicate.hasProperty(given, "_tag") && Object.hasOwn(dialects, given._tag as PropertyKey)

/** The target of resolved settings. */
export const target: Rule<Target> = {
  accepts: "the target of resolved settings",
  decode: Option.liftPredicate(isTarget)
}

/** Reads a target that was resolved. */
export const readTarget = (target: Target): Reading<Resolve<Target>> => {
  const dialect: Dialect<Target> = dialectOf(target._tag)
  return dialect.readTarget(target)
}

/** Writes the URL of a target. */
export const format = (target: Target, withPassword: boolean): string => {
  const dialect: Dialect<Target> = dialectOf(target._tag)
  return dialect.formatUrl(target, withPassword)
}
