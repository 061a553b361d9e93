import { assert, describe, it } from "@effect/vitest"
import {
  isPartOfParams,
  MASK,
  maskCause,
  maskDetail,
  maskText,
  mentions,
  type Sources,
  textOf,
  ValueMatcher
} from "../../src/internal/mask.js"

const circular: { inner: ReadonlyArray<unknown>; self?: unknown } = { inner: [null, undefined, true, "inner1"] }
circular.self = circular

/** A time whose local day is not that of UTC. */
class Elsewhere extends Date {
  override getDate(): number {
    return super.getDate() + 1
  }
}

describe("what stands in quotes", () => {
  it.each(["\"\"", "''", "``", "«»", "»«", "„“", "“”", "‘’", "「」", "『』"])("is masked: %s", ([open, close]) => {
    assert.strictEqual(maskText(`bad ${open}x${close} here`, {}), `bad ${open}***${close} here`)
  })

  const cases: ReadonlyArray<readonly [text: string, masked: string, sources?: Sources]> = [
    ["'a' b", "'***' b"],
    ["it isn't 'so' or", "it isn't '***' or"],
    // To the last one, since what is quoted may hold some.
    ["bad \"x\" and \"y\" end", "bad \"***\" end"],
    // Cut off.
    ["bad \"x", "bad \"***"],
    ["bad „x", "bad „***"],
    ["bad \"", "bad \"***"],
    // Names.
    ["column \"a\" of \"b\" end", "column \"a\" of \"***\" end"],
    ["Column \"a\" is", "Column \"a\" is"],
    ["column x \"a\"", "column x \"***\""],
    ["mycolumn \"a\"", "mycolumn \"***\""],
    ["my column \"a\"", "my column \"a\""],
    ["column \"\" is", "column \"***\" is"],
    ["bad \"a\" is", "bad \"a\" is", { names: [undefined, "a"] }],
    ["bad \"a\" is", "bad \"***\" is", { names: [undefined, "b"] }],
    // Names, or parameters?
    ["column \"secret1\" is", "column \"***\" is", { params: ["secret1 : x"] }],
    ["column \"secret1\" is", "column \"secret1\" is", { params: ["secret1"], statement: "SELECT secret1" }],
    ["column \"secret1 b\" is", "column \"*** b\" is", { params: ["secret1"] }],
    ["column \"secret1 b\" is", "column \"secret1 b\" is", { params: ["secret1"], statement: "SELECT \"secret1 b\"" }],
    // Quotations of the statement.
    ["bad \"foo\" is", "bad \"foo\" is", { statement: "SELECT foo", quotesStatement: true }],
    ["bad \"foo\" is", "bad \"***\" is", { statement: "SELECT foo", quotesStatement: false }],
    ["bad \"foo\" is", "bad \"***\" is", { statement: "SELECT foo" }],
    ["bad \"foo\" is", "bad \"***\" is", { statement: "SELECT food", quotesStatement: true }],
    ["bad \"foo\" is", "bad \"***\" is", { statement: "SELECT foo", quotesStatement: true, params: ["food"] }]
  ]
  it.each(cases.map(([text, masked, sources = {}]) => [text, masked, sources] as const))(
    "%s",
    (text, masked, sources) => assert.strictEqual(maskText(text, sources), masked)
  )
})

describe("a name", () => {
  const words = `column relation table view index constraint sequence schema database role user host function procedure
    aggregate operator type domain enum parameter encoding language extension tablespace cursor portal statement trigger
    rule policy publication subscription server collation reference savepoint name partition attribute field record
    variable label option wrapper method class family configuration dictionary parser template module different near
    token:`
  it.each(words.split(/\s+/))("follows %s", (word) => {
    assert.strictEqual(maskText(`${word} "a" is`, {}), `${word} "a" is`)
  })
})

