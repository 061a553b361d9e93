/**
 * Masks the values in the messages of a database.
 *
 * Servers quote parameters and rows in their messages. Two rules, applied together, keep them out of errors:
 *
 * 1. By place. Text in quotes is masked, whatever its length, unless it is known to be a name: it follows a word for
 *    something of the schema (`column "x"`) or is one of the names that the server sent in a field of its own.
 *    Servers do not escape what they quote, so a masked quotation reaches to the last quotation mark of the text.
 *    A name may be a parameter too (`$1::regclass`): it is masked if each of its parts is a part of one parameter.
 *    Tuples in a DETAIL (`Key (email)=(x@y)`, `Failing row contains (1, x)`), whatever its code, are masked likewise, to
 *    the last parenthesis.
 * 2. By value. The text of a parameter is masked elsewhere too: anywhere if it has at least `anywhereFrom` characters,
 *    as a whole word if it has at least `wordFrom`, and a number as a whole word of any length. Shorter values cannot
 *    be told from the text around them; only a text that the application raises itself can contain them outside of
 *    quotes. Of a value longer than `maxExact` characters, every `partLength` characters in a row are masked.
 *
 * The time is linear in the size of the text and of the values, and nothing here throws: if a value cannot be read, the
 * whole text is masked.
 */
import * as BigDecimal from "effect/BigDecimal"
import * as Predicate from "effect/Predicate"
import { isStringObject } from "node:util/types"

/** Replaces a value. */
export const MASK = "***"

const anywhereFrom = 8
const wordFrom = 3

/** What is known about a text. */
export interface Sources {
  readonly statement?: string | undefined
  readonly params?: ReadonlyArray<unknown> | undefined
  /** Names that the server sent in fields of their own: never values. */
  readonly names?: ReadonlyArray<string | undefined> | undefined
  /** Whether the message may quote the statement's own text. That is no secret, so the quotation is not masked. */
  readonly quotesStatement?: boolean | undefined
}

const quotes: { readonly [open: string]: string } = {
  "\"": "\"",
  "'": "'",
  "`": "`",
  "«": "»",
  "»": "«",
  "„": "“",
  "“": "”",
  "‘": "’",
  "「": "」",
  "『": "』"
}
const isQuotationMark = (character: string): boolean => character in quotes || Object.values(quotes).includes(character)

// The words of the servers' messages that are followed by the quoted name of something.
const namesNext = new RegExp(
  "(?:^|[^\\p{L}])(?:column|relation|table|view|index|constraint|sequence|schema|database|role|user|host|function|" +
    "procedure|aggregate|operator|type|domain|enum|parameter|encoding|language|extension|tablespace|cursor|portal|" +
    "statement|trigger|rule|policy|publication|subscription|server|collation|reference|savepoint|name|partition|" +
    "attribute|field|record|variable|label|option|wrapper|method|class|family|configuration|dictionary|parser|" +
    "template|module|different|near|token:) $",
  "iu"
)

const hexBytes = /\b0x[0-9a-f]{2}(?: 0x[0-9a-f]{2})*/gi
const wordCharacter = /[\p{L}\p{N}_$]/u
const numeric = /^[-+]?\d+(?:\.\d+)?$/

const pad = (n: number): string => String(n).padStart(2, "0")

const dateTexts = (date: Date): ReadonlyArray<string> =>
  Number.isNaN(date.getTime()) ? [] : [
    date.toISOString(),
    date.toISOString().slice(0, 10),
    `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`
  ]

/** With more objects, or an integer of more bits, the values count as unreadable. */
const maxObjects = 100_000
const maxBits = 1_000_000

/** What the methods of an object encode it as, if it has such methods. */
const encodings = (value: object): ReadonlyArray<unknown> => {
  const { toJSON, toPostgres } = value as { readonly toJSON?: unknown; readonly toPostgres?: unknown }
  return [
    ...(typeof toJSON === "function" ? [Reflect.apply(toJSON, value, [""])] : []),
    ...(typeof toPostgres === "function" ? [Reflect.apply(toPostgres, value, [(inner: unknown) => inner])] : [])
  ]
}

