/**
 * The one place where drivers are chosen, one line for each dialect. A driver is loaded when a database of its dialect is
 * opened for the first time.
 */
export const postgres = () => import("./postgres/driver.js")
export const sqlite = () => import("./sqlite/driver.js")
