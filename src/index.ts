/**
 * The database layer of an Effect application.
 *
 * @since 0.1.0
 */

/**
 * The database of an application: one Layer, chosen by the environment, that gives sessions, statements and health.
 *
 * @since 0.1.0
 */
export * as Database from "./Database.js"

/**
 * From the environment to validated settings.
 *
 * @since 0.1.0
 */
export * as DatabaseConfig from "./DatabaseConfig.js"

/**
 * What can fail: one tagged error for every kind of failure that a database can produce, the same on every dialect.
 *
 * @since 0.1.0
 */
export * as DatabaseError from "./DatabaseError.js"

/**
 * Whether the database answers: as a boolean, and as a report for an operator.
 *
 * @since 0.1.0
 */
export * as Health from "./Health.js"

/**
 * A generic, Effect-native connection pool.
 *
 * @since 0.1.0
 */
export * as Pool from "./Pool.js"

/**
 * The unit of work: what a session can be asked for, and what code inside one can say.
 *
 * @since 0.1.0
 */
export * as Session from "./Session.js"

/**
 * What sqlayer tells an operator: metrics and span attributes.
 *
 * @since 0.1.0
 */
export * as Telemetry from "./Telemetry.js"
