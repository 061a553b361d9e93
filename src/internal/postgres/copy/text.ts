/**
 * The texts of COPY statements.
 */
import type { CopyFormat, CopyFrom, CopyTo } from "../../driver.js"
import { Pg } from "../protocol/pg.js"
import type { Encoded } from "../protocol/writer.js"
import { afterComment } from "../statementText.js"

const optionsOf = ({ delimiter, format, header, null: nullText }: CopyFormat): string =>
  [
    `FORMAT ${format}`,
    header ? "HEADER true" : "",
    delimiter === undefined ? "" : `DELIMITER ${Pg.escapeLiteral(delimiter)}`,
    nullText === undefined ? "" : `NULL ${Pg.escapeLiteral(nullText)}`,
    // The data is in UTF-8, whatever client_encoding a statement of the session has set.
    format === "binary" ? "" : "ENCODING 'UTF8'"
  ].filter((option) => option !== "").join(", ")

export const copyFromText = ({ columns, format, table, text }: CopyFrom): string =>
  text ?? `COPY ${table} (${columns.map(({ identifier }) => identifier).join(", ")}) FROM STDIN (${optionsOf(format)})`

/** An INSERT whose parameters have the types of the columns. */
export const insertText = ({ columns, table }: CopyFrom): string =>
  `INSERT INTO ${table} (${columns.map(({ identifier }) => identifier).join(", ")}) VALUES (${
    columns.map((_, i) => `$${i + 1}`).join(", ")
  })`

/** The query stands on lines of its own, since it may end with a comment. */
export const copyToText = ({ format, query }: Pick<CopyTo, "format" | "query">): string =>
  `COPY (\n${query.replace(/[\s;]+$/, "")}\n) TO STDOUT (${optionsOf(format)})`

/** Strings, names, comments and words, which are kept as they are, and the placeholders of parameters. */
const token = new RegExp(
  [
    String.raw`[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'`,
    String.raw`'[^']*(?:''[^']*)*'`,
    String.raw`"[^"]*(?:""[^"]*)*"`,
    String.raw`[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*`,
    String.raw`--[^\n]*`,
    String.raw`\$([A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$[^]*?\$\1\$`,
    String.raw`\/\*`,
    String.raw`\$(\d+)`
  ].join("|"),
  "g"
)

const literalOf = (value: Encoded): string =>
  value === null
    ? "NULL"
    : typeof value === "string"
    ? Pg.escapeLiteral(value)
    : `pg_catalog.decode('${value.toString("hex")}', 'hex')`

/**
 * Replaces the placeholders of a query by literals, since COPY has no parameters. Their types are inferred as those of
 * parameters.
 */
export const inlineParameters = (query: string, values: ReadonlyArray<Encoded>): string => {
  if (values.length === 0) {
    return query
  }
  let inlined = ""
  let end = 0
  token.lastIndex = 0
  for (let found = token.exec(query); found !== null; found = token.exec(query)) {
    if (found[0] === "/*") {
      token.lastIndex = afterComment(query, found.index)
    } else if (found[2] !== undefined) {
      const value = values[Number(found[2]) - 1]
      // An unknown number stays, for the server to reject.
      const replacement = value === undefined ? found[0] : literalOf(value)
      inlined += `${query.slice(end, found.index)} ${replacement} `
      end = token.lastIndex
    }
  }
  return inlined + query.slice(end)
}
