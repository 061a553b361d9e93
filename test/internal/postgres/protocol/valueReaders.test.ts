import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Stream from "effect/Stream"
import Pg from "pg"
import * as Database from "../../../../src/Database.js"
import { setPg } from "../../../../src/internal/postgres/protocol/pg.js"
import {
  isOwnParser,
  readDate,
  readerOf,
  type TypeParser
} from "../../../../src/internal/postgres/protocol/valueReaders.js"
import { freshDatabase } from "../../../support/postgres.js"

setPg(Pg)

const parserOf = (oid: number) => (Pg.types.getTypeParser as (oid: number) => TypeParser)(oid)

const int8 = 20
const int4 = 23
const bool = 16
const bytea = 17
const float8 = 701
const timestamptz = 1184

/** A value as it is read in the middle of other bytes, which look like more of it. */
const readWith = (read: ReturnType<typeof readerOf>, text: string): unknown => {
  const bytes = Buffer.from(text)
  return read(Buffer.concat([Buffer.from("19"), bytes, Buffer.from("00:00")]), 2, 2 + bytes.length)
}

/** Two invalid dates are not equal. */
const timeOf = (value: unknown): unknown => value instanceof Date ? { time: value.getTime() } : value

const assertSame = (oid: number, text: string): void => {
  const parse = parserOf(oid)
  const read = oid === timestamptz ? readDate(parse) : readerOf(oid, parse)
  assert.deepStrictEqual(timeOf(readWith(read, text)), timeOf(parse(text)), text)
}

const mapped = <A, B>(arbitrary: FastCheck.Arbitrary<A>, f: (value: A) => B): FastCheck.Arbitrary<B> => arbitrary.map(f)

const digits = (value: number, length: number) => String(value).padStart(length, "0")

const two = (max: number) => mapped(FastCheck.nat(max), (value) => digits(value, 2))

/** What PostgreSQL writes, and some that it does not. */
const dates = mapped(
  FastCheck.tuple(
    FastCheck.oneof(
      FastCheck.integer({ min: 1, max: 9_999 }),
      FastCheck.constantFrom(1, 4, 99, 100, 1900, 2000, 10_000)
    ),
    two(13),
    two(32)
  ),
  ([year, month, day]) => `${digits(year, 4)}-${month}-${day}`
)

const times = mapped(
  FastCheck.tuple(two(24), two(61), two(61), FastCheck.constantFrom("", ".", ".1"), FastCheck.nat(9_999_999)),
  ([hours, minutes, seconds, dot, fraction]) =>
    `${hours}:${minutes}:${seconds}${dot}${dot === "." ? String(fraction) : ""}`
)

const zones = FastCheck.oneof(
  FastCheck.constantFrom("", "+00", "-00", "Z", "+5", "+1200", "+14", "-12:30", "+05:53:28"),
  mapped(FastCheck.tuple(FastCheck.constantFrom("+", "-"), two(15), two(59), two(59), FastCheck.nat(2)), (
    [sign, hours, minutes, seconds, parts]
  ) => sign + [hours, minutes, seconds].slice(0, parts + 1).join(":"))
)

const timestamps = mapped(
  FastCheck.tuple(dates, times, zones, FastCheck.constantFrom("", "", "", " BC")),
  ([date, time, zone, era]) => `${date} ${time}${zone}${era}`
)

/** The same with one character replaced. */
const damaged = (texts: FastCheck.Arbitrary<string>) =>
  mapped(
    FastCheck.tuple(texts, FastCheck.nat(40), FastCheck.constantFrom("", "x", "-", ":", ".", " ", "/", "é", "0")),
    ([text, position, replacement]) => text.slice(0, position) + replacement + text.slice(position + 1)
  )

const inZones = (f: () => void) => {
  const zone = process.env.TZ
  try {
    for (const name of ["UTC", "America/New_York", "Asia/Kathmandu"]) {
      process.env.TZ = name
      f()
    }
  } finally {
    if (zone === undefined) {
      delete process.env.TZ
    } else {
      process.env.TZ = zone
    }
  }
}

describe("a value that is read from its bytes is what pg's parser makes of its text", () => {
  it("dates and times", () => {
    const texts = FastCheck.oneof(dates, timestamps, damaged(dates), damaged(timestamps), FastCheck.string())
    inZones(() => {
      FastCheck.assert(FastCheck.property(texts, (text) => assertSame(timestamptz, text)), { numRuns: 500 })
      for (const text of ["infinity", "-infinity", "0001-01-01 00:00:00+00", "1900-02-28 23:59:59.999999+00", ""]) {
        assertSame(timestamptz, text)
      }
    })
  })

  it("every fraction of a second, of which milliseconds are kept", () => {
    for (let length = 1; length <= 6; length++) {
      for (let value = 0; value < 10 ** length; value += length < 4 ? 1 : 7_919) {
        assertSame(timestamptz, `2024-02-29 23:59:59.${digits(value, length)}-03:30`)
      }
    }
  })

  it("numbers", () => {
    const numbers = FastCheck.oneof(
      mapped(FastCheck.double(), String),
      mapped(FastCheck.double(), (value) => value.toFixed(4)),
      mapped(FastCheck.bigInt(), String),
      FastCheck.constantFrom(
        "",
        "-",
        ".",
        "-.5",
        ".5",
        "5.",
        "1.2.3",
        "0",
        "-0",
        "-0.0",
        "1e5",
        "NaN",
        "-Infinity",
        "+1"
      )
    )
    FastCheck.assert(FastCheck.property(numbers, (text) => assertSame(float8, text)), { numRuns: 1_000 })
    const integers = mapped(FastCheck.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }), String)
    FastCheck.assert(FastCheck.property(integers, (text) => {
      assertSame(int4, text)
      assertSame(int8, text)
    }))
    for (let i = -20_000; i <= 20_000; i += 37) {
      assertSame(float8, String(i / 1_000))
      assertSame(int4, String(i))
    }
  })

  it("booleans, bytes and texts", () => {
    for (const text of ["t", "f", "true", "false", "", "x", "1", "é"]) {
      assertSame(bool, text)
    }
    FastCheck.assert(FastCheck.property(FastCheck.uint8Array(), (bytes) => {
      const hex = Buffer.from(bytes).toString("hex")
      assertSame(bytea, `\\x${hex}`)
      assertSame(bytea, `\\x${hex.toUpperCase()}`)
      assertSame(bytea, `\\x${hex}1`)
      assertSame(bytea, `\\x${hex}zz00`)
    }))
    for (const text of ["", "\\x", "\\001\\\\a", "abc"]) {
      assertSame(bytea, text)
    }
    for (const text of ["", "a", "é", "日本語", "a😀b", "x".repeat(10_000)]) {
      assert.strictEqual(readWith(readerOf(25, parserOf(25)), text), text)
    }
  })
})

