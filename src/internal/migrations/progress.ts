/**
 * Shows the progress of a run, in the log or on a terminal.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { label, type Progress } from "./model.js"

const formatDuration = (duration: Duration.Duration): string => {
  const millis = Math.round(Duration.toMillis(duration))
  return millis < 1_000 ? `${millis} ms` : `${(millis / 1_000).toFixed(1)} s`
}

const newerMigrations = (count: number) =>
  count === 1 ? "a newer migration that is not known here" : `${count} newer migrations that are not known here`

/** The event as one line of plain text. */
const line = (progress: Progress): string => {
  switch (progress._tag) {
    case "Waiting":
      return `another runner is migrating: waiting, for ${formatDuration(progress.elapsed)} now`
    case "Ahead":
      return `the database has ${newerMigrations(progress.migrations.length)}: ${
        progress.migrations.map(label).join(", ")
      }`
    case "Started":
      return `applying migration ${label(progress.migration)} (${progress.position} of ${progress.total})`
    case "Applied":
      return `applied migration ${label(progress.migration)} in ${formatDuration(progress.duration)}`
    case "TakenBack":
      return `took back migration ${label(progress.migration)} in ${formatDuration(progress.duration)}`
    case "Failed":
      return `migration ${label(progress.migration)} failed after ${formatDuration(progress.duration)}`
  }
}

/** Logs the event. A failure is not logged here: the session logs it, and `run` fails with the error. */
export const log = (progress: Progress): Effect.Effect<void> => {
  switch (progress._tag) {
    case "Waiting":
    case "Applied":
    case "TakenBack":
      return Effect.logInfo(line(progress))
    case "Ahead":
      return Effect.logWarning(line(progress))
    case "Started":
      return Effect.logDebug(line(progress))
    case "Failed":
      return Effect.void
  }
}

/** A stream that progress is written to. */
export interface Terminal {
  readonly write: (text: string) => unknown
  readonly isTTY?: boolean | undefined
}

const marks = { Waiting: "…", Ahead: "!", Started: "…", Applied: "✓", TakenBack: "✓", Failed: "✗" }
const colors = { Waiting: 33, Ahead: 33, Started: 2, Applied: 32, TakenBack: 32, Failed: 31 }

/**
 * Writes one line for each event. On a terminal the line of a running migration is overwritten when it ends; other
 * streams get the last line only. Colors need a terminal, and no NO_COLOR (https://no-color.org).
 */
export const show = (
  terminal: Terminal,
  environment: Readonly<Record<string, string | undefined>>
): (progress: Progress) => Effect.Effect<void> => {
  const isTTY = terminal.isTTY === true
  const colored = isTTY && (environment.NO_COLOR ?? "") === "" && environment.TERM !== "dumb"
  return (progress) =>
    Effect.sync(() => {
      const mark = colored ? `\u001b[${colors[progress._tag]}m${marks[progress._tag]}\u001b[0m` : marks[progress._tag]
      const text = `${mark} ${line(progress)}`
      if (progress._tag !== "Started") {
        terminal.write(isTTY ? `\r\u001b[K${text}\n` : `${text}\n`)
      } else if (isTTY) {
        terminal.write(text)
      }
    })
}