describe("a parameter's text", () => {
  it.each<readonly [text: string, params: ReadonlyArray<unknown>, masked: string]>([
    // Of eight characters anywhere, of three as a word, shorter ones not.
    ["xabcdefghx is", ["abcdefgh"], "x***x is"],
    ["xabcdefg abcdefgx abcdefg", ["abcdefg"], "xabcdefg abcdefgx ***"],
    ["abc xabc abcx _abc abc$ abc", ["abc"], "*** xabc abcx _abc abc$ ***"],
    ["ab ab", ["ab"], "ab ab"],
    ["", ["", " "], ""],
    ["ABC is", ["abc"], "*** is"],
    ["abc is", ["ABC"], "*** is"],
    // Letters that have the same capital, or the same small one; a sigma at the end of a word.
    ["no ΚS3CR3T here", ["ϰS3cr3t"], "no *** here"],
    ["kelvin1 is", ["\u212Aelvin1"], "*** is"],
    ["no ΛΌΓΟΣ1 here", ["λόγος"], "no ΛΌΓΟΣ1 here"],
    ["no ΛΌΓΟΙΛΌΓΟΣ1 here", ["λόγοιλόγος"], "no ***1 here"],
    // No pattern.
    ["a.c+ abc aac+", ["a.c+"], "*** abc aac+"],
    ["a-b-c (x|y)", ["a-b-c", "(x|y)"], "*** ***"],
    // Numbers, but for those of types.
    ["1 2 -3 +4 1.5 5 x6 7x 89", [1, 2n, "-3", "+4", "1.5", 5n, 6, 7, 8], "*** *** *** *** *** *** x6 7x 89"],
    ["1.5.6 1x5 is", ["1."], "1.5.6 1x5 is"],
    ["3 varying(3), then 3 or (3)", [3], "*** varying(3), then *** or (***)"],
    ["numeric(3,1) and f(x,1)", [1], "numeric(3,1) and f(x,***)"],
    ["f(abc) is", ["abc"], "f(***) is"],
    // What is inside of others.
    ["the inner1 is", [circular], "the *** is"],
    [
      "hex deadbeef and hello1",
      [Buffer.from("deadbeef", "hex"), new TextEncoder().encode("hello1")],
      "hex *** and ***"
    ],
    [
      "part ell and hello",
      [new Uint8Array(new TextEncoder().encode("hello").buffer, 1, 3)],
      "part *** and hello"
    ],
    ["2024-03-05T23:30:00.000Z on 2024-03-05", [new Date("2024-03-05T23:30:00Z")], "*** on ***"],
    ["on 2024-03-05 local", [new Date(2024, 2, 5, 0, 1)], "on *** local"],
    ["on 2024-03-05 local", [new Date(2024, 2, 5, 23, 59)], "on *** local"],
    ["on 2024-03-05 or 2024-03-06", [new Elsewhere("2024-03-05T12:00:00Z")], "on *** or ***"],
    ["Invalid Date is", [new Date(Number.NaN)], "Invalid Date is"],
    // Trimmed; one that cannot be there is not looked for; the longest goes first.
    ["padded is", ["  padded  "], "*** is"],
    ["longer than that", ["x".repeat(100), "than"], "longer *** that"],
    ["secret secret-more", ["secret", "secret-more"], "*** ***"],
    // Its quotes mislead nobody.
    ["say a'b'c done", ["a'b'c"], "say *** done"],
    ["say a'bc done 'x' end", ["a'bc"], "say *** done '***' end"],
    ["column \"a\"b\" is", ["a\"b"], "column \"***\" is"]
  ])("%s", (text, params, masked) => {
    assert.strictEqual(maskText(text, { params }), masked)
  })

  it("is bytes in hexadecimal, whoever they are of", () => {
    assert.strictEqual(maskText("bytes 0x41 0xfA end 0x4 x0x41", {}), "bytes *** end 0x4 x0x41")
  })

  it("is recognized in part, in any case", () => {
    assert.isTrue(isPartOfParams("FOO", ["a", "xfoox"]))
    assert.isTrue(isPartOfParams("foo", ["FOO"]))
    assert.isTrue(isPartOfParams("ΚX", ["ϰx"]))
    assert.isFalse(isPartOfParams("foobar", ["foo"]))
    assert.isFalse(isPartOfParams("foo", ["bar"]))
    assert.isFalse(isPartOfParams("foo", undefined))
  })
})

