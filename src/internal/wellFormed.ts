/**
 * Text that can be stored: one whose surrogates are all in pairs. A database would be sent U+FFFD in place of half a pair.
 */

/** A method of ES2024, which Node.js 20 has. */
interface Es2024String {
  isWellFormed(): boolean
}

export const isWellFormed = (text: string): boolean => (text as unknown as Es2024String).isWellFormed()

export const malformedText = "it holds half of a surrogate pair, which is not text"
