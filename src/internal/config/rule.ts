/**
 * What is accepted, for the environment's texts and for values given in code alike.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { isClean } from "./text.js"

/** What is accepted, in words, and the value of what is accepted. */
export interface Rule<A> {
  readonly accepts: string
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

/** The longest time that PostgreSQL's settings and the timers of a JavaScript engine can hold. */
const longest = 2_147_483_647

/** Whether it is less than zero, or no number. */
export const isNegative = (given: unknown): boolean =>
  Array.isArray(given)
    ? given.some(isNegative)
    : typeof given === "number" || typeof given === "bigint"
    ? !(given >= 0)
    : typeof given === "string" && given.startsWith("-")

/** Numbers in text are seconds, numbers in code milliseconds as everywhere in Effect. */
const toMillis = (given: unknown): Option.Option<number> =>
  typeof given === "string" && /^\d+(\.\d+)?$/.test(given)
    ? Option.some(Number(given) * 1000)
    : isNegative(given)
    ? Option.none()
    : Option.map(Duration.decodeUnknown(given), Duration.toMillis)

/**
 * A time in whole milliseconds. Less than one is refused, as a server that counts milliseconds would take it for zero;
 * zero is accepted where it has a meaning, told in a word.
 */
export const duration = (zero?: string): Rule<Duration.Duration> =>
  make(
    `a duration such as "30 seconds", "500 millis" or "30" (seconds), from 1 millisecond to 24 days` +
      (zero === undefined ? "" : `, or 0 (${zero})`),
    (given) =>
      toMillis(given).pipe(
        Option.filter((millis) => (millis >= 1 && millis <= longest) || (millis === 0 && zero !== undefined)),
        Option.map((millis) => Duration.millis(Math.round(millis)))
      )
  )

/** Text that can be sent to a server. */
export const text: Rule<string> = make(
  "text in one line",
  Option.liftPredicate((given): given is string => typeof given === "string" && isClean(given) && !/[\r\n]/.test(given))
)

/** A file's name, and not what the file holds: keys are secret. */
export const filename: Rule<string> = make("the name of a file", text.decode)

const reveal = (given: unknown): unknown => Redacted.isRedacted(given) ? Redacted.value(given) : given

/** Text that may be redacted. What is no text is not shown either. */
export const secretText: Rule<string> = make(
  "text",
  (given) =>
    Option.liftPredicate(reveal(given), (value): value is string => typeof value === "string").pipe(
      Option.map((value) => value.trim())
    )
)

/** Nothing, or text that says nothing. */
export const isAbsent = (given: unknown): boolean => {
  const value = reveal(given)
  return value === undefined || value === null || (typeof value === "string" && value.trim() === "")
}

/**
 * Shows what was given where it should not have been, but no URL and no key, which would be secret where they belong.
 */
export const show = (given: unknown): string => {
  if (typeof given !== "string") {
    return typeof given === "number" || typeof given === "bigint" ? String(given) : `a value of type ${typeof given}`
  }
  return given.length > 60 || /:\/\/|[\r\n]/.test(given)
    ? `${given.length} characters (not shown)`
    : JSON.stringify(given)
}
