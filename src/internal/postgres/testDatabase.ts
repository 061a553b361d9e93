/**
 * Databases for tests on a PostgreSQL server, copied from a template that is migrated once.
 *
 * Advisory locks guard what lives longer than one statement, since the server releases the locks of a process that dies.
 * The lock of a template family is held shared while a database is copied, and exclusively while a template is made. The
 * lock of each test database is held as long as the database is in use: a database whose lock is free was left behind by
 * a crashed process. Advisory locks belong to one database of the server, so that database's name is part of the names
 * of the templates.
 */
import * as Effect from "effect/Effect"
import * as Crypto from "node:crypto"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection, Template, TestDatabases } from "../driver.js"

const lockClass = 0x73716c79
const prefix = "sqlayer_test_"

const hash = (text: string, length: number): string =>
  Crypto.createHash("sha256").update(text).digest("hex").slice(0, length)

export const testDatabases = (target: PostgresTarget): TestDatabases => ({
  create: (connection, template) => create(connection, target, template)
})

const create = <E, R>(connection: Connection, target: PostgresTarget, template: Template<E, R>) => {
  const run = (text: string): Effect.Effect<ReadonlyArray<{ readonly [column: string]: unknown }>, DatabaseError> =>
    Effect.mapError(connection.executeUnprepared(text, [], undefined), fromSqlError)
  const callLock = (lockFunction: string, name: string) =>
    run(`SELECT pg_catalog.${lockFunction}(${lockClass}, pg_catalog.hashtext('${name}'))`)

  const ownPrefix = prefix + hash(target.database, 8)
  const family = `${ownPrefix}_t_${hash(template.family, 8)}`
  const name = template.content === undefined ? undefined : `${family}_${hash(template.content, 16)}`

  const locked = <A, E, R>(shared: "" | "_shared", effect: Effect.Effect<A, E, R>) =>
    Effect.acquireUseRelease(
      Effect.interruptible(callLock(`pg_advisory_lock${shared}`, family)),
      () => effect,
      () => Effect.ignore(callLock(`pg_advisory_unlock${shared}`, family))
    )

  const exists = (database: string) =>
    Effect.map(run(`SELECT 1 FROM pg_catalog.pg_database WHERE datname = '${database}'`), (rows) => rows.length > 0)
  const drop = (database: string) => run(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`)

  const migrate = (database: string) => template.migrate({ ...target, database })

  /** Until a template is complete, it has a name that is never copied. */
  const makeTemplate = (name: string) =>
    Effect.gen(function*() {
      const unfinished = `${family}_new`
      const outdated = yield* run(
        `SELECT datname FROM pg_catalog.pg_database WHERE pg_catalog.starts_with(datname, '${family}_')`
      )
      yield* Effect.forEach(outdated, ({ datname }) => drop(String(datname)), { discard: true })
      yield* run(`CREATE DATABASE ${unfinished}`)
      yield* migrate(unfinished)
      yield* run(`ALTER DATABASE ${unfinished} WITH ALLOW_CONNECTIONS false`)
      yield* run(`ALTER DATABASE ${unfinished} RENAME TO ${name}`)
    })

  /** Drops the databases whose lock is free, which no process uses any more. */
  const dropLeftovers = Effect.gen(function*() {
    const leftovers = yield* run(
      `SELECT datname FROM pg_catalog.pg_database WHERE CASE WHEN pg_catalog.starts_with(datname, '${ownPrefix}_c_') ` +
        `THEN pg_catalog.pg_try_advisory_lock(${lockClass}, pg_catalog.hashtext(datname)) ELSE false END`
    )
    yield* Effect.forEach(leftovers, ({ datname }) =>
      Effect.ensuring(
        // A database of another user cannot be dropped.
        Effect.ignoreLogged(drop(String(datname))),
        Effect.ignore(callLock("pg_advisory_unlock", String(datname)))
      ), { discard: true })
  })

  const createCopy = (copy: string): Effect.Effect<void, E | DatabaseError, R> => {
    if (name === undefined) {
      return Effect.zipRight(run(`CREATE DATABASE ${copy}`), migrate(copy))
    }
    const copied = locked(
      "_shared",
      Effect.flatMap(
        exists(name),
        (found) => found ? Effect.as(run(`CREATE DATABASE ${copy} TEMPLATE ${name}`), true) : Effect.succeed(false)
      )
    )
    const made = locked(
      "",
      Effect.flatMap(exists(name), (found) => found ? Effect.void : makeTemplate(name))
    )
    return Effect.flatMap(copied, (done) => done ? Effect.void : Effect.zipRight(made, createCopy(copy)))
  }

  return Effect.gen(function*() {
    yield* dropLeftovers
    const copy = `${ownPrefix}_c_${Crypto.randomBytes(8).toString("hex")}`
    yield* callLock("pg_advisory_lock", copy)
    yield* Effect.addFinalizer(() => Effect.ignoreLogged(drop(copy)))
    yield* createCopy(copy)
    return { ...target, database: copy }
  })
}
