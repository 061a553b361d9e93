/**
 * Rows of tables, kept up to date.
 */
import { byId, element, say, within } from "./dom.js"

/**
 * Rows that stay the same elements while their keys stay, so that focus and what was opened are kept.
 *
 * @template Row
 * @param {string} id
 * @param {string} none What is said where there are no rows.
 * @param {() => { readonly row: HTMLTableRowElement, readonly update: (row: Row) => void }} make
 * @returns {(rows: ReadonlyArray<readonly [key: string, row: Row]>) => void}
 */
export const rowsOf = (id, none, make) => {
  const table = byId(id)
  const body = within(table, "tbody")
  /** @type {Map<string, ReturnType<typeof make>>} */
  let known = new Map()
  return (rows) => {
    const shown = new Map(rows.map(([key]) => [key, known.get(key) ?? make()]))
    const wanted = Array.from(shown.values(), ({ row }) => row)
    if (wanted.length !== body.children.length || wanted.some((row, index) => row !== body.children[index])) {
      known.forEach(({ row }, key) => shown.has(key) || row.remove())
      wanted.forEach((row, index) => row === body.children[index] || body.insertBefore(row, body.children[index] ?? null))
    }
    known = shown
    table.hidden = rows.length === 0
    // Once it is in its place, where it can be measured.
    rows.forEach(([key, row]) => shown.get(key)?.update(row))
    const empty = byId(`${id}-empty`)
    empty.hidden = rows.length > 0
    say(empty, none)
  }
}

/** Text of two lines, and a button for the rest of it if there is more. */
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
