/**
 * The cache of statement texts: each template of the program is compiled once.
 */
import * as Statement from "@effect/sql/Statement"

/**
 * Whether the text of a statement is the same whatever its arguments are. It is if every argument is the value of a
 * parameter and none is a fragment, an identifier or a helper of @effect/sql, all of which have a tag.
 */
export const hasFixedText = (strings: TemplateStringsArray | string, args: ReadonlyArray<unknown>): boolean => {
  if (typeof strings !== "string") {
    for (const arg of args) {
      if (typeof arg === "object" && arg !== null && (Statement.FragmentId in arg || "_tag" in arg)) {
        return false
      }
    }
  }
  return true
}

/** Keyed weakly by the template's strings, so that a text lives no longer than its template. */
export class TextCache {
  private readonly texts = new WeakMap<TemplateStringsArray, string>()

  get(strings: TemplateStringsArray): string | undefined {
    return this.texts.get(strings)
  }

  /** Caches and returns a text. Strings that are not frozen, as those of templates are, can change and are not cached. */
  set(strings: TemplateStringsArray, text: string): string {
    if (Object.isFrozen(strings)) {
      this.texts.set(strings, text)
    }
    return text
  }
}
