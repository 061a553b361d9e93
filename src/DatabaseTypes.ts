/**
 * How values of PostgreSQL's types are read into JavaScript and sent to the server: the option `types` of
 * `DatabaseConfig.Options`.
 *
 * @example
 * ```ts
 * import { Database, DatabaseTypes } from "sqlayer"
 *
 * const DatabaseLive = Database.layerFrom({
 *   url: "postgres://localhost/app",
 *   types: {
 *     bigint: DatabaseTypes.bigInt,
 *     date: DatabaseTypes.text,
 *     numeric: DatabaseTypes.bigDecimal,
 *     timestamptz: DatabaseTypes.dateTimeUtc
 *   }
 * })
 * ```
 *
 * @since 0.1.0
 */
import * as BigDecimal from "effect/BigDecimal"
import * as DateTime from "effect/DateTime"

/**
 * How the values of one type are read and sent. A member that is left out keeps the default.
 *
 * @since 0.1.0
 * @category models
 */
export interface Type<A = unknown> {
  /**
   * Converts the text that the server sends to the value. It is not called for NULL. If it throws, the statement fails
   * with InvalidData, which does not contain the error that was thrown.
   */
  readonly parse?: ((text: string) => A) | undefined
  /**
   * Converts a parameter of the type to what is sent: the text that PostgreSQL reads, or any other value that can be a
   * parameter. It is not called for null and undefined. If it throws, the statement fails with InvalidData before it is
   * sent.
   *
   * Only the server knows the types of parameters. If any type has an `encode`, the server is asked for them, once for
   * each text of a statement.
   */
  encode?(value: A): unknown
}

/**
 * Types by name or OID. A name may be qualified by a schema (`app.mood`), and may be SQL's (`bigint`,
 * `timestamp with time zone`) or PostgreSQL's (`int8`, `timestamptz`). `char` is SQL's; PostgreSQL's internal type of
 * this name is written with quotation marks. A type also applies to the elements of its arrays and to the values of its
 * domains, unless these have an entry of their own (`int8[]`).
 *
 * @since 0.1.0
 * @category models
 */
export interface Types {
  readonly [nameOrOid: string]: Type
}

/**
 * The text that the server sends, unchanged. For `date`, the day as YYYY-MM-DD, which no time zone shifts; for any
 * other type, its exact value.
 *
 * @since 0.1.0
 * @category types
 */
export const text: Type<string> = { parse: (text) => text }

/**
 * `bigint` as a BigInt.
 *
 * @since 0.1.0
 * @category types
 */
export const bigInt: Type<bigint> = { parse: BigInt }

/**
 * `numeric` as a BigDecimal, with all its digits. NaN and Infinity, which a BigDecimal cannot hold, are InvalidData.
 *
 * @since 0.1.0
 * @category types
 */
export const bigDecimal: Type<BigDecimal.BigDecimal> = { parse: BigDecimal.unsafeFromString }

/** A date or a timestamp as PostgreSQL's DateStyle ISO writes it. */
const timestamp =
  /^(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-])(\d\d)(?::(\d\d)(?::(\d\d))?)?)?)?( BC)?$/

interface Instant {
  /** Milliseconds since 1970, without a fraction. */
  readonly millis: number
  /** The six digits of the fraction of a second. */
  readonly fraction: string
}

/** Throws unless the text is a point in time that a Date can hold. Without an offset it is in UTC. */
const parseInstant = (text: string): Instant => {
  const match = timestamp.exec(text)
  if (match === null) {
    throw new RangeError("not a date or time")
  }
  const [, year, month, day, hours = "0", minutes = "0", seconds = "0", digits = "", sign, ...rest] = match
  const [offsetHours = "0", offsetMinutes = "0", offsetSeconds = "0", bc] = rest
  const fraction = digits.padEnd(6, "0")
  const date = new Date(0)
  date.setUTCFullYear(bc === undefined ? Number(year) : 1 - Number(year), Number(month) - 1, Number(day))
  date.setUTCHours(Number(hours), Number(minutes), Number(seconds), Number(fraction.slice(0, 3)))
  const offset = (Number(offsetHours) * 60 + Number(offsetMinutes)) * 60 + Number(offsetSeconds)
  const millis = date.getTime() - (sign === "-" ? -offset : offset) * 1_000
  if (!(Math.abs(millis) <= 8.64e15)) {
    throw new RangeError("not a time that a Date can hold")
  }
  return { millis, fraction }
}

/**
 * `timestamptz` as a DateTime.Utc; `timestamp` too, read as UTC. A DateTime has milliseconds: microseconds are cut off.
 * Infinity is InvalidData.
 *
 * @since 0.1.0
 * @category types
 */
export const dateTimeUtc: Type<DateTime.Utc> = { parse: (text) => DateTime.unsafeMake(parseInstant(text).millis) }

/**
 * `timestamptz` as text with its microseconds, in UTC: `2024-05-06T07:08:09.123456Z`. Sent back it is the same point in
 * time. Infinity, and years that ISO 8601 writes with a sign, stay as the server sends them.
 *
 * @since 0.1.0
 * @category types
 */
export const microseconds: Type<string> = {
  parse: (text) => {
    if (!/^\d{4}-.*\d$/.test(text)) {
      return text
    }
    const { fraction, millis } = parseInstant(text)
    const iso = new Date(millis).toISOString()
    return iso.length > 24 ? text : `${iso.slice(0, 20)}${fraction}Z`
  }
}
