/**
 * Times as SQLite's date functions read them: text in ISO 8601, in UTC (https://sqlite.org/lang_datefunc.html).
 */

/** The first and the last time that these functions read, of the years 0000 to 9999, in milliseconds. */
const minTime = Date.parse("0000-01-01T00:00:00.000Z")
const maxTime = Date.parse("9999-12-31T23:59:59.999Z")

/** The text of a time in milliseconds. Undefined if SQLite could not read it. */
export const textOfTime = (time: number): string | undefined =>
  time >= minTime && time <= maxTime ? new Date(time).toISOString() : undefined