/**
 * The texts that parameters may take in a message: their own, and those of everything inside them. Undefined if one of
 * them cannot be read: a getter, a proxy or a method throws, or there are too many objects.
 */
const textsOf = (params: ReadonlyArray<unknown> | undefined): ReadonlyArray<string> | undefined => {
  const texts: Array<string> = []
  const left: Array<unknown> = [params]
  const seen = new Set<object>()
  try {
    while (left.length > 0) {
      const value = left.pop()
      if (seen.size > maxObjects || (typeof value === "bigint" && BigInt.asIntN(maxBits, value) !== value)) {
        return undefined
      }
      if (typeof value === "string") {
        texts.push(value)
        if (value.includes("\"")) {
          // A name is shown without its quotes.
          texts.push(value.replaceAll("\"", ""))
        }
      } else if (["number", "bigint", "symbol", "function"].includes(typeof value)) {
        texts.push(String(value))
      } else if (value instanceof Date) {
        texts.push(...dateTexts(value))
      } else if (BigDecimal.isBigDecimal(value)) {
        texts.push(BigDecimal.format(value))
      } else if (ArrayBuffer.isView(value)) {
        const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
        texts.push(bytes.toString("hex"), bytes.toString("utf8"))
      } else if (typeof value === "object" && value !== null && !seen.has(value)) {
        seen.add(value)
        const encoded = encodings(value)
        const inside = isStringObject(value) ? [String.prototype.valueOf.call(value)] : Object.values(value)
        for (const inner of encoded.concat(inside)) {
          left.push(inner)
        }
      }
    }
    return texts
  } catch {
    return undefined
  }
}

/** Folds the case of all letters, of which some have more than two. The result is as long as the text. */
const fold = (text: string): string =>
  text.replace(/\p{ASCII}+|\P{ASCII}/gu, (part) => {
    const lower = part.toLowerCase()
    const upper = lower.toUpperCase()
    return upper.length === part.length ? upper : lower.length === part.length ? lower : part
  })

/**
 * Whether a fragment is a parameter's text, or a part of it. Case does not count: servers fold names. True where a
 * parameter cannot be read.
 */
export const isPartOfParams = (fragment: string, params: ReadonlyArray<unknown> | undefined): boolean => {
  if (params === undefined) {
    return false
  }
  const texts = textsOf(params)
  return texts === undefined || isPartOf(fragment, texts)
}

const isPartOf = (fragment: string, texts: ReadonlyArray<string>): boolean => {
  const folded = fold(fragment)
  return texts.some((text) => text.length >= folded.length && fold(text).includes(folded))
}

// What spells its characters otherwise: `\u0053` in JSON and in arrays, `U&"!0053"` in names.
const escapes = /\\|u&"/i

/**
 * Whether a quoted name may come from a parameter. Servers show a name as they understand it: in lower case, without the
 * quotes and the spaces around its parts, cut, and with its escapes decoded. So each of its parts is looked for, and a
 * parameter with escapes may be any name.
 */
const isNameInTexts = (name: string, texts: ReadonlyArray<string>): boolean => {
  const parts = fold(name).split(/[\s.]+/)
  return texts.some((text) => {
    const folded = fold(text)
    return escapes.test(text) || parts.every((part) => folded.includes(part))
  })
}

const isWordAt = (text: string, from: number, to: number): boolean =>
  !(from > 0 && wordCharacter.test(text[from - 1])) && !(to < text.length && wordCharacter.test(text[to]))

