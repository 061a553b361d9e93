/**
 * The rows of `sql.insert` and `sql.updateValues`, whose columns are the keys of the first row.
 */
import type * as Statement from "@effect/sql/Statement"

/** What is wrong with the rows of a statement; undefined if nothing is. */
export const invalidRows = (segments: ReadonlyArray<Statement.Segment>): string | undefined => {
  for (const segment of segments) {
    if (segment._tag === "RecordInsertHelper" || segment._tag === "RecordUpdateHelper") {
      const helper = segment._tag === "RecordInsertHelper" ? "insert" : "updateValues"
      const reason = segment.value.length === 0
        ? "it needs at least one row, and was given none"
        : unlikeRow(segment.value)
      if (reason !== undefined) {
        return `sql.${helper}: ${reason}`
      }
    }
  }
  return undefined
}

/** Names the first row that lacks a key of row 1, or has a key that row 1 has not and whose value would be dropped. */
const unlikeRow = (rows: ReadonlyArray<Readonly<Record<string, unknown>>>): string | undefined => {
  const [first] = rows
  const names = Object.keys(first)
  for (let i = 1; i < rows.length; i++) {
    const row = rows[i]
    let count = 0
    for (const name in row) {
      if (Object.hasOwn(first, name)) {
        count++
      } else if (row[name] !== undefined) {
        return `row ${i + 1} has the key ${JSON.stringify(name)}, which row 1 does not have`
      }
    }
    if (count < names.length) {
      const missing = names.find((name) => !(name in row))
      if (missing !== undefined) {
        return `row ${i + 1} lacks the key ${JSON.stringify(missing)} of row 1`
      }
    }
  }
  return undefined
}
