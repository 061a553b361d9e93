/**
 * Takes the values out of what a database said.
 *
 * Servers quote parameters and rows in their messages. Two rules, applied together, keep them out of errors:
 *
 * 1. By place. What stands in quotes is masked, whatever its length, unless it is known to be a name: it follows a word
 *    for something of the schema (`column "x"`) or is one of the names that the server sent in a field of its own.
 *    Servers do not escape what they quote, so a masked quotation reaches to the last quotation mark of the text.
 *    Tuples in a DETAIL (`Key (email)=(x@y)`, `Failing row contains (1, x)`), whatever its code, are masked likewise, to
 *    the last parenthesis.
 * 2. By value. Wherever else a parameter's text stands, it is masked: anywhere from `anywhereFrom` characters, as a
 *    whole word from `wordFrom` characters, a number as a whole word of any length. Shorter ones cannot be told from
 *    the text around them; only a text that the application raises itself can hold them outside of quotes.
 */
import * as Predicate from "effect/Predicate"

/** What stands where a value stood. */
export const MASK = "***"

const anywhereFrom = 8
const wordFrom = 3

/** What is known about a text. */
export interface Sources {
  readonly statement?: string | undefined
  readonly params?: ReadonlyArray<unknown> | undefined
  /** Names that the server sent in fields of their own: never values. */
  readonly names?: ReadonlyArray<string | undefined> | undefined
  /** The text speaks about the statement's own text, which is no secret: a quotation from it stays. */
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

function* dateForms(date: Date): Iterable<string> {
  if (!Number.isNaN(date.getTime())) {
    yield date.toISOString()
    yield date.toISOString().slice(0, 10)
    yield `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`
  }
}

/** The texts that parameters may take in a message: their own, and those of everything inside them. */
function* forms(params: ReadonlyArray<unknown>): Iterable<string> {
  const left: Array<unknown> = [params]
  const seen = new Set<object>()
  while (left.length > 0) {
    const value = left.pop()
    if (typeof value === "string") {
      yield value
      if (value.includes("\"")) {
        // As the name of something it is shown without its quotes.
        yield value.replaceAll("\"", "")
      }
    } else if (typeof value === "number" || typeof value === "bigint") {
      yield String(value)
    } else if (value instanceof Date) {
      yield* dateForms(value)
    } else if (ArrayBuffer.isView(value)) {
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
      yield bytes.toString("hex")
      yield bytes.toString("utf8")
    } else if (typeof value === "object" && value !== null && !seen.has(value)) {
      seen.add(value)
      for (const inner of Object.values(value)) {
        left.push(inner)
      }
    }
  }
}

/** The same for all the cases that a letter has, of which there may be more than two. */
const fold = (text: string): string => text.toLowerCase().toUpperCase()

/** Whether a fragment is a parameter's text, or a part of it. Case does not count: servers fold names. */
export const isOfParams = (fragment: string, params: ReadonlyArray<unknown> | undefined): boolean => {
  if (params === undefined) {
    return false
  }
  const folded = fold(fragment)
  for (const form of forms(params)) {
    if (fold(form).includes(folded)) {
      return true
    }
  }
  return false
}

const isWordAt = (text: string, from: number, to: number): boolean =>
  !(from > 0 && wordCharacter.test(text[from - 1])) && !(to < text.length && wordCharacter.test(text[to]))

// `varying(3)` and `numeric(3,1)` are types, however often 3 is a parameter too.
const isTypeModifier = (text: string, from: number): boolean => /[\p{L}\p{N}_]\([\d,]*$/u.test(text.slice(0, from))

const maskForm = (text: string, form: string): string => {
  const isNumber = numeric.test(form)
  const pattern = new RegExp(form.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "giu")
  return text.replace(pattern, (found, offset: number) => {
    if (isNumber && isTypeModifier(text, offset)) {
      return found
    }
    return found.length >= anywhereFrom || isWordAt(text, offset, offset + found.length) ? MASK : found
  })
}

/** The texts of the parameters that occur in a message and are long enough to be looked for, the longest first. */
const formsIn = (text: string, params: ReadonlyArray<unknown> | undefined): ReadonlyArray<string> => {
  if (params === undefined) {
    return []
  }
  const folded = fold(text)
  const found = new Set<string>()
  for (const whole of forms(params)) {
    const form = whole.length > text.length * 2 ? "" : whole.trim()
    if (form.length < wordFrom && !numeric.test(form)) {
      continue
    }
    if (folded.includes(fold(form))) {
      found.add(form)
    }
  }
  return Array.from(found).sort((a, b) => b.length - a.length)
}

/** The second rule, and bytes in hexadecimal, which is how PostgreSQL shows text that is not in its encoding. */
const maskForms = (text: string, present: ReadonlyArray<string>): string =>
  present.reduce(maskForm, text.replace(hexBytes, MASK))

// A value that holds quotes or parentheses would mislead the first rule, so it goes first.
const misleading = /["'`«»„“”‘’「」『』()]/

/** Whether a text holds a word, or several, not as parts of others. */
export const mentions = (text: string | undefined, word: string): boolean => {
  for (let at = text?.indexOf(word) ?? -1; at !== -1; at = text!.indexOf(word, at + 1)) {
    if (isWordAt(text!, at, at + word.length)) {
      return true
    }
  }
  return false
}

const isName = (quoted: string, before: string, sources: Sources): "asIs" | "byValue" | "value" => {
  if (sources.names?.includes(quoted) === true) {
    return "asIs"
  }
  if (quoted === "") {
    return "value"
  }
  const inStatement = mentions(sources.statement, quoted)
  if (namesNext.test(before)) {
    return inStatement ? "asIs" : isOfParams(quoted, sources.params) ? "value" : "byValue"
  }
  return inStatement && sources.quotesStatement === true && !isOfParams(quoted, sources.params) ? "asIs" : "value"
}

/** Masks the values in a message. */
export const maskText = (message: string, sources: Sources): string => {
  const present = formsIn(message, sources.params)
  const text = present.filter((form) => misleading.test(form)).reduce(maskForm, message)
  let out = ""
  let done = 0
  let at = 0
  while (at < text.length) {
    const open = text[at]
    const close = quotes[open]
    // An apostrophe inside of a word opens nothing.
    if (close === undefined || (open === "'" && at > 0 && wordCharacter.test(text[at - 1]))) {
      at++
      continue
    }
    const before = text.slice(done, at)
    const end = text.indexOf(close, at + 1)
    const quoted = end === -1 ? "" : text.slice(at + 1, end)
    const kind = isName(quoted, before, sources)
    out += maskForms(before, present) + open
    if (kind === "value") {
      const last = text.lastIndexOf(close)
      out += last > at ? MASK + close : MASK
      done = last > at ? last + 1 : text.length
    } else {
      out += (kind === "asIs" ? quoted : maskForms(quoted, present)) + close
      done = end + 1
    }
    at = done
  }
  return out + maskForms(text.slice(done), present)
}

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
 * Masks the values in a PostgreSQL DETAIL: the tuples as well, whose names before the `=` stay. `signatures` stay where
 * the DETAIL should hold no rows.
 */
export const maskDetail = (detail: string, sources: Sources, stays?: "signatures"): string => {
  const text = formsIn(detail, sources.params).filter((form) => misleading.test(form)).reduce(maskForm, detail)
  const tuples = stays === undefined ? text : text.replace(signature, (found) => " ".repeat(found.length))
  const first = tuples.indexOf("(")
  if (first === -1) {
    return maskText(text, sources)
  }
  const names = namesOf(text.slice(first))
  const close = text.lastIndexOf(")")
  return maskText(text.slice(0, first), sources) + names + "(" + MASK +
    (close > first + names.length && !text.includes("(", close) ? maskText(text.slice(close), sources) : "")
}

/** The text of whatever was thrown. */
export const textOf = (error: unknown): string =>
  Predicate.hasProperty(error, "message") && Predicate.isString(error.message)
    ? error.message
    : Predicate.isString(error)
    ? error
    : "an unknown failure"

/**
 * What may be attached as the cause of an error that nobody expected: an Error with the name, the masked message and
 * the stack's places. Whatever else the thrown value carried stays out.
 */
export const maskCause = (error: unknown, sources: Sources): Error | undefined => {
  if (!(error instanceof Error)) {
    return undefined
  }
  const out = new Error(maskText(error.message, sources))
  out.name = error.name
  const header = error.message === "" ? error.name : `${error.name}: ${error.message}`
  const places = error.stack?.startsWith(`${header}\n`) === true ? error.stack.slice(header.length) : ""
  const shown = `${out.name}: ${out.message}${places}`
  Object.defineProperty(out, "stack", { value: shown, enumerable: false, configurable: true, writable: true })
  return out
}
