/**
 * The database layer of an Effect application.
 *
 * @since 0.1.0
 */

/**
 * The database of an application: one Layer, configured by the environment, with sessions, statements and health
 * checks.
 *
 * @since 0.1.0
 */
export * as Database from "./Database.js"

/**
 * Database settings, read from the environment or given in code, and validated.
 *
 * @since 0.1.0
 */
export * as DatabaseConfig from "./DatabaseConfig.js"

/**
 * The errors of a database: one tagged error for each kind of failure, the same for every dialect.
 *
 * @since 0.1.0
 */
export * as DatabaseError from "./DatabaseError.js"

/**
 * The database in an HTTP server of @effect/platform: a session for each request, health checks, metrics, a dashboard,
 * and responses to database errors.
 *
 * @since 0.1.0
 */
export * as DatabaseHttp from "./DatabaseHttp.js"

/**
 * How values of PostgreSQL's types are read into JavaScript and sent to the server.
 *
 * @since 0.1.0
 */
export * as DatabaseTypes from "./DatabaseTypes.js"

/**
 * Health checks: whether the database answers, and a report for an operator.
 *
 * @since 0.1.0
 */
export * as Health from "./Health.js"

/**
 * Migrations: each is applied once, in a transaction of its own, however many processes start at the same time.
 *
 * This module uses the table and the loaders of @effect/sql's Migrator, so that an application can change from one to
 * the other.
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
 * Sessions: units of work that are committed or rolled back as a whole.
 *
 * @since 0.1.0
 */
export * as Session from "./Session.js"

/**
 * Metrics, span attributes, and the current activity of a database.
 *
 * @since 0.1.0
 */
export * as Telemetry from "./Telemetry.js"

/**
 * Databases for tests: new ones, sandboxes that are rolled back, and injected failures. It works with every test
 * runner.
 *
 * @since 0.1.0
 */
export * as TestDatabase from "./TestDatabase.js"
