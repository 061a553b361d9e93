/**
 * Splits SQL text into statements, as the dialect's own client program does.
 */
import type { Lexicon } from "../driver.js"

/** One statement, and the line on which it begins. */
export interface Statement {
  readonly text: string
  readonly line: number
  /** The data that follows a COPY FROM STDIN, and its first line. */
  readonly copy?: { readonly data: string; readonly line: number } | undefined
}

/** Why a text cannot be split, or has a statement that is not accepted. */
export class SplitError extends Error {}

/** The number of words at the beginning of a statement that are kept to recognize it. */
const maxWords = 6

const matchAt = (pattern: RegExp, text: string, index: number): string | undefined => {
  pattern.lastIndex = index
  return pattern.exec(text)?.[0]
}

/** The end of the comment that begins at `start`, or undefined if it has none. */
const commentEnd = (text: string, start: number, nests: boolean): number | undefined => {
  const mark = /\/\*|\*\//g
  mark.lastIndex = start + 2
  for (let depth = 1, found = mark.exec(text); found !== null; found = mark.exec(text)) {
    depth += found[0] === "*/" ? -1 : nests ? 1 : 0
    if (depth === 0) {
      return mark.lastIndex
    }
  }
  return undefined
}

// A migration is one transaction. These would end it early, or begin another inside it.
const transactionControl =
  /^(?:BEGIN|START TRANSACTION|COMMIT|END|ABORT|PREPARE TRANSACTION|ROLLBACK(?!(?: TRANSACTION| WORK)? TO\b))\b/

/** Gives the line of an index. Indexes must ascend, so that each line is counted once. */
const lineCounter = (text: string) => {
  let line = 1
  let end = text.indexOf("\n")
  return (index: number): number => {
    while (end !== -1 && end < index) {
      line++
      end = text.indexOf("\n", end + 1)
    }
    return line
  }
}

/** The end of the data of a COPY: a line with a backslash and a dot. */
const copyEnd = /^\\\.[ \t\r]*$/gm

/** The statement that is being read: its first words, and whether parentheses or a body are open. */
class StatementState {
  /** The first words, in upper case, with a space between two. */
  words = ""
  private count = 0
  /** The last token, if it is a word or a semicolon. */
  private previous = ""
  private parentheses = 0
  /**
   * `open`: in the body of a trigger or function, whose statements end with semicolons too. `closed`: after its END.
   */
  private body: "none" | "open" | "closed" = "none"
  readsData = false

  constructor(private readonly lexicon: Lexicon, readonly start: number) {}

  get isInBody(): boolean {
    return this.body === "open"
  }

  /** Whether a semicolon ends the statement here. */
  get isComplete(): boolean {
    return this.body !== "open" && (this.parentheses === 0 || !this.lexicon.parenthesesEnclose)
  }

  semicolon(): void {
    this.previous = ";"
  }

  symbol(character: string): void {
    this.previous = ""
    this.parentheses += character === "(" ? 1 : character === ")" ? -1 : 0
  }

  word(word: string): void {
    const { bodies, copyData } = this.lexicon
    if (this.count++ < maxWords) {
      this.words = this.words === "" ? word : `${this.words} ${word}`
    }
    if (this.body === "none" && bodies.statement.test(this.words)) {
      const opens = bodies.opening === undefined ||
        (this.parentheses === 0 && `${this.previous} ${word}` === bodies.opening)
      this.body = opens ? "open" : "none"
    } else if (this.body === "open" && word === "END" && (this.previous === ";" || this.previous === "ATOMIC")) {
      // Elsewhere the word END is a name, or the end of a CASE.
      this.body = "closed"
    }
    this.readsData ||= copyData && this.parentheses === 0 && this.words.startsWith("COPY ") &&
      `${this.previous} ${word}` === "FROM STDIN"
    this.previous = word
  }
}

/**
 * The statements of a text. If it is `transactional`, statements that would begin or end a transaction are refused.
 * Throws a SplitError.
 */
