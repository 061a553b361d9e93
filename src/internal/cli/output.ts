/**
 * What the command line writes: for people, or as one JSON value for programs.
 */
import * as ConfigError from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import { stripVTControlCharacters } from "node:util"

/** Whether a stream shows colours and nobody asked for none (https://no-color.org). */
const colored = (stream: { readonly isTTY?: boolean }): boolean =>
  stream.isTTY === true && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb"

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 }

/** Text in a style, where standard output shows any. */
export const styled = (style: keyof typeof codes, text: string): string =>
  colored(process.stdout) ? `\u001b[${codes[style]}m${text}\u001b[0m` : text

/** The same for standard error. */
export const styledError = (text: string): string => colored(process.stderr) ? `\u001b[31m${text}\u001b[0m` : text

const plainly = (stream: { readonly isTTY?: boolean }) => (values: ReadonlyArray<unknown>) =>
  colored(stream) ? values : values.map((value) => typeof value === "string" ? stripVTControlCharacters(value) : value)

/** @effect/cli writes its help in colours whatever it is written to. */
export const withPlainConsole = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Console.consoleWith((console) => {
    const [out, err] = [plainly(process.stdout), plainly(process.stderr)]
    return Console.withConsole(effect, {
      ...console,
      log: (...values) => console.log(...out(values)),
      error: (...values) => console.error(...err(values))
    })
  })

/**
 * To standard error, so that standard output holds results only. What sessions report of themselves is left out: it is
 * what the command answers with.
 */
export const logger = Logger.replace(
  Logger.defaultLogger,
  Logger.map(
    Logger.make<unknown, string | undefined>(({ annotations, logLevel, message }) =>
      HashMap.has(annotations, "sessionId")
        ? undefined
        : `${logLevel.label.toLowerCase()}: ${(Array.isArray(message) ? message : [message]).map(String).join(" ")}\n`
    ),
    (text) => {
      if (text !== undefined) {
        process.stderr.write(text)
      }
    }
  )
)

export const inMillis = (duration: Duration.Duration): number => Math.round(Duration.toMillis(duration))

/** What a JSON answer says of an error. */
export interface Failure {
  readonly tag: string
  readonly message: string
}

const oneLine = (text: string): string => text.replace(/\s*[\r\n]+\s*/g, " ").trim()

export const failure = (error: { readonly _tag: string; readonly message: string }): Failure => ({
  tag: error._tag,
  message: oneLine(error.message)
})

/** Every value of the environment that is wrong, each in one line. */
export const wrongValues = (error: ConfigError.ConfigError): ReadonlyArray<string> =>
  ConfigError.reduceWithContext<undefined, ReadonlyArray<string>>(error, undefined, {
    andCase: (_, left, right) => [...left, ...right],
    orCase: (_, left, right) => [...left, ...right],
    invalidDataCase: (_, path, message) => [named(path, message)],
    missingDataCase: (_, path, message) => [named(path, message)],
    sourceUnavailableCase: (_, path, message) => [named(path, message)],
    unsupportedCase: (_, path, message) => [named(path, message)]
  })

const named = (path: ReadonlyArray<string>, message: string): string => oneLine(`${path.join("_")}: ${message}`)

export const json = (value: unknown): Effect.Effect<void> => Console.log(JSON.stringify(value, null, 2))
