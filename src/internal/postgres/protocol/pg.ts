/**
 * The parts of the package `pg` that are used: its type parsers, its results and its quoting. They are loaded when the
 * first PostgreSQL database of the process is opened. The rest of `pg`, its client above all, is not loaded.
 */
import type PgModule from "pg"

export interface PgParts extends Pick<typeof PgModule, "defaults" | "escapeIdentifier" | "escapeLiteral" | "Result"> {
  /**
   * The parsers that all code in the process shares: one that is replaced with `setTypeParser` is replaced here too.
   */
  readonly types: Pick<typeof PgModule.types, "getTypeParser">
}

/** Undefined until `pg` is loaded, so modules must not read it while they are evaluated. */
export let Pg: PgParts

export const setPg = (parts: PgParts): void => {
  Pg = parts
}