export const split = (text: string, lexicon: Lexicon, transactional: boolean): ReadonlyArray<Statement> => {
  const statements: Array<Statement> = []
  const lineAt = lineCounter(text)
  const refuse = (index: number, reason: string) => new SplitError(`line ${lineAt(index)}: ${reason}`)
  const unterminated = (what: string, index: number) =>
    new SplitError(`the ${what} that begins on line ${lineAt(index)} has no end`)
  let state: StatementState | undefined
  const finish = (end: number, copy?: Statement["copy"]) => {
    if (state !== undefined) {
      const { start, words } = state
      const statement = { text: text.slice(start, end), line: lineAt(start), copy }
      if (transactional && transactionControl.test(words)) {
        throw refuse(start, `${words.split(" ")[0]} is not accepted, since each migration is a transaction of its own`)
      }
      const reason = lexicon.refusal(words, statement.text)
      if (reason !== undefined) {
        throw refuse(start, reason)
      }
      statements.push(statement)
    }
    state = undefined
  }
  /** Takes the data that begins on the line after `index`, and returns its end. */
  const takeData = (index: number): number => {
    const { start } = state!
    const lineEnd = /[ \t\r]*(?:\n|$)/y
    const rest = matchAt(lineEnd, text, index + 1)
    if (rest === undefined) {
      throw refuse(start, "nothing can follow COPY FROM STDIN on its line, since its data begins on the next one")
    }
    const dataStart = index + 1 + rest.length
    copyEnd.lastIndex = dataStart
    const end = copyEnd.exec(text)
    if (end === null) {
      throw unterminated("data of the COPY", start)
    }
    const data = text.slice(dataStart, end.index)
    const line = lineAt(start) + text.slice(start, dataStart).split("\n").length - 1
    finish(index, { data, line })
    return copyEnd.lastIndex
  }
  const zero = text.indexOf("\0")
  if (zero !== -1) {
    throw refuse(zero, "there is a NUL character")
  }
  for (let i = 0; i < text.length;) {
    const skipped = matchAt(lexicon.blank, text, i)
    if (skipped !== undefined) {
      i += skipped.length
      continue
    }
    if (text.startsWith("/*", i)) {
      const end = commentEnd(text, i, lexicon.nestedComments)
      if (end === undefined) {
        throw unterminated("comment", i)
      }
      i = end
      continue
    }
    const character = text[i]
    if (character === ";" && (state === undefined || state.isComplete)) {
      if (state?.readsData === true) {
        i = takeData(i)
      } else {
        finish(i)
        i++
      }
      continue
    }
    if (state === undefined) {
      const command = matchAt(lexicon.clientCommand, text, i)
      if (command !== undefined) {
        if (!lexicon.ignoredCommand.test(command)) {
          throw refuse(i, `${command.split(/\s/, 1)[0]} is a command of ${lexicon.clientName}, and not SQL`)
        }
        i += command.length
        continue
      }
    }
    state ??= new StatementState(lexicon, i)
    const quoted = lexicon.quoted.map((pattern) => matchAt(pattern, text, i)).find((found) => found !== undefined)
    if (quoted !== undefined) {
      state.symbol("")
      i += quoted.length
      continue
    }
    if (matchAt(lexicon.opening, text, i) !== undefined) {
      throw unterminated("quoted text", i)
    }
    const found = matchAt(lexicon.word, text, i)
    if (found === undefined) {
      if (character === ";") {
        state.semicolon()
      } else {
        state.symbol(character)
      }
      i++
      continue
    }
    i += found.length
    state.word(found.toUpperCase())
  }
  if (state?.isInBody === true) {
    throw new SplitError(`the statement that begins on line ${lineAt(state.start)} has a BEGIN without an END`)
  }
  if (state?.readsData === true) {
    throw unterminated("data of the COPY", state.start)
  }
  finish(text.length)
  return statements
}
