/**
 * The texts of statements, compiled once for each template in the program.
 */
import * as Statement from "@effect/sql/Statement"

/**
 * Whether the text of a statement does not depend on its arguments, since each is the value of a parameter: not a
 * fragment, an identifier or one of the helpers, which all have a tag. Something else that has one is compiled every time.
 */
export const isPlain = (strings: TemplateStringsArray | string, args: ReadonlyArray<unknown>): boolean => {
  if (typeof strings !== "string") {
    for (const arg of args) {
      if (typeof arg === "object" && arg !== null && (Statement.FragmentId in arg || "_tag" in arg)) {
        return false
      }
    }
  }
  return true
}

/** By the template's strings, so that what is not in the program any more is forgotten. */
export class Texts {
  private readonly known = new WeakMap<TemplateStringsArray, string>()

  get(strings: TemplateStringsArray): string | undefined {
    return this.known.get(strings)
  }

  /** Strings that somebody made by hand can still be changed. */
  keep(strings: TemplateStringsArray, text: string): string {
    if (Object.isFrozen(strings)) {
      this.known.set(strings, text)
    }
    return text
  }
}