// `varying(3)` and `numeric(3,1)` are types, even if a parameter is 3 too. No type has many modifiers.
const isTypeModifier = (text: string, from: number): boolean =>
  /[\p{L}\p{N}_]\([\d,]*$/u.test(text.slice(Math.max(0, from - 32), from))

const maxExact = 64
const partLength = 32

/** How many characters of a long value are examined at a time. */
const pieceLength = 65_536

/** Odd, and random in each process, so that texts with the same hash cannot be chosen. */
const factor = (Math.floor(Math.random() * 2 ** 31) * 2 + 1) | 0
const factorOfFirst = Array.from({ length: partLength }).reduce<number>((power) => Math.imul(power, factor), 1)

/** The values that are looked for in one text. */
export class ValueMatcher {
  /** Those of at most `maxExact` characters, by their length. */
  private readonly exact = new Map<number, Set<string>>()
  /** The parts of longer ones that the text holds. */
  private readonly parts = new Set<string>()
  /** The number of windows that were examined, of the texts and of the values. */
  steps = 0

  constructor(text: string, values: ReadonlyArray<string>) {
    const long: Array<string> = []
    for (const value of values) {
      const trimmed = value.trim()
      if (trimmed.length > maxExact) {
        long.push(trimmed)
      } else if (trimmed.length >= wordFrom || numeric.test(trimmed)) {
        const folded = fold(trimmed)
        const same = this.exact.get(folded.length)
        if (same === undefined) {
          this.exact.set(folded.length, new Set([folded]))
        } else {
          same.add(folded)
        }
      }
    }
    if (long.length > 0 && text.length >= partLength) {
      this.findParts(fold(text), long)
    }
  }

  /** Which characters of a text, or of a piece of it, are to be masked. */
  covered(text: string): Uint8Array {
    const covered = new Uint8Array(text.length)
    const folded = fold(text)
    for (const { 0: bytes, index } of text.matchAll(hexBytes)) {
      covered.fill(1, index, index + bytes.length)
    }
    if (this.parts.size > 0) {
      this.cover(folded, partLength, this.parts, (at) => covered.fill(1, at, at + partLength))
    }
    // The longest first: a value next to a masked one counts as a whole word.
    for (const [length, values] of Array.from(this.exact).sort(([a], [b]) => b - a)) {
      this.cover(folded, length, values, (at, value) => {
        const isWord = (): boolean =>
          !(at > 0 && covered[at - 1] === 0 && wordCharacter.test(text[at - 1])) &&
          !(at + length < text.length && covered[at + length] === 0 && wordCharacter.test(text[at + length]))
        if (!(numeric.test(value) && isTypeModifier(text, at)) && (length >= anywhereFrom || isWord())) {
          covered.fill(1, at, at + length)
        }
      })
    }
    return covered
  }

  mask(text: string, covered = this.covered(text)): string {
    let out = ""
    let done = 0
    for (let at = covered.indexOf(1); at !== -1; at = covered.indexOf(1, done)) {
      out += text.slice(done, at) + MASK
      const end = covered.indexOf(0, at)
      done = end === -1 ? text.length : end
    }
    return out + text.slice(done)
  }

  private cover(text: string, length: number, values: Set<string>, found: (at: number, value: string) => void): void {
    for (let at = 0; at + length <= text.length; at++) {
      this.steps++
      const window = text.slice(at, at + length)
      if (values.has(window)) {
        found(at, window)
      }
    }
  }

  private findParts(text: string, long: ReadonlyArray<string>): void {
    const byHash = new Map<number, Set<string>>()
    this.hashes(text, (hash, at) => {
      const part = text.slice(at, at + partLength)
      byHash.set(hash, (byHash.get(hash) ?? new Set()).add(part))
    })
    for (const value of long) {
      // In pieces, each of which begins with the end of the one before: a value may be very large.
      for (let from = 0; from < value.length && byHash.size > 0; from += pieceLength) {
        const piece = fold(value.slice(from, from + pieceLength + partLength - 1))
        this.hashes(piece, (hash, at) => {
          const same = byHash.get(hash)
          const part = same === undefined ? "" : piece.slice(at, at + partLength)
          if (same?.delete(part) === true) {
            this.parts.add(part)
            if (same.size === 0) {
              byHash.delete(hash)
            }
          }
        })
      }
    }
  }

  /** The hash of each part of a text, computed from that of the previous part. */
  private hashes(text: string, visit: (hash: number, at: number) => void): void {
    let hash = 0
    for (let end = 0; end < text.length; end++) {
      this.steps++
      hash = (Math.imul(hash, factor) + text.charCodeAt(end)) | 0
      const at = end + 1 - partLength
      if (at > 0) {
        hash = (hash - Math.imul(factorOfFirst, text.charCodeAt(at - 1))) | 0
      }
      if (at >= 0) {
        visit(hash, at)
      }
    }
  }
}

/** The longest text that is shown. Of a longer one, the beginning and the end are shown. */
const maxText = 16_384

const shorten = (text: string, texts: ReadonlyArray<string>): string => {
  if (text.length <= maxText) {
    return text
  }
  // It is not cut within a value, of which a part would not be recognized.
  const head = text.slice(0, maxText / 2 + maxExact)
  const tail = text.slice(-maxText / 2 - maxExact)
  const values = new ValueMatcher(`${head}\n${tail}`, texts)
  const end = values.covered(head).lastIndexOf(0, maxText / 2 - 1) + 1
  const start = values.covered(tail).indexOf(0, maxExact)
  return head.slice(0, end) + MASK + (start === -1 ? "" : tail.slice(start))
}

// A value that contains quotes or parentheses would mislead the first rule, so it is masked before that.
const misleading = /["'`«»„“”‘’「」『』()]/

/** The text, shortened and without the misleading values, and the matcher of all values. */
const prepare = (
  text: string,
  texts: ReadonlyArray<string>
): { readonly text: string; readonly values: ValueMatcher } => {
  const short = shorten(text, texts)
  const values = new ValueMatcher(short, texts)
  const first = texts.filter((value) => misleading.test(value))
  if (first.length === 0) {
    return { text: short, values }
  }
  const matcher = new ValueMatcher(short, first)
  const covered = matcher.covered(short)
  // A quotation mark at an end of what is masked may be the server's own, around a part of the value.
  const inner = covered.map((masked, at) =>
    isQuotationMark(short[at]) && !(covered[at - 1] === 1 && covered[at + 1] === 1) ? 0 : masked
  )
  return { text: matcher.mask(short, inner), values }
}

/** Whether a text contains one or several words, and not only as parts of other words. */
export const mentions = (text: string | undefined, word: string): boolean => {
  for (let at = text?.indexOf(word) ?? -1; at !== -1; at = text!.indexOf(word, at + 1)) {
    if (isWordAt(text!, at, at + word.length)) {
      return true
    }
  }
  return false
}

// No name is longer, and no message of a server holds more of them.
const maxName = 256
const maxNames = 20

/** How a quoted text is masked: not at all, by its values, or as a whole. */
const kindOfQuoted = (
  quoted: string,
  before: string,
  sources: Sources,
  texts: ReadonlyArray<string>
): "asIs" | "byValue" | "value" => {
  if (sources.names?.includes(quoted) === true) {
    return "asIs"
  }
  if (quoted === "" || quoted.length > maxName || quoted.includes(MASK)) {
    return "value"
  }
  const inStatement = mentions(sources.statement, quoted)
  if (namesNext.test(before)) {
    if (inStatement) {
      // The beginning of a longer name, which holds a quotation mark, is no name of the statement.
      return isPartOf(`${quoted.slice(quoted.lastIndexOf(".") + 1)}""`, texts) ? "value" : "asIs"
    }
    return isNameInTexts(quoted, texts) ? "value" : "byValue"
  }
  return inStatement && sources.quotesStatement === true && !isPartOf(quoted, texts) ? "asIs" : "value"
}

const maskQuotes = (message: string, sources: Sources, texts: ReadonlyArray<string>): string => {
  const { text, values } = prepare(message, texts)
  let out = ""
  let done = 0
  let at = 0
  let names = 0
  while (at < text.length) {
    const open = text[at]
    const close = quotes[open]
    // An apostrophe inside of a word does not open a quotation.
    if (close === undefined || (open === "'" && at > 0 && wordCharacter.test(text[at - 1]))) {
      at++
      continue
    }
    const before = text.slice(done, at)
    const end = text.indexOf(close, at + 1)
    const quoted = end === -1 ? "" : text.slice(at + 1, end)
    const kind = ++names > maxNames ? "value" : kindOfQuoted(quoted, before, sources, texts)
    out += values.mask(before) + open
    if (kind === "value") {
      const last = text.lastIndexOf(close)
      out += last > at ? MASK + close : MASK
      done = last > at ? last + 1 : text.length
    } else {
      out += (kind === "asIs" ? quoted : values.mask(quoted)) + close
      done = end + 1
    }
    at = done
  }
  return out + values.mask(text.slice(done))
}

/** Masks with the texts of the parameters, or masks everything if these cannot be read. */
const masked = (sources: Sources, mask: (texts: ReadonlyArray<string>) => string): string => {
  try {
    const texts = textsOf(sources.params)
    return texts === undefined ? MASK : mask(texts)
  } catch {
    return MASK
  }
}

/** Masks the values in a message. */
export const maskText = (message: string, sources: Sources): string =>
  masked(sources, (texts) => maskQuotes(message, sources, texts))

// A function or a type with its arguments, and a row's place: what the server's own details have in parentheses.
const signature = /[\p{L}\p{N}_$"]\([\p{L}\p{N}_$ ,."[\]]*\)|\btuple \(\d+,\d+\)/gu

/** The names before the `=` of a tuple: one pair of parentheses, which may hold others, right in front of it. */
const namesOf = (tuple: string): string => {
  let depth = 0
  for (let at = 0; at < tuple.length; at++) {
    depth += tuple[at] === "(" ? 1 : tuple[at] === ")" ? -1 : 0
    if (depth === 0) {
      const equals = /^ ?= ?(?=\()/.exec(tuple.slice(at + 1))
      return equals === null ? "" : tuple.slice(0, at + 1) + equals[0]
    }
  }
  return ""
}

/**
 * Masks the values in a PostgreSQL DETAIL: also the tuples, except for the names before the `=`. With `"signatures"`,
 * for a DETAIL that should have no rows, the signatures of functions and types are not masked.
 */
export const maskDetail = (detail: string, sources: Sources, stays?: "signatures"): string =>
  masked(sources, (texts) => {
    const { text } = prepare(detail, texts)
    const tuples = stays === undefined ? text : text.replace(signature, (found) => " ".repeat(found.length))
    const first = tuples.indexOf("(")
    if (first === -1) {
      return maskQuotes(text, sources, texts)
    }
    const names = namesOf(text.slice(first))
    const close = text.lastIndexOf(")")
    return maskQuotes(text.slice(0, first), sources, texts) + names + "(" + MASK +
      (close > first + names.length && !text.includes("(", close) ? maskQuotes(text.slice(close), sources, texts) : "")
  })

const unknownFailure = "an unknown failure"

/** The text of whatever was thrown. */
export const textOf = (error: unknown): string => {
  try {
    const text = Predicate.hasProperty(error, "message") ? error.message : error
    return Predicate.isString(text) ? text : unknownFailure
  } catch {
    return unknownFailure
  }
}

/**
 * The cause of an unexpected error: an Error with the name, the masked message and the places of the stack, and nothing
 * else of the thrown value. Undefined if that is not an Error, or cannot be read.
 */
export const maskCause = (error: unknown, sources: Sources): Error | undefined => {
  try {
    if (!(error instanceof Error)) {
      return undefined
    }
    const { message, name, stack } = error
    const out = new Error(maskText(message, sources))
    out.name = name
    const header = message === "" ? name : `${name}: ${message}`
    const places = stack?.startsWith(`${header}\n`) === true ? stack.slice(header.length) : ""
    const shown = `${out.name}: ${out.message}${places}`
    Object.defineProperty(out, "stack", { value: shown, enumerable: false, configurable: true, writable: true })
    return out
  } catch {
    return undefined
  }
}
