/**
 * The open sessions, and what they wait for.
 *
 * @import { Holder, Session } from "../data.js"
 */
import { duration, element, say } from "./dom.js"
import { clipped, rowsOf } from "./rows.js"

/** @type {(session: Session) => string} */
const waitsFor = ({ isCommitting, state, wait }) => {
  switch (state) {
    case "waiting":
      return "a connection of the pool"
    case "idle":
      return "the application; no statement runs"
    case "statement":
    case "ending": {
      const what = state === "statement" ? "a statement" : isCommitting ? "its commit" : "its rollback"
      const lock = wait?.lock
      return wait === undefined
        ? what
        : lock === undefined
        ? `${what} (${wait.event})`
        : `a lock: ${lock.name}${lock.seconds === undefined ? "" : `, for ${duration(lock.seconds)}`}`
    }
  }
}

/** @type {(holder: Holder) => string} */
const holderText = (holder) =>
  [
    holder.connection === undefined ? "a prepared transaction" : `process ${holder.connection}`,
    holder.session === undefined ? "" : `session ${holder.session} (${holder.sessionId ?? ""})`,
    holder.session !== undefined || !holder.application ? "" : `application ${holder.application}`,
    holder.session !== undefined || holder.user === undefined ? "" : `user ${holder.user}`,
    holder.state ?? "",
    holder.seconds === undefined ? "" : `in a transaction for ${duration(holder.seconds)}`
  ].filter((part) => part !== "").join(", ")

export const showSessions = rowsOf("sessions", "No session is open.", () => {
  const name = element("span")
  const id = element("small")
  const age = element("td", { class: "number" })
  const state = element("span")
  const holders = element("small", { class: "holders" })
  const statement = clipped()
  const row = element("tr", {}, [
    element("th", { scope: "row" }, [name, id]),
    age,
    element("td", {}, [element("div", {}, [state, holders, statement.node])])
  ])
  return {
    row,
    /** @type {(session: Session) => void} */
    update: (session) => {
      const lock = session.wait?.lock
      say(name, session.name)
      say(id, [session.id, session.connectionId === undefined ? "" : `connection ${session.connectionId}`].filter(Boolean).join(" · "))
      say(age, duration(session.age))
      say(state, waitsFor(session))
      say(holders, lock === undefined ? "" : lock.holders.map((holder) => `Held by ${holderText(holder)}.`).join(" "))
      holders.hidden = lock === undefined || lock.holders.length === 0
      statement.update(session.statement ?? "")
    }
  }
})
