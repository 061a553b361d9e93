/**
 * The text of an array: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
 */

/**
 * Elements that are arrays themselves are the further dimensions. `element` formats any other element, with
 * `formatElement` for its text.
 */
export const formatArray = (
  elements: ReadonlyArray<unknown>,
  delimiter: string,
  element: (value: unknown) => string
): string => {
  let text = "{"
  for (let i = 0; i < elements.length; i++) {
    const value = elements[i]
    if (i > 0) {
      text += delimiter
    }
    text += Array.isArray(value) ? formatArray(value, delimiter, element) : element(value)
  }
  return `${text}}`
}

/** A text, or null, as an element of an array. */
export const formatElement = (text: string | null): string =>
  text === null ? "NULL" : `"${/["\\]/.test(text) ? text.replace(/["\\]/g, "\\$&") : text}"`

class MalformedArray extends Error {
  override readonly name = "MalformedArray"
}

/** `[2:3][0:1]=` in front of an array whose indices do not begin with 1. */
const bounds = /^(?:\[[-+]?\d+:[-+]?\d+\])+=/

/** Throws if the text is not that of an array. */
export const parseArray = (
  text: string,
  delimiter: string,
  parse: (element: string) => unknown
): Array<unknown> => {
  let position = text.startsWith("[") ? bounds.exec(text)?.[0].length ?? 0 : 0

  const quoted = (): string => {
    let value = ""
    let from = ++position
    for (;;) {
      const character = text[position]
      if (character === "\"") {
        return value + text.slice(from, position++)
      }
      if (character === "\\") {
        value += text.slice(from, position)
        from = position + 1
        position += 2
      } else if (character === undefined) {
        throw new MalformedArray()
      } else {
        position++
      }
    }
  }

  const unquoted = (): string => {
    const from = position
    while (text[position] !== delimiter && text[position] !== "}" && text[position] !== undefined) {
      position++
    }
    return text.slice(from, position)
  }

  const elements = (): Array<unknown> => {
    const array: Array<unknown> = []
    if (text[position++] !== "{") {
      throw new MalformedArray()
    }
    if (text[position] === "}") {
      position++
      return array
    }
    for (;;) {
      const first = text[position]
      if (first === "{") {
        array.push(elements())
      } else if (first === "\"") {
        array.push(parse(quoted()))
      } else {
        const element = unquoted()
        array.push(element === "NULL" ? null : parse(element))
      }
      const next = text[position++]
      if (next === "}") {
        return array
      }
      if (next !== delimiter) {
        throw new MalformedArray()
      }
    }
  }

  const array = elements()
  if (position !== text.length) {
    throw new MalformedArray()
  }
  return array
}
