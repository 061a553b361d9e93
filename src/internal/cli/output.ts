/**
 * The output of the command line: text, or one JSON value.
 */
import * as ConfigError from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import { stripVTControlCharacters } from "node:util"

/** Whether a stream is a terminal with colors, and NO_COLOR (https://no-color.org) is not set. */
const hasColors = (stream: { readonly isTTY?: boolean }): boolean =>
  stream.isTTY === true && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb"

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 }

/** Styles text for standard output, if that has colors. */
export const styled = (style: keyof typeof codes, text: string): string =>
  hasColors(process.stdout) ? `\u001b[${codes[style]}m${text}\u001b[0m` : text

/** Makes text for standard error red, if that has colors. */
export const styledError = (text: string): string => hasColors(process.stderr) ? `\u001b[31m${text}\u001b[0m` : text

const withoutColors = (stream: { readonly isTTY?: boolean }) => (values: ReadonlyArray<unknown>) =>
  hasColors(stream)
    ? values
    : values.map((value) => typeof value === "string" ? stripVTControlCharacters(value) : value)

/** Removes the colors that @effect/cli writes even if the stream is not a terminal. */
export const withPlainConsole = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Console.consoleWith((console) => {
    const [out, err] = [withoutColors(process.stdout), withoutColors(process.stderr)]
    return Console.withConsole(effect, {
      ...console,
      log: (...values) => console.log(...out(values)),
      error: (...values) => console.error(...err(values))
    })
  })

/**
 * Logs to standard error, so that standard output has results only. The logs of sessions are left out, as the command
 * prints their errors itself.
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

/** An error in JSON output. */
export interface Failure {
  readonly tag: string
  readonly message: string
}

const oneLine = (text: string): string => text.replace(/\s*[\r\n]+\s*/g, " ").trim()

export const failure = (error: { readonly _tag: string; readonly message: string }): Failure => ({
  tag: error._tag,
  message: oneLine(error.message)
})

/** Every environment variable that is not valid, one line each. */
export const invalidVariables = (error: ConfigError.ConfigError): ReadonlyArray<string> =>
  ConfigError.reduceWithContext<undefined, ReadonlyArray<string>>(error, undefined, {
    andCase: (_, left, right) => [...left, ...right],
    orCase: (_, left, right) => [...left, ...right],
    invalidDataCase: (_, path, message) => [labelled(path, message)],
    missingDataCase: (_, path, message) => [labelled(path, message)],
    sourceUnavailableCase: (_, path, message) => [labelled(path, message)],
    unsupportedCase: (_, path, message) => [labelled(path, message)]
  })

const labelled = (path: ReadonlyArray<string>, message: string): string => oneLine(`${path.join("_")}: ${message}`)

export const json = (value: unknown): Effect.Effect<void> => Console.log(JSON.stringify(value, null, 2))
