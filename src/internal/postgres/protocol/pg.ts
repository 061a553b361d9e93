/**
 * The package `pg`, which is loaded when the first PostgreSQL database of the process is opened.
 */
import type PgModule from "pg"

/** Undefined until it is loaded, so it is read when it is used and not when a module is evaluated. */
export let Pg: typeof PgModule

export const setPg = (module: typeof PgModule): void => {
  Pg = module
}
