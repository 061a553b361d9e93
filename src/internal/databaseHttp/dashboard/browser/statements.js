/**
 * The slowest statements, with the sessions that run them and their plans.
 *
 * @import { Data, Statement } from "../data.js"
 * @import { Plan } from "../plan.js"
 */
import { byId, duration, element, say, whole } from "./dom.js"
import { clipped, rowsOf } from "./rows.js"

/** @type {Readonly<Record<string, (figures: Statement) => number>>} */
const orders = {
  p95: ({ p95 }) => p95,
  longest: ({ longest }) => longest,
  mean: ({ count, total }) => total / count,
  total: ({ total }) => total,
  count: ({ count }) => count
}
let order = "longest"
let descending = true

/** @type {(statement: Statement) => string} */
const sessionsText = ({ sessions }) =>
  sessions.map(({ count, name }) => `${name ?? "outside of a session"} ${whole(count)}`).join(", ")

/**
 * Asks for a plan, by the id of a statement: the browser sends no text.
 *
 * @type {(id: string) => Promise<string>}
 */
const fetchPlan = async (id) => {
  try {
    const response = await fetch(`?explain=${encodeURIComponent(id)}`, { cache: "no-store", redirect: "manual" })
    if (!response.ok) {
      return `The application answers with ${response.status}.`
    }
    /** @type {Plan} */
    const plan = await response.json()
    return "error" in plan ? plan.error : plan.lines.join("\n")
  } catch {
    return "The application does not answer."
  }
}

/** A button that shows the plan of a statement, and hides it again. */
const planOf = () => {
  let id = ""
  const text = element("pre", { tabindex: "0" })
  const button = element("button", { type: "button", class: "more plan", "aria-expanded": "false" }, ["Plan"])
  text.hidden = true
  button.addEventListener("click", async () => {
    const opens = text.hidden
    text.hidden = !opens
    button.setAttribute("aria-expanded", String(opens))
    if (opens) {
      say(text, "Loading…")
      say(text, await fetchPlan(id))
    }
  })
  return {
    button,
    text,
    /** @type {(statement: Statement, explains: boolean) => void} */
    update: (statement, explains) => {
      id = statement.id
      button.hidden = !explains
      text.setAttribute("aria-label", `Plan of ${statement.text}`)
    }
  }
}

let explains = false

const statementRows = (/** @type {string} */ id) =>
  rowsOf(id, "No statement has run.", () => {
    const text = clipped()
    const sessions = element("small")
    const plan = planOf()
    const cells = Object.keys(orders).map(() => element("td", { class: "number" }))
    const what = element("th", { scope: "row" }, [text.node, sessions, plan.button, plan.text])
    return {
      row: element("tr", {}, [what, ...cells]),
      /** @type {(statement: Statement) => void} */
      update: (statement) => {
        text.update(statement.text)
        say(sessions, sessionsText(statement))
        plan.update(statement, explains)
        Object.entries(orders).forEach(([key, of], index) =>
          say(cells[index], key === "count" ? whole(of(statement)) : duration(of(statement)))
        )
      }
    }
  })

const showApplications = statementRows("statements")
const showOwn = statementRows("own-statements")

/** @type {(data: Data) => void} */
export const showStatements = (data) => {
  const value = orders[order]
  const sign = descending ? -1 : 1
  explains = data.explains
  showApplications(
    data.statements.toSorted((one, other) => sign * (value(one) - value(other))).map((figures) => [figures.text, figures])
  )
  byId("own").hidden = data.ownStatements.length === 0
  showOwn(data.ownStatements.map((figures) => [figures.text, figures]))
}

/** Sorts the statements by the column whose header was clicked, and calls `show`. */
export const listenForSorting = (/** @type {() => void} */ show) =>
  document.querySelectorAll("[data-sort]").forEach((button) =>
    button.addEventListener("click", () => {
      const key = button.getAttribute("data-sort") ?? order
      descending = key === order ? !descending : true
      order = key
      document.querySelectorAll("[aria-sort]").forEach((header) => header.setAttribute("aria-sort", "none"))
      button.closest("th")?.setAttribute("aria-sort", descending ? "descending" : "ascending")
      show()
    })
  )
