/**
 * The figures that the database was asked for, the recent errors, the settings and the process.
 *
 * @import { Data, Examined, Section } from "../data.js"
 * @import { RecentError } from "../../../../Telemetry.js"
 */
import { byId, bytes, clock, duration, element, say, share, whole } from "./dom.js"
import { clipped, rowsOf, tally } from "./rows.js"

/** @type {Readonly<Record<string, (value: number) => string>>} */
const formats = { count: whole, bytes, seconds: duration, share }

/** @type {(cell: string | number | null | undefined, unit: string) => string} */
const cellText = (cell, unit) =>
  cell === null || cell === undefined ? "–" : typeof cell === "number" ? (formats[unit] ?? String)(cell) : cell

/** Makes the table of a section, and gives what shows its rows. */
const makeSection = (/** @type {Section} */ { columns, id, none, title }) => {
  const name = `section-${id}`
  const isNumber = (/** @type {number} */ index) => Object.hasOwn(formats, columns[index][1])
  const missing = element("p", { class: "missing" })
  const headers = columns.map(([text], index) =>
    element("th", { scope: "col", ...(isNumber(index) ? { class: "number" } : {}) }, [text])
  )
  byId("sections").append(
    element("section", { class: "panel", "aria-labelledby": `${name}-title` }, [
      element("h2", { id: `${name}-title` }, [title]),
      element("table", { id: name, class: "rows" }, [
        element("thead", {}, [element("tr", {}, headers)]),
        element("tbody")
      ]),
      element("p", { class: "empty", id: `${name}-empty` }),
      missing
    ])
  )
  const show = rowsOf(name, none, () => {
    const cells = columns.map((_, index) =>
      index === 0
        ? element("th", { scope: "row" })
        : element("td", isNumber(index) ? { class: "number" } : {})
    )
    return {
      row: element("tr", {}, cells),
      /** @type {(row: Section["rows"][number]) => void} */
      update: (row) => cells.forEach((cell, index) => say(cell, cellText(row[index], columns[index][1])))
    }
  })
  return (/** @type {Section} */ { error, missing: hidden, rows }) => {
    show(rows.map((row, index) => [String(index), row]))
    byId(`${name}-empty`).hidden = rows.length > 0 || error !== undefined || hidden !== undefined
    say(missing, error ?? hidden ?? "")
    missing.hidden = missing.textContent === ""
  }
}

/** @type {Map<string, ReturnType<typeof makeSection>>} */
const sections = new Map()

/** @type {(examined: Examined | undefined) => void} */
export const showSections = (examined) => {
  say(byId("sections-time"), examined === undefined ? "Not asked yet" : `Asked at ${clock(examined.time)}`)
  examined?.sections.forEach((section) => {
    const show = sections.get(section.id) ?? makeSection(section)
    sections.set(section.id, show)
    show(section)
  })
}

/** @type {(error: RecentError) => string} */
const sessionText = ({ session, sessionId }) =>
  session === undefined ? "outside of a session" : `${session}${sessionId === undefined ? "" : ` (${sessionId})`}`

export const showRecentErrors = rowsOf("recent-errors", "Nothing has failed.", () => {
  const error = element("span")
  const message = element("small")
  const time = element("td")
  const count = element("td", { class: "number" })
  const session = element("td")
  const statement = clipped()
  return {
    row: element("tr", {}, [
      element("th", { scope: "row" }, [error, message]),
      time,
      count,
      session,
      element("td", {}, [statement.node])
    ]),
    /** @type {(failed: RecentError) => void} */
    update: (failed) => {
      say(error, failed.error)
      say(message, failed.message)
      say(time, clock(failed.time))
      say(count, whole(failed.count))
      say(session, sessionText(failed))
      statement.update(failed.statement ?? "")
    }
  }
})

const showSettings = tally("settings", "Not known.")

/** @type {(data: Data, settings: NonNullable<Data["settings"]>) => void} */
export const showSettingsAndProcess = ({ process }, settings) =>
  showSettings([["uptime", duration(process.uptime)], ["memory", bytes(process.memory)], ...settings])
