/**
 * What the SQL texts of all dialects have in common.
 */

/**
 * Strings in single quotes and identifiers in double quotes; a doubled quote stands for itself. Each step of a match
 * covers the text up to the next quote, since a step for each character would overflow the stack on a long text.
 */
export const quoted: ReadonlyArray<RegExp> = [/'[^']*'(?:'[^']*')*/y, /"[^"]*"(?:"[^"]*")*/y]
