/**
 * Maps the texts of statements that differ only in the length of a list to one text: `IN ($1, $2)` and `VALUES ($1),
 * ($2)` become `IN ($1)` and `VALUES ($1)`. If the text was valid SQL, the result is valid too.
 */

// A string, a quoted name, a comment, a placeholder, a word, or any other character. A comment or dollar quote without an end
// extends to the end of the text, so that the text is not searched again for every further one.
const token =
  /'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*"|`[^`]*`|\$([A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$[^]*?(?:\$\1\$|$)|--[^\n]*|\/\*[^]*?(?:\*\/|$)|[$?]\d+|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|\s+|[^]/y

/** A list with a placeholder near its beginning. The limit keeps this from reading a long text of lists many times. */
const mayHaveList = /\b(?:in|values)\s*\([^]{0,500}?[$?]/i
const blank = /^(?:\s|--|\/\*)/
const placeholder = /^(?:[$?]\d+|\?)$/

interface Token {
  readonly text: string
  readonly start: number
  readonly end: number
}

const tokensOf = (text: string): ReadonlyArray<Token> => {
  const tokens: Array<Token> = []
  for (let at = 0; at < text.length;) {
    token.lastIndex = at
    const found = token.exec(text)![0]
    if (!blank.test(found)) {
      tokens.push({ text: found, start: at, end: at + found.length })
    }
    at += found.length
  }
  return tokens
}

/** Where each parenthesis or bracket is closed. Computed once, so that nested lists are not searched repeatedly. */
const closingOf = (tokens: ReadonlyArray<Token>): ReadonlyMap<number, number> => {
  const closing = new Map<number, number>()
  const open: Array<number> = []
  tokens.forEach(({ text }, at) => {
    if (text === "(" || text === "[") {
      open.push(at)
    } else if ((text === ")" || text === "]") && open.length > 0) {
      closing.set(open.pop()!, at)
    }
  })
  return closing
}

/** The index after the element of a list that begins at `from`, or `from` if there is none. */
type EndOf = (tokens: ReadonlyArray<Token>, closing: ReadonlyMap<number, number>, from: number) => number

/** The end of an item: the index of a comma, or of the parenthesis that ends the list. */
const endOfItem: EndOf = (tokens, closing, from) => {
  for (let at = from; at < tokens.length; at++) {
    const { text } = tokens[at]
    if (text === "," || text === ")") {
      return at
    }
    if (text === "(" || text === "[") {
      at = closing.get(at) ?? tokens.length
    }
  }
  return tokens.length
}

const endOfRow: EndOf = (tokens, closing, from) => {
  const end = tokens[from]?.text === "(" ? closing.get(from) : undefined
  return end === undefined ? from : end + 1
}

/** Whether two parts are the same, apart from the numbers of their placeholders, and have at least one placeholder. */
const areAlike = (
  tokens: ReadonlyArray<Token>,
  first: readonly [from: number, to: number],
  other: readonly [from: number, to: number]
): boolean => {
  if (first[1] - first[0] !== other[1] - other[0]) {
    return false
  }
  let hasPlaceholder = false
  for (let i = 0; i < first[1] - first[0]; i++) {
    const one = tokens[first[0] + i].text
    const two = tokens[other[0] + i].text
    if (placeholder.test(one) && placeholder.test(two)) {
      hasPlaceholder = true
    } else if (one !== two) {
      return false
    }
  }
  return hasPlaceholder
}

/** Ranges of the text that are left out, in order. */
const repetitionsOf = (tokens: ReadonlyArray<Token>): Array<readonly [start: number, end: number]> => {
  const repetitions: Array<readonly [start: number, end: number]> = []
  const closing = closingOf(tokens)
  /** The index after the last token that is left out. */
  let done = 0
  const fold = (from: number, endOf: EndOf): void => {
    let first: readonly [from: number, to: number] = [from, endOf(tokens, closing, from)]
    while (tokens[first[1]]?.text === ",") {
      const kept = first[1]
      let end = kept
      while (tokens[end]?.text === ",") {
        const next: readonly [number, number] = [end + 1, endOf(tokens, closing, end + 1)]
        if (next[1] === next[0] || !areAlike(tokens, first, next)) {
          break
        }
        end = next[1]
      }
      if (end > kept) {
        repetitions.push([tokens[kept - 1].end, tokens[end - 1].end])
        done = end
      }
      if (tokens[end]?.text !== ",") {
        return
      }
      const next = endOf(tokens, closing, end + 1)
      if (next === end + 1) {
        return
      }
      first = [end + 1, next]
    }
  }
  for (let at = 0; at < tokens.length; at++) {
    const word = tokens[at].text.toLowerCase()
    if (at < done || tokens[at + 1]?.text !== "(") {
      continue
    }
    if (word === "in") {
      fold(at + 2, endOfItem)
    } else if (word === "values") {
      fold(at + 1, endOfRow)
    }
  }
  return repetitions
}

const numbered = /^[$?]\d+$/

/** Writes the tokens that are kept, with their placeholders numbered without gaps. */
const written = (
  text: string,
  tokens: ReadonlyArray<Token>,
  repetitions: ReadonlyArray<readonly [start: number, end: number]>
): string => {
  const kept: Array<Token> = []
  let next = 0
  for (const token of tokens) {
    while (next < repetitions.length && token.start >= repetitions[next][1]) {
      next++
    }
    if (next === repetitions.length || token.end <= repetitions[next][0]) {
      kept.push(token)
    }
  }
  const numbers = [
    ...new Set(kept.filter((token) => numbered.test(token.text)).map(({ text }) => Number(text.slice(1))))
  ]
  const ranks = new Map(numbers.sort((one, other) => one - other).map((number, index) => [number, index + 1]))
  let out = ""
  let at = 0
  next = 0
  for (const token of kept) {
    while (next < repetitions.length && repetitions[next][0] <= token.start) {
      out += text.slice(at, repetitions[next][0])
      at = repetitions[next][1]
      next++
    }
    out += text.slice(at, token.start)
    out += numbered.test(token.text) ? token.text[0] + ranks.get(Number(token.text.slice(1))) : token.text
    at = token.end
  }
  for (; next < repetitions.length; next++) {
    out += text.slice(at, repetitions[next][0])
    at = repetitions[next][1]
  }
  return out + text.slice(at)
}

/** The text with one element in each list of like elements. */
export const foldLists = (text: string): string => {
  if (!mayHaveList.test(text)) {
    return text
  }
  const tokens = tokensOf(text)
  const repetitions = repetitionsOf(tokens)
  return repetitions.length === 0 ? text : written(text, tokens, repetitions)
}
