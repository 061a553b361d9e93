/**
 * Updates the rows of tables.
 */
import { byId, element, say, within } from "./dom.js"

const roles = /** @type {const} */ ([
  ["table", "table"],
  ["thead, tbody", "rowgroup"],
  ["tr", "row"],
  ["thead th", "columnheader"],
  ["tbody th, tr > th[scope=row]", "rowheader"],
  ["td", "cell"]
])

/**
 * Names the roles of a table's elements, which would be lost where a narrow page does not lay them out as a table.
 *
 * @type {(node: Element) => void}
 */
const nameRoles = (node) =>
  roles.forEach(([selector, role]) =>
    [node, ...node.querySelectorAll(selector)].forEach((found) => found.matches(selector) && found.setAttribute("role", role))
  )

/**
 * Updates the rows of a table. A row keeps its element as long as its key is present, and with it the focus and its state.
 *
 * @template Row
 * @param {string} id
 * @param {string} none The text that is shown without rows.
 * @param {() => { readonly row: HTMLTableRowElement, readonly update: (row: Row) => void }} make
 * @returns {(rows: ReadonlyArray<readonly [key: string, row: Row]>) => void}
 */
export const rowsOf = (id, none, make) => {
  const table = byId(id)
  const body = within(table, "tbody")
  const headers = Array.from(table.querySelectorAll("thead th"), (header) => header.textContent?.trim() ?? "")
  nameRoles(table)
  /** Makes a row whose cells have the names of their columns, which a narrow page shows in place of the header. */
  const makeRow = () => {
    const made = make()
    Array.from(made.row.children).forEach((cell, index) => cell.setAttribute("data-label", headers[index]))
    nameRoles(made.row)
    return made
  }
  /** @type {Map<string, ReturnType<typeof make>>} */
  let current = new Map()
  return (rows) => {
    const shown = new Map(rows.map(([key]) => [key, current.get(key) ?? makeRow()]))
    const elements = Array.from(shown.values(), ({ row }) => row)
    if (elements.length !== body.children.length || elements.some((row, index) => row !== body.children[index])) {
      current.forEach(({ row }, key) => shown.has(key) || row.remove())
      elements.forEach((row, index) => row === body.children[index] || body.insertBefore(row, body.children[index] ?? null))
    }
    current = shown
    table.hidden = rows.length === 0
    // An update measures its element, which must be in the document.
    rows.forEach(([key, row]) => shown.get(key)?.update(row))
    const empty = byId(`${id}-empty`)
    empty.hidden = rows.length > 0
    say(empty, none)
  }
}

/** Text that is clipped to two lines, with a button that shows all of it. */
export const clipped = () => {
  const code = element("code")
  const button = element("button", { type: "button", class: "more", "aria-expanded": "false" }, ["Show all"])
  button.addEventListener("click", () => {
    const open = code.classList.toggle("open")
    button.setAttribute("aria-expanded", String(open))
    say(button, open ? "Show less" : "Show all")
  })
  const node = element("div", {}, [code, button])
  return {
    node,
    /** @type {(text: string) => void} */
    update: (text) => {
      say(code, text)
      node.hidden = text === ""
      button.hidden = !code.classList.contains("open") && code.scrollHeight <= code.clientHeight + 1
    }
  }
}

/** @type {(id: string, none: string) => (rows: ReadonlyArray<readonly [name: string, figure: string]>) => void} */
export const tally = (id, none) => {
  const show = rowsOf(id, none, () => {
    const name = element("th", { scope: "row" })
    const figure = element("td", { class: "number" })
    return {
      row: element("tr", {}, [name, figure]),
      /** @type {(row: readonly [name: string, figure: string]) => void} */
      update: (row) => {
        say(name, row[0])
        say(figure, row[1])
      }
    }
  })
  return (rows) => show(rows.map((row) => [row[0], row]))
}
