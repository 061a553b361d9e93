/**
 * The headers of SQL text: comments ahead of its first statement that say how it is to be run.
 *
 *     -- sqlayer: transaction: none, timeout: 2 hours
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Rule from "../config/rule.js"
import type { Options } from "./model.js"

/** A header that is not valid, and its line. */
export class HeaderError extends Error {}

const header = /^[ \t]*--[ \t]*sqlayer[ \t]*:(.*)$/i

const accepted =
  "\"transaction: none\", \"rebuild\", \"dialect: <name>\" and \"timeout: <duration>\" are accepted, with a comma between two"

const durationOf = (text: string): Duration.Duration | undefined => {
  const duration = Option.getOrUndefined(Duration.decodeUnknown(text))
  return duration !== undefined && Duration.toMillis(duration) > 0 ? duration : undefined
}

/** The options of one header, or why it is not valid. */
const optionOf = (name: string, value: string | undefined, dialects: ReadonlyArray<string>): Options | string => {
  switch (name) {
    case "transaction":
      return value === "none" ? { transaction: value } : `transaction: ${accepts("none", value)}`
    case "rebuild":
      return value === undefined ? { rebuild: true } : "rebuild: it takes no value"
    case "dialect":
      return dialects.includes(value ?? "")
        ? { dialect: value as Options["dialect"] }
        : `dialect: ${accepts(dialects.join(" or "), value)}`
    case "timeout": {
      const timeout = value === undefined ? undefined : durationOf(value)
      return timeout === undefined
        ? `timeout: ${accepts("a duration such as 10 minutes", value)}`
        : { timeout }
    }
    default:
      return `there is no header ${JSON.stringify(name)}: ${accepted}`
  }
}

const accepts = (what: string, value: string | undefined): string =>
  `expected ${what}, but was given ${value === undefined ? "nothing" : Rule.show(value)}`

/** The rest of a line after its leading comments, and whether a comment between slashes is open at its end. */
const withoutComments = (line: string, isInComment: boolean): { readonly rest: string; readonly isOpen: boolean } => {
  let rest = line
  let isOpen = isInComment
  for (;;) {
    if (isOpen) {
      const end = rest.indexOf("*/")
      if (end === -1) {
        return { rest: "", isOpen }
      }
      rest = rest.slice(end + 2)
    }
    rest = rest.trim()
    isOpen = rest.startsWith("/*")
    if (!isOpen) {
      return { rest: rest.startsWith("--") ? "" : rest, isOpen }
    }
    rest = rest.slice(2)
  }
}

/** The options in a text. Throws a HeaderError. */
export const optionsOf = (text: string, dialects: ReadonlyArray<string>): Options => {
  const options: Options = {}
  let isAhead = true
  let isInComment = false
  for (const [i, line] of text.replace(/^\uFEFF/, "").split("\n").entries()) {
    const [, content] = (isInComment ? null : header.exec(line.replace(/\r$/, ""))) ?? []
    if (content !== undefined) {
      const fail = (reason: string) => new HeaderError(`line ${i + 1}: ${reason}`)
      if (!isAhead) {
        throw fail("a header must come before the first statement")
      }
      for (const part of content.split(",")) {
        const [, name, value] = /^\s*([^:]*?)\s*(?::\s*(.*?)\s*)?$/.exec(part)!
        const option = optionOf(name, value, dialects)
        if (typeof option === "string") {
          throw fail(option)
        }
        if (Object.keys(option).some((key) => key in options)) {
          throw fail(`${name} is given twice`)
        }
        Object.assign(options, option)
      }
    } else if (isAhead) {
      const { isOpen, rest } = withoutComments(line, isInComment)
      isInComment = isOpen
      isAhead = rest === ""
    }
  }
  return options
}
