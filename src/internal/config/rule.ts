/**
 * Rules that a value must follow, whether it is text from the environment or a value given in code.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Crypto from "node:crypto"
import { isClean, mayHoldSecret } from "./text.js"

export interface Rule<A> {
  /** The accepted values, in words. */
  readonly accepts: string
  /** The value, or none if it is not accepted. */
  readonly decode: (given: unknown) => Option.Option<A>
  /** Whether text that is only spaces is a value. Otherwise it counts as absent. */
  readonly acceptsSpaces?: boolean
}

const make = <A>(accepts: string, decode: (given: unknown) => Option.Option<A>): Rule<A> => ({ accepts, decode })

export const oneOf = <const A extends string>(values: ReadonlyArray<A>, letters?: "ignore case"): Rule<A> => {
  const fold = (given: unknown) => typeof given === "string" && letters !== undefined ? given.toLowerCase() : given
  return make(
    `one of ${values.join(", ")}`,
    (given) => Option.fromNullable(values.find((value) => fold(value) === fold(given)))
  )
}

export const wholeNumber = (minimum: number, maximum = Infinity): Rule<number> =>
  make(
    `a whole number, ${maximum === Infinity ? `at least ${minimum}` : `from ${minimum} to ${maximum}`}`,
    (given) =>
      Option.liftPredicate(
        typeof given === "string" && /^\d+$/.test(given) ? Number(given) : given,
        (number): number is number =>
          Number.isSafeInteger(number) && (number as number) >= minimum && (number as number) <= maximum
      )
  )

/** The maximum of PostgreSQL's timeout settings and of JavaScript's timers: 2^31 - 1 milliseconds. */
const maxMillis = 2_147_483_647

/** Whether a duration in any of Effect's forms is negative or NaN. */
export const isNegative = (given: unknown): boolean =>
  Array.isArray(given)
    ? given.some(isNegative)
    : typeof given === "number" || typeof given === "bigint"
    ? !(given >= 0)
    : typeof given === "string" && given.startsWith("-")

/** A number in text is in seconds; a number in code is in milliseconds, as everywhere in Effect. */
const toMillis = (given: unknown): Option.Option<number> =>
  typeof given === "string" && /^\d+(\.\d+)?$/.test(given)
    ? Option.some(Number(given) * 1000)
    : isNegative(given)
    ? Option.none()
    : Option.map(Duration.decodeUnknown(given), Duration.toMillis)

/**
 * A duration, rounded to milliseconds. Less than one millisecond is refused, as a server that counts milliseconds would
 * read it as zero. Zero is accepted only if its meaning is given, and an infinite duration only in code.
 */
export const duration = (zero?: string, infinite?: "infinite"): Rule<Duration.Duration> =>
  make(
    `a duration such as "30 seconds", "500 millis" or "30" (seconds), from 1 millisecond to 24 days` +
      (zero === undefined ? "" : `, or 0 (${zero})`),
    (given) =>
      toMillis(given).pipe(
        Option.filter((millis) =>
          (millis >= 1 && millis <= maxMillis) || (millis === 0 && zero !== undefined) ||
          (millis === Infinity && infinite !== undefined && typeof given !== "string")
        ),
        Option.map((millis) => Duration.millis(Math.round(millis)))
      )
  )

/** One line of text that can be sent to a server. */
export const text: Rule<string> = make(
  "text on one line",
  Option.liftPredicate((given): given is string => typeof given === "string" && isClean(given) && !/[\r\n]/.test(given))
)

/** A name that a server limits to a number of bytes. */
export const name = (accepts: string, maxBytes: number): Rule<string> =>
  make(accepts, (given) => Option.filter(text.decode(given), (name) => Buffer.byteLength(name) <= maxBytes))

/** A file's name. The contents of a file, such as a key, are refused. */
export const filename: Rule<string> = make("the name of a file", text.decode)

const reveal = (given: unknown): unknown => Redacted.isRedacted(given) ? Redacted.value(given) : given

const isSecret = (given: unknown): given is string => typeof given === "string" && isClean(given)

