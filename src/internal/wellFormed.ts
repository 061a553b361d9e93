/**
 * Text that can be stored: its surrogates are all in pairs. Half of a pair would be sent to the database as U+FFFD.
 */

/** A method of ES2024, which Node.js 20 has. */
interface Es2024String {
  isWellFormed(): boolean
}

export const isWellFormed = (text: string): boolean => (text as unknown as Es2024String).isWellFormed()

export const malformedText = "it contains half of a surrogate pair, which is not valid text"