describe("a DETAIL's tuples", () => {
  const cases: ReadonlyArray<readonly [text: string, masked: string, params?: ReadonlyArray<unknown>]> = [
    ["Key (a)=(b) exists.", "Key (a)=(***) exists."],
    ["Key (a, b)=(1, (2)) is \"x\" there", "Key (a, b)=(***) is \"***\" there"],
    ["Key (a) = (b) x", "Key (a) = (***) x"],
    ["Key (a) is (b) x", "Key (***) x"],
    ["Failing row contains (1, x).", "Failing row contains (***)."],
    ["Key (a)=(b", "Key (a)=(***"],
    ["open (never", "open (***"],
    [") open (never", ") open (***"],
    ["no \"x\" here", "no \"***\" here"],
    ["secret9 (x) of secret9", "*** (***) of ***", ["secret9"]],
    ["Key (a)=(v)w) x", "Key (a)=(***) x", ["v)w"]],
    ["say a(b and \"x\"", "say *** and \"***\"", ["a(b"]],
    // Names stand in one pair of parentheses, right before the equals sign.
    ["Key (a, lower(b::text))=(x) exists.", "Key (a, lower(b::text))=(***) exists."],
    ["Row (x) has (a)=(y) now", "Row (***) now"],
    ["Key (a=(x) has (b)=(y", "Key (***"]
  ]
  it.each(cases.map(([text, masked, params]) => [text, masked, params] as const))(
    "%s",
    (text, masked, params) => assert.strictEqual(maskDetail(text, { params }), masked)
  )
})

describe("a DETAIL that should hold no rows", () => {
  it.each<readonly [text: string, masked: string]>([
    // What a server says.
    ["view v depends on function f(integer, text[])", "view v depends on function f(integer, text[])"],
    ["aggregate a() depends on function f(\"x\")", "aggregate a() depends on function f(\"***\")"],
    ["Returned type numeric(10,2) does not match.", "Returned type numeric(10,2) does not match."],
    ["waits for ExclusiveLock on tuple (0,12) of relation 1", "waits for ExclusiveLock on tuple (0,12) of relation 1"],
    ["no parentheses", "no parentheses"],
    // And what others do.
    ["Key (email)=(ada@example.com) already exists.", "Key (email)=(***) already exists."],
    ["Key(email)=(ada) exists", "Key(email)=(***) exists"],
    ["Key (a)=(x) of f(integer) here", "Key (a)=(***) here"],
    ["of f(integer): (ada) here", "of f(integer): (***) here"],
    ["user(ada@example.com) here", "user(***) here"],
    ["row (1, ada", "row (***"],
    ["tuple (0,ada)", "tuple (***)"],
    ["see (this)", "see (***)"]
  ])("%s", (text, masked) => assert.strictEqual(maskDetail(text, {}, "signatures"), masked))
})

describe("mentions", () => {
  it("finds whole words", () => {
    assert.isTrue(mentions("foo", "foo"))
    assert.isTrue(mentions("a foo_ xfoo foo", "foo"))
    assert.isTrue(mentions("(foo bar)", "foo bar"))
    assert.isFalse(mentions("foo_ xfoo foo1", "foo"))
    assert.isFalse(mentions(undefined, "foo"))
  })
})

describe("what was thrown", () => {
  it("has a text", () => {
    assert.strictEqual(textOf(new Error("m")), "m")
    assert.strictEqual(textOf({ message: "m" }), "m")
    assert.strictEqual(textOf("s"), "s")
    for (const other of [1, null, {}, { message: 1 }]) {
      assert.strictEqual(textOf(other), "an unknown failure")
    }
  })

  it("is masked as a cause, and keeps its name and places", () => {
    const thrown = Object.assign(new RangeError("bad 'v'"), { value: "v" })
    const cause = maskCause(thrown, {})
    assert.deepStrictEqual(Object.keys(cause!), ["name"])
    assert.strictEqual(String(cause), "RangeError: bad '***'")
    const places = thrown.stack?.slice("RangeError: bad 'v'".length)
    assert.include(places, "mask.test.ts")
    assert.deepStrictEqual(Object.getOwnPropertyDescriptor(cause, "stack"), {
      value: `RangeError: bad '***'${places}`,
      enumerable: false,
      configurable: true,
      writable: true
    })
  })

  it("has no places where its stack may hold its message", () => {
    const thrown = new Error("bad 'v'")
    for (const stack of ["Error: 'v'\n    at v", "Error: bad 'v' v", undefined]) {
      thrown.stack = stack!
      assert.strictEqual(maskCause(thrown, {})?.stack, "Error: bad '***'")
    }
  })

  it("has places where it says nothing", () => {
    const thrown = new Error("")
    thrown.stack = "Error\n    at place"
    assert.strictEqual(maskCause(thrown, {})?.stack, "Error: \n    at place")
  })

  it("is no cause unless it is an error", () => {
    assert.strictEqual(maskCause("x", {}), undefined)
    assert.strictEqual(maskCause({ message: "x" }, {}), undefined)
  })

  it("shows no value as the name of something, with its quotes or without", () => {
    for (const value of [",.\"S3cr3tV4lue,.\"", "\"S3cr3tV4lue\"", "a.\"S3cr3tV4lue\""]) {
      const shown = maskText(`relation "${value.replaceAll("\"", "")}" does not exist`, {
        statement: "SELECT $1::regclass",
        params: [value]
      })
      assert.notInclude(shown, "S3cr3t", value)
    }
  })
})

