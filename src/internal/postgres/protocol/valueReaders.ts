/**
 * Reads values from the bytes of their texts, without making strings, where the result is the same as that of the
 * parser of `pg`.
 */
import { Pg } from "./pg.js"

/** Parses a value from its text. */
export type TypeParser = (text: string) => unknown

/** Parses a value from the bytes of its text, which are reused after the call. */
export type ValueReader = (bytes: Buffer, offset: number, end: number) => unknown

/** The parser of `pg` for a type; its default one, which leaves the text as it is, for a type that has none. */
export const pgParserOf = (oid: number, format: "text"): TypeParser =>
  (Pg.types.getTypeParser as (oid: number, format: "text") => TypeParser)(oid, format)

/** The parser of a type that the server has to be asked for: until it has answered, the values are text. */
export const keepText: TypeParser = (text) => text

export const readText = (bytes: Buffer, offset: number, end: number): string => bytes.toString("utf8", offset, end)

/** A number of at most this many digits is exact as a number. */
const maxExactDigits = 15

const zero = 0x30
const nine = 0x39
const plus = 0x2b
const minus = 0x2d
const dot = 0x2e
const colon = 0x3a
const space = 0x20

const readInteger: ValueReader = (bytes, offset, end) => {
  const from = bytes[offset] === minus ? offset + 1 : offset
  if (from === end || end - from > maxExactDigits) {
    return Number(readText(bytes, offset, end))
  }
  let value = 0
  for (let i = from; i < end; i++) {
    const digit = bytes[i]
    if (digit < zero || digit > nine) {
      return Number(readText(bytes, offset, end))
    }
    value = value * 10 + digit - zero
  }
  return from === offset ? value : -value
}

/** Powers of ten that are exact as numbers. */
const powersOfTen: ReadonlyArray<number> = Array.from({ length: maxExactDigits + 1 }, (_, i) => 10 ** i)

/**
 * The quotient of two exact numbers is rounded once, like the number in the text: https://doi.org/10.1145/93542.93557
 */
const readFloat: ValueReader = (bytes, offset, end) => {
  const from = bytes[offset] === minus ? offset + 1 : offset
  if (from === end || end - from > maxExactDigits) {
    return parseFloat(readText(bytes, offset, end))
  }
  let value = 0
  let decimals = -1
  for (let i = from; i < end; i++) {
    const digit = bytes[i]
    if (digit >= zero && digit <= nine) {
      value = value * 10 + digit - zero
      decimals = decimals < 0 ? decimals : decimals + 1
    } else if (digit === dot && decimals < 0 && i > from) {
      decimals = 0
    } else {
      return parseFloat(readText(bytes, offset, end))
    }
  }
  const absolute = decimals > 0 ? value / powersOfTen[decimals] : value
  return from === offset ? absolute : -absolute
}

const readBoolean = (parse: TypeParser): ValueReader => (bytes, offset, end) => {
  const byte = bytes[offset]
  return end - offset === 1 && (byte === 0x74 || byte === 0x66) ? byte === 0x74 : parse(readText(bytes, offset, end))
}

/** The values of the hexadecimal digits; -1 for other bytes. */
const hexDigits: Int8Array = Int8Array.from({ length: 256 }, (_, code) => {
  const value = Number.parseInt(String.fromCharCode(code), 16)
  return Number.isNaN(value) ? -1 : value
})

/** In the format `hex`: https://www.postgresql.org/docs/current/datatype-binary.html */
const readBytes = (parse: TypeParser): ValueReader => (bytes, offset, end) => {
  const length = (end - offset - 2) / 2
  if (bytes[offset] !== 0x5c || bytes[offset + 1] !== 0x78 || !Number.isInteger(length)) {
    return parse(readText(bytes, offset, end))
  }
  const value = Buffer.allocUnsafe(length)
  let position = offset + 2
  for (let i = 0; i < length; i++) {
    const byte = hexDigits[bytes[position]] << 4 | hexDigits[bytes[position + 1]]
    if (byte < 0) {
      return parse(readText(bytes, offset, end))
    }
    value[i] = byte
    position += 2
  }
  return value
}

/** The value of two digits; NaN if one is not a digit. */
const twoDigits = (bytes: Buffer, offset: number): number => {
  const tens = bytes[offset] - zero
  const ones = bytes[offset + 1] - zero
  return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? tens * 10 + ones : NaN
}

/** Days since 1970 in the Gregorian calendar: https://howardhinnant.github.io/date_algorithms.html#days_from_civil */
const daysOf = (year: number, month: number, day: number): number => {
  const shiftedYear = month > 2 ? year : year - 1
  const era = Math.floor(shiftedYear / 400)
  const yearOfEra = shiftedYear - era * 400
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1
  return era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear - 719_468
}

/** The offset from UTC that follows a time, in seconds; NaN if it is not one. */
const offsetOf = (bytes: Buffer, offset: number, end: number): number => {
  const sign = bytes[offset]
  const length = end - offset
  if ((sign !== plus && sign !== minus) || (length !== 3 && length !== 6 && length !== 9)) {
    return NaN
  }
  let seconds = twoDigits(bytes, offset + 1) * 3_600
  if (length > 3) {
    seconds += bytes[offset + 3] === colon ? twoDigits(bytes, offset + 4) * 60 : NaN
  }
  if (length > 6) {
    seconds += bytes[offset + 6] === colon ? twoDigits(bytes, offset + 7) : NaN
  }
  return sign === plus ? seconds : -seconds
}