describe("a parser of pg", () => {
  it("is told from one that an application has set in its place", () => {
    for (
      const [oid, kind] of [[int4, "integer"], [int8, "bigInteger"], [bool, "boolean"], [bytea, "bytes"], [
        timestamptz,
        "date"
      ]] as const
    ) {
      assert.isTrue(isOwnParser(parserOf(oid), kind), kind)
      const parse = parserOf(oid)
      const wrapped: TypeParser = (text) => parse(text)
      for (const other of [wrapped, parse.bind(null), new Proxy(parse, {}), (text: string) => [text]]) {
        assert.isFalse(isOwnParser(other, kind), kind)
      }
      assert.deepStrictEqual(readWith(readerOf(oid, (text) => [text]), "t"), ["t"])
    }
    function parseDate(isoDate: string) {
      return `mine ${isoDate}`
    }
    assert.isFalse(isOwnParser(parseDate, "date"))
  })
})

describe("values of a server", () => {
  it.scopedLive(
    "are what pg's parsers make of their texts, as rows, as arrays and in a stream",
    () =>
      Effect.gen(function*() {
        const { sql } = yield* Database.make({ environment: "test", url: yield* freshDatabase, poolSize: 1 })
        const columns = {
          a: timestamptz,
          b: 1114,
          c: 1082,
          d: float8,
          e: 700,
          f: int8,
          g: int4,
          h: bool,
          i: bytea,
          j: 1700,
          k: 2950,
          l: 25,
          m: 3802
        }
        yield* sql.unsafe(`CREATE TABLE value AS SELECT n,
        CASE n % 50 WHEN 0 THEN 'infinity'::timestamptz WHEN 1 THEN '-infinity' WHEN 2 THEN '4713-01-01 00:00+00 BC'
          WHEN 3 THEN '0099-12-31 23:59:59.9999+00' WHEN 4 THEN '1883-11-18 12:03:58-04:56:02'
          WHEN 5 THEN '12024-01-01 01:02:03.04+00' WHEN 6 THEN NULL
          ELSE to_timestamp((random() - 0.5) * 1e11) END AS a,
        to_timestamp((random() - 0.5) * 4e9)::timestamp AS b, (to_timestamp((random() - 0.5) * 4e9))::date AS c,
        CASE n % 20 WHEN 0 THEN 'NaN'::float8 WHEN 1 THEN '-Infinity' WHEN 2 THEN '-0' WHEN 3 THEN n / 8.0
          ELSE (random() - 0.5) * 10 ^ (n % 40 - 20) END AS d,
        (n / 7.0)::float4 AS e, ((random() - 0.5) * 1.8e19)::int8 AS f, ((random() - 0.5) * 4e9)::int4 AS g,
        n % 3 = 0 AS h, decode(repeat(md5(n::text), n % 3), 'hex') AS i, (random() * 1e6)::numeric(12, 3) AS j,
        md5(n::text)::uuid AS k, repeat(chr(32 + n), n % 9) AS l, jsonb_build_object('n', n, 'é', NULL) AS m
        FROM generate_series(1, 1000) n`)
        for (const zone of ["UTC", "America/New_York", "Asia/Kolkata"]) {
          yield* sql.unsafe(`SET TimeZone = '${zone}'`)
          const names = Object.keys(columns) as Array<keyof typeof columns>
          const texts = yield* sql.unsafe<any>(
            `SELECT ${names.map((name) => `${name}::text`).join()} FROM value ORDER BY n`
          )
          const expected = texts.map((row) =>
            Object.fromEntries(
              names.map((name) => [name, row[name] === null ? null : parserOf(columns[name])(row[name])])
            )
          )
          const select = sql.unsafe<any>(`SELECT ${names.join()} FROM value ORDER BY n`)
          assert.deepStrictEqual(yield* select, expected)
          assert.deepStrictEqual(yield* select.values, expected.map((row) => Object.values(row)))
          assert.deepStrictEqual([...(yield* Stream.runCollect(select.stream))], expected)
          const returned = yield* sql.unsafe<any>(`UPDATE value SET n = n RETURNING ${names.join()}`)
          assert.strictEqual(returned.length, expected.length)
          assert.deepStrictEqual(returned.find(({ k }) => k === expected[77].k), expected[77])
        }
      }),
    60_000
  )
})