describe("a long value", () => {
  const secret = "S3cr3t.V4lue/"
  const long = secret.repeat(1_000)

  it.each([65, 1_000, 13_000])("is masked wherever it is shown, whole or in part: %i characters", (length) => {
    const value = long.slice(0, length)
    const params = [value]
    assert.strictEqual(maskText(`bad ${value} there`, { params }), "bad *** there")
    assert.strictEqual(maskText(`bad ${value.toUpperCase()} there`, { params }), "bad *** there")
    assert.strictEqual(maskText(`bad "${value}" there`, { params }), "bad \"***\" there")
    assert.strictEqual(maskText(`bad ${value.slice(3, 50)}... there`, { params }), "bad ***... there")
    assert.strictEqual(maskDetail(`Key (a)=(${value}) exists.`, { params }), "Key (a)=(***) exists.")
    assert.isTrue(isPartOfParams(value.slice(5, 60), params))
  })

  it("does not mislead by its quotes", () => {
    const value = `${long}"'(`
    assert.strictEqual(maskText(`say ${value} done 'x' end`, { params: [value] }), "say *** done '***' end")
  })

  it("is masked in a text of which only the beginning and the end are shown", () => {
    const filler = "some words, ".repeat(2_000)
    for (let at = 8_000; at < 8_300; at += 23) {
      for (const value of [long.slice(0, 60), long.slice(0, 300), long]) {
        const text = filler.slice(0, at) + value + filler
        const backwards = filler + value + filler.slice(0, at)
        for (const shown of [maskText(text, { params: [value] }), maskText(backwards, { params: [value] })]) {
          assert.isBelow(shown.length, 17_000)
          assert.include(shown, MASK)
          assert.notMatch(shown, /S3|V4/)
        }
      }
    }
  })

  it("of ten million characters is masked", () => {
    for (const value of ["x".repeat(10_000_000), "ab".repeat(5_000_000), "é".repeat(1_000_000)]) {
      assert.strictEqual(maskText(`bad "${value}" there`, { params: [value] }), "bad \"***\" there")
      assert.strictEqual(maskText("the server's own words", { params: [value] }), "the server's own words")
    }
  })
})

describe("the work", () => {
  const steps = (text: string, values: ReadonlyArray<string>): number => {
    const found = new ValueMatcher(text, values)
    found.mask(text)
    return found.steps
  }

  it.each<readonly [name: string, make: (n: number) => readonly [text: string, values: ReadonlyArray<string>]]>([
    ["one letter", (n) => ["a".repeat(n), ["a".repeat(n)]]],
    ["common beginnings", (n) => ["a".repeat(n), Array.from({ length: 100 }, (_, i) => "a".repeat(i * n / 100) + "b")]],
    ["common ends", (n) => ["a".repeat(n), Array.from({ length: 100 }, (_, i) => "b" + "a".repeat(i * n / 100))]],
    ["many short ones", (n) => ["123 ".repeat(n / 4), Array.from({ length: n }, (_, i) => String(i))]],
    ["short ones of each length", (n) => ["a".repeat(n), Array.from({ length: 64 }, (_, i) => "a".repeat(i + 1))]],
    ["none of them there", (n) => ["ab".repeat(n / 2), ["ac".repeat(n), "ba".repeat(n / 2) + "c"]]]
  ])("is proportional to the size of text and values: %s", (_, make) => {
    const sizes = [1_000, 10_000, 100_000].map((n) => {
      const [text, values] = make(n)
      return steps(text, values) / (text.length + values.reduce((size, value) => size + value.length, 0))
    })
    for (const perCharacter of sizes) {
      // One for each length of a short value, one for the parts of the long ones, and for those that were found.
      assert.isBelow(perCharacter, 70)
    }
    assert.isBelow(sizes[2], sizes[1] * 1.5)
  })
})