const dateLength = 10
const secondsLength = 19
/** The constructor of Date adds 1900 to lower years. */
const minYear = 100

/**
 * A date or a timestamp of a year of four digits, in DateStyle ISO. Without an offset it is in the process's time zone.
 * Microseconds are truncated to milliseconds. Everything else is left to `parse`.
 */
export const readDate = (parse: TypeParser): ValueReader => (bytes, offset, end) => {
  const year = twoDigits(bytes, offset) * 100 + twoDigits(bytes, offset + 2)
  const month = twoDigits(bytes, offset + 5)
  const day = twoDigits(bytes, offset + 8)
  if (
    end - offset < dateLength || bytes[offset + 4] !== minus || bytes[offset + 7] !== minus ||
    !(year >= minYear && month >= 1 && month <= 12 && day >= 1)
  ) {
    return parse(readText(bytes, offset, end))
  }
  if (end - offset === dateLength) {
    return new Date(year, month - 1, day)
  }
  const hours = twoDigits(bytes, offset + 11)
  const minutes = twoDigits(bytes, offset + 14)
  const seconds = twoDigits(bytes, offset + 17)
  if (
    end - offset < secondsLength || bytes[offset + 10] !== space || bytes[offset + 13] !== colon ||
    bytes[offset + 16] !== colon || !(hours + minutes + seconds >= 0)
  ) {
    return parse(readText(bytes, offset, end))
  }
  let position = offset + secondsLength
  let millis = 0
  if (position < end && bytes[position] === dot) {
    let unit = 100
    const first = ++position
    for (; position < end && bytes[position] >= zero && bytes[position] <= nine; position++) {
      millis += unit >= 1 ? (bytes[position] - zero) * unit : 0
      unit /= 10
    }
    if (position === first || position - first > 6) {
      return parse(readText(bytes, offset, end))
    }
  }
  if (position === end) {
    return new Date(year, month - 1, day, hours, minutes, seconds, millis)
  }
  const zone = offsetOf(bytes, position, end)
  return Number.isNaN(zone)
    ? parse(readText(bytes, offset, end))
    : new Date(
      daysOf(year, month, day) * 86_400_000 + hours * 3_600_000 + minutes * 60_000 + (seconds - zone) * 1_000 + millis
    )
}

/** int8, int2, int4 and oid, whose text is nothing but digits and a sign. */
const integerTypes: ReadonlySet<number> = new Set([20, 21, 23, 26])

/** No type has this OID, so its parser is the one for types that have none. */
export const unusedOid = 0

/**
 * The beginnings of the source texts of `pg`'s own parsers, without comments and spaces. An application may replace a
 * parser.
 */
const ownParsers = {
  integer: /^function\w*\(\w+\)\{returnparseInt\(\w+,10\);?\}$/,
  bigInteger: /^function\w*\(value\)\{varvalStr=String\(value\);if\(\/\^\\d\+\$\/\.test\(valStr\)\)\{returnvalStr;\}/,
  boolean:
    /^functionparseBool\(value\)\{if\(value===null\)returnvalue;?returnvalue===.TRUE.\|\|value===.t.\|\|value===.true.\|\|/,
  bytes: /^functionparseBytea\(input\)\{if\(\/\^\\\\x\/\.test\(input\)\)\{return\w+\(input\.substr\(2\),.hex.\);?\}/,
  date:
    /^functionparseDate\(isoDate\)\{if\(INFINITY\.test\(isoDate\)\)\{returnNumber\(isoDate\.replace\(.i.,.I.\)\);?\}varmatches=DATE_TIME\.exec\(isoDate\)/
}

type OwnParser = keyof typeof ownParsers

const kinds = new WeakMap<TypeParser, OwnParser | "other">()

/** Whether a parser is that of `pg` itself. */
export const isOwnParser = (parse: TypeParser, kind: OwnParser): boolean => {
  if (typeof parse !== "function") {
    // An application may have set anything. It fails when it is called with a value.
    return false
  }
  let found = kinds.get(parse)
  if (found === undefined) {
    const source = Function.prototype.toString.call(parse).replace(/\/\/.*|\s/g, "")
    found = (Object.keys(ownParsers) as Array<OwnParser>).find((name) => ownParsers[name].test(source)) ?? "other"
    kinds.set(parse, found)
  }
  return found === kind
}

/** The readers of parsers that read texts of several types, or check what `pg` makes of them. */
const readers = new WeakMap<TypeParser, ValueReader>()

/** Registers a reader that gives the same values as a parser. */
export const withReader = (parse: TypeParser, reader: ValueReader): TypeParser => {
  readers.set(parse, reader)
  return parse
}

/** Reads the values of a column of a type with its parser. */
export const readerOf = (oid: number, parse: TypeParser): ValueReader => {
  const reader = readers.get(parse)
  if (reader !== undefined) {
    return reader
  }
  if (parse === Number || (integerTypes.has(oid) && isOwnParser(parse, "integer"))) {
    return readInteger
  }
  if (parse === parseFloat) {
    return readFloat
  }
  if (parse === keepText || parse === pgParserOf(unusedOid, "text") || isOwnParser(parse, "bigInteger")) {
    return readText
  }
  if (isOwnParser(parse, "boolean")) {
    return readBoolean(parse)
  }
  if (isOwnParser(parse, "bytes")) {
    return readBytes(parse)
  }
  return (bytes, offset, end) => parse(readText(bytes, offset, end))
}
