/**
 * Creates elements, and formats numbers.
 */

/** @type {(id: string) => HTMLElement} */
export const byId = (id) => {
  const found = document.getElementById(id)
  if (found === null) {
    throw new Error(`The page has no ${id}`)
  }
  return found
}

/** @type {(parent: ParentNode, selector: string) => HTMLElement} */
export const within = (parent, selector) => /** @type {HTMLElement} */ (parent.querySelector(selector))

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Readonly<Record<string, string>>} [attributes]
 * @param {ReadonlyArray<Node | string>} [children]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export const element = (name, attributes = {}, children = []) => {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value)
  }
  made.append(...children)
  return made
}

/**
 * @param {string} name
 * @param {Readonly<Record<string, string | number>>} attributes
 * @param {ReadonlyArray<Node | string>} [children]
 */
export const drawn = (name, attributes, children = []) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name)
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, String(value))
  }
  made.append(...children)
  return made
}

/**
 * Sets the text of a node if it differs. Setting the same text again would clear the selection, and be announced by screen
 * readers.
 *
 * @type {(node: Element, text: string) => void}
 */
export const say = (node, text) => {
  if (node.textContent !== text) {
    node.textContent = text
  }
}

/** @type {(value: number, digits: number) => string} */
const rounded = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits })

/** @type {(count: number) => string} */
export const whole = (count) => rounded(count, 0)

/** @type {(value: number) => string} */
export const rate = (value) => rounded(value, value < 10 ? 1 : 0)

/** @type {(seconds: number) => string} */
export const duration = (seconds) => {
  const digits = (/** @type {number} */ value) => rounded(value, value < 10 ? 2 : value < 100 ? 1 : 0)
  if (seconds === 0) {
    return "0 ms"
  }
  if (seconds < 0.001) {
    return `${rounded(seconds * 1e6, 0)} µs`
  }
  if (seconds < 1) {
    return `${digits(seconds * 1e3)} ms`
  }
  if (seconds < 120) {
    return `${digits(seconds)} s`
  }
  const minutes = Math.floor(seconds / 60)
  return minutes < 120
    ? `${minutes} min ${Math.floor(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** @type {(value: number) => string} */
export const bytes = (value) => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"]
  const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log(value) / Math.log(1024)))
  const scaled = value / 1024 ** power
  return `${rounded(scaled, power > 0 && scaled < 100 ? 1 : 0)} ${units[power]}`
}

/** @type {(value: number) => string} */
export const share = (value) => `${rounded(value * 100, 1)} %`

/** @type {(time: number) => string} */
export const clock = (time) => new Date(time).toLocaleTimeString("en-GB")