describe("what cannot be read", () => {
  const boom = (): never => {
    throw new Error("boom")
  }
  /** Throws from the second time on. */
  const later = (): () => string => {
    let calls = 0
    return () => ++calls > 1 ? boom() : "S3cr3tV4lue"
  }
  const revoked = Proxy.revocable({}, {})
  revoked.revoke()
  const revokedArray = Proxy.revocable([], {})
  revokedArray.revoke()
  const endless = (): object => ({
    get next() {
      return endless()
    }
  })
  const cyclic: Array<unknown> = []
  cyclic.push(cyclic, { cyclic })
  const detached = new Uint8Array(8)
  structuredClone(detached, { transfer: [detached.buffer] })
  const hidden: ReadonlyArray<readonly [name: string, value: unknown]> = [
    ["a getter that throws", Object.defineProperty({}, "a", { enumerable: true, get: boom })],
    ["a proxy that throws", new Proxy({}, { get: boom, ownKeys: boom, getPrototypeOf: boom })],
    ["a revoked proxy", revoked.proxy],
    ["a revoked array", revokedArray.proxy],
    ["an object without an end", endless()],
    ["a toJSON that throws", { toJSON: boom }],
    ["a toPostgres that throws", { toPostgres: boom }],
    ["a function whose text throws", Object.assign(() => 1, { toString: boom })],
    ["a date that is none", Object.create(Date.prototype)],
    ["a date whose text throws", Object.assign(new Date(0), { toISOString: boom })],
    ["an integer of very many bits", 1n << 2_000_000n],
    ["bytes that were given away", detached]
  ]

  it.each(hidden)("masks all of a text: %s", (_, value) => {
    for (const params of [[value], [{ inner: [value] }], ["other", value]]) {
      assert.strictEqual(maskText("bad \"x\" here", { params }), MASK)
      assert.strictEqual(maskDetail("Key (a)=(b) exists.", { params }), MASK)
      assert.strictEqual(maskCause(new Error("bad 'x'"), { params })?.message, MASK)
      assert.isTrue(isPartOfParams("x", params))
    }
  })

  it("masks all of a text from the second time on", () => {
    const once = [Object.defineProperty({}, "a", { enumerable: true, get: later() }), { toJSON: later() }]
    for (const value of once) {
      assert.strictEqual(maskText("bad S3cr3tV4lue here", { params: [value] }), "bad *** here")
      assert.strictEqual(maskText("bad S3cr3tV4lue here", { params: [value] }), MASK)
    }
  })

  it.each<readonly [name: string, value: unknown]>([
    ["a cycle", cyclic],
    ["a symbol", Symbol("s")],
    ["an invalid date", new Date(Number.NaN)],
    ["no prototype", Object.assign(Object.create(null), { a: 1 })],
    ["boxed", [new Number(1), new Boolean(true)]],
    ["a function", () => 1]
  ])("is not %s", (_, value) => {
    assert.strictEqual(maskText("bad here", { params: [value] }), "bad here")
  })

  it("is masked as it is encoded", () => {
    assert.strictEqual(maskText("bad S3cr3t here", { params: [{ toJSON: () => ["S3cr3t"] }] }), "bad *** here")
    assert.strictEqual(maskText("bad S3cr3t here", { params: [{ toPostgres: () => "S3cr3t" }] }), "bad *** here")
    assert.strictEqual(maskText("bad S3cr3t here", { params: [new String("S3cr3t")] }), "bad *** here")
  })

  it("is no text of an error", () => {
    for (const value of [revoked.proxy, Object.defineProperty({}, "message", { get: boom })]) {
      assert.strictEqual(textOf(value), "an unknown failure")
      assert.strictEqual(maskCause(value, {}), undefined)
    }
    assert.strictEqual(maskCause(Object.defineProperty(new Error(), "stack", { get: boom }), {}), undefined)
  })

  it("is a text with more names than a server's", () => {
    const shown = maskText("column \"a\" of ".repeat(10_000), { statement: "a" })
    assert.include(shown, "column \"a\" of column \"a\" of")
    assert.isBelow(shown.length, 1_000)
  })
})
