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
 * The database behind an HTTP server of @effect/platform: one session a request, what probes and Prometheus ask for, and
 * errors of the database as answers.
 *
 * @since 0.1.0
 */
export * as DatabaseHttp from "./DatabaseHttp.js"

/**
 * Whether the database answers: as a boolean, and as a report for an operator.
 *
 * @since 0.1.0
 */
export * as Health from "./Health.js"

/**
 * Migrations for either dialect: each applied once and whole, whoever starts how many runners.
 *
 * It uses the table of @effect/sql's Migrator and takes its loaders, so that either can go on where the other stopped.
 *
 * @since 0.1.0
 */
export * as Migrations from "./Migrations.js"

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

/**
 * Databases for tests: fresh ones, one transaction that is rolled back, and failures on demand.
 *
 * It depends on no test runner.
 *
 * @since 0.1.0
 */
export * as TestDatabase from "./TestDatabase.js"
