/**
 * Rules that a value must follow, whether it is text from the environment or a value given in code.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { isClean } from "./text.js"

export interface Rule<A> {
  /** The accepted values, in words. */
  readonly accepts: string
  /** The value, or none if it is not accepted. */
  readonly decode: (given: unknown) => Option.Option<A>
}

const make = <A>(accepts: string, decode: (given: unknown) => Option.Option<A>): Rule<A> => ({ accepts, decode })

export const oneOf = <const A extends string>(values: ReadonlyArray<A>): Rule<A> =>
  make(`one of ${values.join(", ")}`, (given) => Option.fromNullable(values.find((value) => value === given)))

export const wholeNumber = (minimum: number): Rule<number> =>
  make(`a whole number, at least ${minimum}`, (given) =>
    Option.liftPredicate(
      typeof given === "string" && /^\d+$/.test(given) ? Number(given) : given,
      (number): number is number => Number.isSafeInteger(number) && (number as number) >= minimum
    ))

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
 * read it as zero. Zero is accepted only if its meaning is given.
 */
export const duration = (zero?: string): Rule<Duration.Duration> =>
  make(
    `a duration such as "30 seconds", "500 millis" or "30" (seconds), from 1 millisecond to 24 days` +
      (zero === undefined ? "" : `, or 0 (${zero})`),
    (given) =>
      toMillis(given).pipe(
        Option.filter((millis) => (millis >= 1 && millis <= maxMillis) || (millis === 0 && zero !== undefined)),
        Option.map((millis) => Duration.millis(Math.round(millis)))
      )
  )

/** One line of text that can be sent to a server. */
export const text: Rule<string> = make(
  "text in one line",
  Option.liftPredicate((given): given is string => typeof given === "string" && isClean(given) && !/[\r\n]/.test(given))
)

/** A file's name. The contents of a file, such as a key, are refused. */
export const filename: Rule<string> = make("the name of a file", text.decode)

const reveal = (given: unknown): unknown => Redacted.isRedacted(given) ? Redacted.value(given) : given

/** Text that may be redacted. */
export const secretText: Rule<string> = make(
  "text",
  (given) =>
    Option.liftPredicate(reveal(given), (value): value is string => typeof value === "string").pipe(
      Option.map((value) => value.trim())
    )
)

/** Whether a value is undefined, null or blank. */
export const isAbsent = (given: unknown): boolean => {
  const value = reveal(given)
  return value === undefined || value === null || (typeof value === "string" && value.trim() === "")
}

/** Shows a refused value. URLs and long or multi-line text are not shown, as they may hold a password or a key. */
export const show = (given: unknown): string => {
  if (typeof given !== "string") {
    return typeof given === "number" || typeof given === "bigint" ? String(given) : `a value of type ${typeof given}`
  }
  return given.length > 60 || /:\/\/|[\r\n]/.test(given)
    ? `${given.length} characters (not shown)`
    : JSON.stringify(given)
}
