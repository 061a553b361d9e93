/**
 * The one place where drivers are chosen, one line for each dialect.
 */
export { make as postgres } from "./postgres/driver.js"
export { make as sqlite } from "./sqlite/driver.js"
