/**
 * The parsers of `pg` for PostgreSQL's built-in types, which an application may have replaced with `setTypeParser`.
 */
import { isOwnParser, pgParserOf, readDate, type TypeParser, unusedOid, withReader } from "../protocol/valueReaders.js"

export const hasPgParser = (oid: number): boolean => pgParserOf(oid, "text") !== pgParserOf(unusedOid, "text")

const numericArray = 1231
const float8Array = 1022
const interval = 1186
const dateTypes: ReadonlySet<number> = new Set([1082, 1114, 1184])
/** The arrays of date, timestamp, timestamptz and interval. */
const dateArrays: ReadonlySet<number> = new Set([1115, 1182, 1185, 1187])

/** Whether an array of dates has `pg`'s own parser, which is the same for several types. */
const isOwnDateArrayParser = (oid: number): boolean => {
  const parser = pgParserOf(oid, "text")
  return oid === 1187
    ? parser.name === "parseIntervalArray"
    : [...dateArrays].some((other) => other !== oid && pgParserOf(other, "text") === parser)
}

/**
 * Whether an array is parsed element by element although `pg` has a parser for it: that of numeric[] makes numbers, which
 * do not hold all digits, and those of dates make null of what they cannot read.
 */
export const isParsedByElement = (oid: number): boolean =>
  (oid === numericArray && pgParserOf(oid, "text") === pgParserOf(float8Array, "text")) ||
  (dateArrays.has(oid) && isOwnDateArrayParser(oid))

class UnreadableText extends Error {
  override readonly name = "UnreadableText"
}

/** An interval as IntervalStyle postgres writes it. */
const intervalText =
  /^\s*(?:[-+]?\d+\s+years?)?\s*(?:[-+]?\d+\s+mons?)?\s*(?:[-+]?\d+\s+days?)?\s*(?:[-+]?\d+:\d\d:\d\d(?:\.\d{1,6})?)?\s*$/

const isPostgresInterval = (value: unknown): boolean =>
  typeof value === "object" && value !== null && value.constructor.name === "PostgresInterval"

/** The parser of `pg`, but it throws at a text that it cannot read instead of returning null or an empty value. */
export const strictPgParserOf = (oid: number): TypeParser => {
  const parse = pgParserOf(oid, "text")
  if (dateTypes.has(oid)) {
    const strict: TypeParser = (text) => {
      const value = parse(text)
      if (value === null) {
        throw new UnreadableText()
      }
      if (value instanceof Date && Number.isNaN(value.getTime())) {
        throw new RangeError("beyond what a Date can hold")
      }
      return value
    }
    return isOwnParser(parse, "date") ? withReader(strict, readDate(strict)) : strict
  }
  if (oid === interval) {
    return (text) => {
      const value = parse(text)
      if (isPostgresInterval(value) && !intervalText.test(text)) {
        throw new UnreadableText()
      }
      return value
    }
  }
  return parse
}
