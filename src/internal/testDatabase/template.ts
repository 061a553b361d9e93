/**
 * Databases on a PostgreSQL server, cloned from a template that has been migrated.
 *
 * What lives longer than one statement is guarded by advisory locks, which the server gives up for whoever dies: one for
 * the templates of an application, shared by those who clone and exclusive for the one who makes, and one for each
 * database, by which the living ones are told from what a crashed run left behind. Advisory locks are those of one
 * database, so its name is part of the templates' names.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Crypto from "node:crypto"
import { type DatabaseError, fromSqlError } from "../../DatabaseError.js"
import type { Connection } from "../driver.js"

/** What is cloned: one of a family, of which only the newest is kept. */
export interface Template<E, R> {
  /** What tells it from those of other applications. */
  readonly family: string
  /** What tells it from others of its family; undefined where that cannot be told, so that there is no template. */
  readonly content: string | undefined
  /** Migrates the database of this name, and leaves no connection on it. */
  readonly migrate: (database: string) => Effect.Effect<void, E, R>
}

const lockClass = 0x73716c79
const prefix = "sqlayer_test_"

const hash = (text: string, length: number): string =>
  Crypto.createHash("sha256").update(text).digest("hex").slice(0, length)

/** A database of its own until the scope closes. The connection keeps the locks, so it must stay open as long. */
export const database = <E, R>(
  connection: Connection,
  server: string,
  template: Template<E, R>
): Effect.Effect<string, E | DatabaseError, R | Scope.Scope> => {
  const run = (text: string): Effect.Effect<ReadonlyArray<{ readonly [column: string]: unknown }>, DatabaseError> =>
    Effect.mapError(connection.executeUnprepared(text, [], undefined), fromSqlError)
  const lock = (how: string, name: string) =>
    run(`SELECT pg_catalog.${how}(${lockClass}, pg_catalog.hashtext('${name}'))`)

  const own = prefix + hash(server, 8)
  const family = `${own}_t_${hash(template.family, 8)}`
  const name = template.content === undefined ? undefined : `${family}_${hash(template.content, 16)}`

  const locked = <A, E, R>(shared: "" | "_shared", effect: Effect.Effect<A, E, R>) =>
    Effect.acquireUseRelease(
      Effect.interruptible(lock(`pg_advisory_lock${shared}`, family)),
      () => effect,
      () => Effect.ignore(lock(`pg_advisory_unlock${shared}`, family))
    )

  const exists = (database: string) =>
    Effect.map(run(`SELECT 1 FROM pg_catalog.pg_database WHERE datname = '${database}'`), (rows) => rows.length > 0)
  const drop = (database: string) => run(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`)

  /** What it is made under until it is whole: a name that nobody clones. */
  const build = (template: Template<E, R>, name: string) =>
    Effect.gen(function*() {
      const unfinished = `${family}_new`
      const outdated = yield* run(
        `SELECT datname FROM pg_catalog.pg_database WHERE pg_catalog.starts_with(datname, '${family}_')`
      )
      yield* Effect.forEach(outdated, ({ datname }) => drop(String(datname)), { discard: true })
      yield* run(`CREATE DATABASE ${unfinished}`)
      yield* template.migrate(unfinished)
      yield* run(`ALTER DATABASE ${unfinished} WITH ALLOW_CONNECTIONS false`)
      yield* run(`ALTER DATABASE ${unfinished} RENAME TO ${name}`)
    })

  /** Those whose lock is to be had belong to nobody any more. */
  const sweep = Effect.gen(function*() {
    const left = yield* run(
      `SELECT datname FROM pg_catalog.pg_database WHERE CASE WHEN pg_catalog.starts_with(datname, '${own}_c_') ` +
        `THEN pg_catalog.pg_try_advisory_lock(${lockClass}, pg_catalog.hashtext(datname)) ELSE false END`
    )
    yield* Effect.forEach(left, ({ datname }) =>
      Effect.ensuring(
        // It may be another user's.
        Effect.ignoreLogged(drop(String(datname))),
        Effect.ignore(lock("pg_advisory_unlock", String(datname)))
      ), { discard: true })
  })

  const create = (clone: string): Effect.Effect<void, E | DatabaseError, R> => {
    if (name === undefined) {
      return Effect.zipRight(run(`CREATE DATABASE ${clone}`), template.migrate(clone))
    }
    const cloned = locked(
      "_shared",
      Effect.flatMap(
        exists(name),
        (found) => found ? Effect.as(run(`CREATE DATABASE ${clone} TEMPLATE ${name}`), true) : Effect.succeed(false)
      )
    )
    const made = locked(
      "",
      Effect.flatMap(exists(name), (found) => found ? Effect.void : build(template, name))
    )
    return Effect.flatMap(cloned, (done) => done ? Effect.void : Effect.zipRight(made, create(clone)))
  }

  return Effect.gen(function*() {
    yield* sweep
    const clone = `${own}_c_${Crypto.randomBytes(8).toString("hex")}`
    yield* lock("pg_advisory_lock", clone)
    yield* Effect.addFinalizer(() => Effect.ignoreLogged(drop(clone)))
    yield* create(clone)
    return clone
  })
}
