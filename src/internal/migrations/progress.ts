/**
 * How progress is shown.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { label, type Progress } from "./model.js"

const inTime = (duration: Duration.Duration): string => {
  const millis = Math.round(Duration.toMillis(duration))
  return millis < 1_000 ? `${millis} ms` : `${(millis / 1_000).toFixed(1)} s`
}

const newer = (count: number) =>
  count === 1 ? "a newer migration that is not known here" : `${count} newer migrations that are not known here`

/** One line, without a colour. */
const line = (progress: Progress): string => {
  switch (progress._tag) {
    case "Waiting":
      return `another runner is migrating: waiting, for ${inTime(progress.elapsed)} now`
    case "Ahead":
      return `the database has ${newer(progress.migrations.length)}: ${progress.migrations.map(label).join(", ")}`
    case "Started":
      return `applying migration ${label(progress.migration)} (${progress.position} of ${progress.total})`
    case "Applied":
      return `applied migration ${label(progress.migration)} in ${inTime(progress.duration)}`
    case "Failed":
      return `migration ${label(progress.migration)} failed after ${inTime(progress.duration)}`
  }
}

/** Through Effect's logger. A failure is not logged: the session says it, and the error goes to whoever asked. */
export const log = (progress: Progress): Effect.Effect<void> => {
  switch (progress._tag) {
    case "Waiting":
    case "Applied":
      return Effect.logInfo(line(progress))
    case "Ahead":
      return Effect.logWarning(line(progress))
    case "Started":
      return Effect.logDebug(line(progress))
    case "Failed":
      return Effect.void
  }
}

/** Where progress is shown: a terminal, or whatever else takes lines. */
export interface Terminal {
  readonly write: (text: string) => unknown
  readonly isTTY?: boolean | undefined
}

const marks = { Waiting: "…", Ahead: "!", Started: "…", Applied: "✓", Failed: "✗" }
const colors = { Waiting: 33, Ahead: 33, Started: 2, Applied: 32, Failed: 31 }

/**
 * On a terminal: one line each, which says that a migration runs and then how long it took. The line of one that runs is
 * written only where it can be overwritten; colours only where nobody asked for none (https://no-color.org).
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
