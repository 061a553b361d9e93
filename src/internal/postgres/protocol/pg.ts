/**
 * What is used of the package `pg`: its types, and how it quotes. It is loaded when the first PostgreSQL database of the
 * process is opened. The rest of `pg`, its client above all, is not loaded.
 */
import type PgModule from "pg"

export interface PgParts extends Pick<typeof PgModule, "defaults" | "escapeIdentifier" | "escapeLiteral" | "Result"> {
  /** The parsers of all applications of `pg` in this process: what they replace is replaced here. */
  readonly types: Pick<typeof PgModule.types, "getTypeParser">
}

/** Undefined until it is loaded, so it is read when it is used and not when a module is evaluated. */
export let Pg: PgParts

export const setPg = (parts: PgParts): void => {
  Pg = parts
}
