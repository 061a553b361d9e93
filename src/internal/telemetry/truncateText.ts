/**
 * Limits the texts of statements that are kept.
 */

/** The number of characters of a statement's text that is kept. */
const maxTextLength = 2_000

/** Limits a text to `maxTextLength`. The result is a copy, because a slice would keep the whole text in memory. */
export const truncateText = (text: string): string =>
  text.length <= maxTextLength ? text : Buffer.from(`${text.slice(0, maxTextLength)}…`).toString()
