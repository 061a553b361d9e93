/**
 * Encodes values of JavaScript as parameters, without knowing the type that the server gives them. As `pg` does, apart from:
 *
 * - The offset of a Date is exact, with its seconds.
 * - A DateTime of Effect is sent as a timestamp, and a BigDecimal as a number.
 * - Text that cannot be stored is refused.
 */
import * as BigDecimal from "effect/BigDecimal"
import * as DateTime from "effect/DateTime"
import { isDate } from "node:util/types"
import { isWellFormed, malformedText } from "../../wellFormed.js"
import { Pg } from "../protocol/pg.js"
import type { Encoded } from "../protocol/writer.js"
import { formatArray, formatElement } from "./array.js"

/** A value that is sent as JSON, whatever it is: `pg.json(value)`. */
export class Json {
  constructor(readonly value: unknown) {}

  toJSON(): unknown {
    return this.value
  }
}

/** Why a value cannot be sent. The reason contains no value. */
export class CannotBeEncoded {
  constructor(readonly reason: string) {}
}

/** Encodes a value. Throws CannotBeEncoded, and whatever the value's own methods throw. */
export const encode = (value: unknown): Encoded => {
  switch (typeof value) {
    case "string":
      return checkText(value)
    case "number":
    case "bigint":
    case "boolean":
      return String(value)
    case "undefined":
      return null
    case "object":
      return value === null ? null : encodeObject(value, [])
    default:
      throw unsendable()
  }
}

const unsendable = (): CannotBeEncoded =>
  new CannotBeEncoded("it is or contains a function, a symbol or an invalid Date")

/** Refuses text that the server cannot store. */
export const checkText = (text: string): string => {
  if (!isWellFormed(text)) {
    throw new CannotBeEncoded(malformedText)
  }
  if (text.includes("\0")) {
    throw new CannotBeEncoded("it contains a NUL character, which PostgreSQL cannot store")
  }
  return text
}

/** `outer` are the objects whose `toPostgres` is being encoded. */
const encodeObject = (value: object, outer: ReadonlyArray<object>): Encoded => {
  if (ArrayBuffer.isView(value)) {
    return Buffer.isBuffer(value) ? value : Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  }
  if (isDate(value)) {
    return formatDate(value)
  }
  if (Array.isArray(value)) {
    return checkText(formatArray(value, ",", encodeElement))
  }
  if (value instanceof Json) {
    return encodeJson(value.value)
  }
  if ("toPostgres" in value && typeof value.toPostgres === "function") {
    if (outer.includes(value)) {
      throw new CannotBeEncoded("its toPostgres is circular")
    }
    return encodeConverted(value.toPostgres(encode), [...outer, value])
  }
  if (DateTime.isDateTime(value)) {
    return formatUtc(DateTime.toEpochMillis(value))
  }
  if (BigDecimal.isBigDecimal(value)) {
    return BigDecimal.format(value)
  }
  return encodeJson(value)
}

const encodeConverted = (value: unknown, outer: ReadonlyArray<object>): Encoded =>
  typeof value === "object" && value !== null ? encodeObject(value, outer) : encode(value)

/** An element of an array, which has no binary format. A number needs no quotation marks. */
export const encodeElement = (value: unknown): string =>
  typeof value === "number" ? String(value) : formatElement(toText(encode(value)))

/** An encoded value as text: bytes become the text of a bytea. */
export const toText = (encoded: Encoded): string | null =>
  typeof encoded === "string" || encoded === null ? encoded : `\\x${encoded.toString("hex")}`

/** Undefined, which is no JSON, is NULL. JSON escapes half a surrogate pair, so that its text is always well-formed. */
export const encodeJson = (value: unknown): string | null => {
  if (value === undefined) {
    return null
  }
  const text: unknown = JSON.stringify(value)
  if (typeof text !== "string") {
    throw new CannotBeEncoded("it cannot be represented in JSON")
  }
  return text
}

/**
 * A Date as the local time and its offset, as `pg` sends it, so that a column without a time zone takes the local time. The
 * offset has seconds where it needs them: before there were time zones, most places had the time of their own longitude.
 */
const formatDate = (date: Date): string => {
  const time = date.getTime()
  if (Number.isNaN(time)) {
    throw unsendable()
  }
  if (Pg.defaults.parseInputDatesAsUTC) {
    return formatUtc(time)
  }
  const year = date.getFullYear()
  const month = date.getMonth()
  const day = date.getDate()
  const hours = date.getHours()
  const minutes = date.getMinutes()
  const seconds = date.getSeconds()
  const millis = date.getMilliseconds()
  const offset = (utcTime(year, month, day, hours, minutes, seconds, millis) - time) / 1_000
  // The local time may be beyond the maximum of a Date.
  return Number.isNaN(offset)
    ? formatUtc(time)
    : format(year, month, day, hours, minutes, seconds, millis, formatOffset(offset))
}

const formatUtc = (time: number): string => {
  const date = new Date(time)
  return format(
    date.getUTCFullYear(),
    date.getUTCMonth(),
    date.getUTCDate(),
    date.getUTCHours(),
    date.getUTCMinutes(),
    date.getUTCSeconds(),
    date.getUTCMilliseconds(),
    "+00:00"
  )
}

type Fields = [
  year: number,
  month: number,
  day: number,
  hours: number,
  minutes: number,
  seconds: number,
  millis: number
]

/** Date.UTC adds 1900 to the years up to 99. */
const utcTime = (...[year, month, day, hours, minutes, seconds, millis]: Fields): number => {
  if (year > 99) {
    return Date.UTC(year, month, day, hours, minutes, seconds, millis)
  }
  const date = new Date(0)
  date.setUTCFullYear(year, month, day)
  return date.setUTCHours(hours, minutes, seconds, millis)
}

const pad = (value: number, length: number): string => String(value).padStart(length, "0")

const twoDigits: ReadonlyArray<string> = Array.from({ length: 60 }, (_, value) => pad(value, 2))

/** A timestamp in a format that PostgreSQL reads. */
const format = (...[year, month, day, hours, minutes, seconds, millis, offset]: [...Fields, string]): string =>
  `${pad(year > 0 ? year : 1 - year, 4)}-${twoDigits[month + 1]}-${twoDigits[day]}T${twoDigits[hours]}:` +
  `${twoDigits[minutes]}:${twoDigits[seconds]}.${pad(millis, 3)}${offset}${year > 0 ? "" : " BC"}`

/** An offset in seconds. */
const formatOffset = (offset: number): string => {
  const distance = Math.abs(offset)
  const seconds = distance % 60
  return (offset < 0 ? "-" : "+") + twoDigits[Math.floor(distance / 3_600)] + ":" +
    twoDigits[Math.floor(distance / 60) % 60] + (seconds === 0 ? "" : `:${twoDigits[seconds]}`)
}