/** A user's name: one line of text that can be sent to a server, or an Effect that gives it. */
export const user: Rule<string | Effect.Effect<unknown, unknown>> = make(
  "text on one line, or an Effect that gives it",
  (given): Option.Option<string | Effect.Effect<unknown, unknown>> =>
    Effect.isEffect(given) ? Option.some(given as Effect.Effect<unknown, unknown>) : text.decode(reveal(given))
)

/** A password, or an Effect that gives it. */
export const password: Rule<Redacted.Redacted<string> | Effect.Effect<unknown, unknown>> = {
  accepts: "text without NUL characters, redacted or not, or an Effect that gives it",
  acceptsSpaces: true,
  decode: (given): Option.Option<Redacted.Redacted<string> | Effect.Effect<unknown, unknown>> =>
    Effect.isEffect(given)
      ? Option.some(given as Effect.Effect<unknown, unknown>)
      : Option.map(Option.liftPredicate(reveal(given), isSecret), Redacted.make)
}

const pemBlock = /-----BEGIN [A-Z0-9 ]+-----[^-]+-----END [A-Z0-9 ]+-----/g

/**
 * A file's name, or the text of a file in PEM format, which is redacted. Environments that have no line breaks write them
 * as `\\n`, or as spaces.
 */
export const fileOrPem = (content: "CERTIFICATE" | "PRIVATE KEY"): Rule<string | Redacted.Redacted<string>> => {
  const kind = content === "PRIVATE KEY" ? "key" : "certificate"
  return make(`the name of a file, or a ${kind} as PEM text`, (given) => {
    const value = reveal(given)
    if (typeof value !== "string" || !value.includes("-----BEGIN")) {
      return filename.decode(value)
    }
    const blocks = value.replaceAll("\\n", "\n").match(pemBlock) ?? []
    const ofKind = blocks.filter((block) => block.slice(0, block.indexOf("-----", 5)).endsWith(content)).map(inLines)
    return ofKind.length > 0 && ofKind.every(content === "PRIVATE KEY" ? isPrivateKey : isCertificate)
      ? Option.some(Redacted.make(ofKind.join("")))
      : Option.none()
  })
}

const isCertificate = (pem: string): boolean =>
  Option.isSome(Option.liftThrowable((pem: string) => new Crypto.X509Certificate(pem))(pem))

const isPrivateKey = (pem: string): boolean => Option.isSome(Option.liftThrowable(Crypto.createPrivateKey)(pem))

/** One PEM block with a line break after its first line and before its last one. */
const inLines = (block: string): string => {
  const [, begin = "", body = "", end = ""] = /^(-----[^-]+-----)([^-]+)(-----[^-]+-----)$/.exec(block) ?? []
  return `${begin}\n${body.trim().split(/\s+/).join("\n")}\n${end}\n`
}

/** Text that may be redacted. */
export const secretText: Rule<string> = make(
  "text",
  (given) =>
    Option.liftPredicate(reveal(given), (value): value is string => typeof value === "string").pipe(
      Option.map((value) => value.trim())
    )
)

/** Whether a value is undefined, null or blank. */
export const isAbsent = (given: unknown, { acceptsSpaces = false }: Pick<Rule<unknown>, "acceptsSpaces">): boolean => {
  const value = reveal(given)
  return value === undefined || value === null ||
    (typeof value === "string" && (acceptsSpaces ? value : value.trim()) === "")
}

/** Shows a refused value, unless it may hold a password or a key: what is redacted, a URL, and long or multi-line text. */
export const show = (given: unknown): string => {
  if (Redacted.isRedacted(given)) {
    return `a value of type ${typeof Redacted.value(given)} (not shown)`
  }
  if (typeof given !== "string") {
    return typeof given === "number" || typeof given === "bigint" ? String(given) : `a value of type ${typeof given}`
  }
  return given.length > 60 || /:\/\/|[\r\n]/.test(given) || mayHoldSecret(given)
    ? `${given.length} characters (not shown)`
    : JSON.stringify(given)
}
