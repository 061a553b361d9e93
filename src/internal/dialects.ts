/**
 * The dialects by name, one line each: their configuration and names. `drivers.ts` lists their drivers.
 */
export { dialect as postgres } from "./postgres/dialect.js"
export { dialect as sqlite } from "./sqlite/dialect.js"
