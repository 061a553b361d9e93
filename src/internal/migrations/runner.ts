/**
 * Runs migrations.
 *
 * This uses the loaders and the table of @effect/sql's Migrator, but not its Migrator.make: that applies all migrations in
 * one transaction, never applies a migration whose number is below the latest, does not notice edited migrations, and
 * turns the failure of a migration into a defect.
 *
 * Each migration is one session, whose transaction holds the lock. So no second connection has to stay open, a runner
 * that is killed leaves nothing behind, and a pooler between the application and the server does no harm. After a runner
 * has taken the lock it reads again which migrations are pending.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Database from "../../Database.js"
import { type DatabaseError, typed } from "../../DatabaseError.js"
import { driverOfClient, openDatabases } from "../database/opened.js"
import { perform, type Run, type Task } from "./apply.js"
import { withLock } from "./lock.js"
import { label, type Migration, MigrationError, migrationOf, type Resolved, type Status } from "./model.js"
import { loadDown, loadUp, type Script } from "./scripts.js"
import { statementsOf } from "./sqlText.js"
import { compare, type Comparison, historyOf, invalid, type Plan, withoutProblems } from "./status.js"

export { forDatabase, type Plan, resolve } from "./status.js"

/** The status of the database. Only reads. */
export const status = (database: Database.Service, plan: Plan): Effect.Effect<Status, DatabaseError> =>
  Effect.map(
    typed(historyOf(database, plan).read),
    (content) => compare(plan, content).status
  )

const makeRun = (database: Database.Service, plan: Plan): Run => {
  const history = historyOf(database, plan)
  return {
    database,
    plan,
    dialect: driverOfClient(database.sql).migrations,
    history,
    services: Context.add(database.context, Database.Database, database),
    readStatus: Effect.flatMap(history.read, (content) => withoutProblems(compare(plan, content)))
  }
}

/** Runs an effect in a session that holds the lock. */
const locked = <A, E>(
  { database, dialect, plan }: Run,
  name: string,
  effect: Effect.Effect<A, E>
) => withLock(database, dialect, plan)({ name }, effect, (error) => error)

/** The status, without problems. Waits for a runner that applies a migration without a transaction. */
const initialStatus = (run: Run): Effect.Effect<Comparison, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const { history, plan } = run
    const comparison = compare(plan, yield* typed(history.read))
    return comparison.mayRun
      ? yield* locked(run, "read migrations", run.readStatus)
      : yield* withoutProblems(comparison)
  })

/** Performs tasks one after the other, and returns the migrations of those that it performed. */
const performAll = (
  run: Run,
  direction: Task["direction"],
  scripts: ReadonlyArray<readonly [Resolved, Script]>
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const performed: Array<Migration> = []
    const total = scripts.length
    for (const [i, [resolved, script]] of scripts.entries()) {
      if (yield* perform(run, { resolved, script, direction, position: i + 1, total })) {
        performed.push(migrationOf(resolved))
      }
    }
    return performed
  })

const pendingOf = ({ migrations }: Plan, { pending }: Status): ReadonlyArray<Resolved> => {
  const ids = new Set(pending.map(({ id }) => id))
  return migrations.filter(([id]) => ids.has(id))
}

/** Loads all migrations before any is applied, so that one that cannot be loaded leaves the database unchanged. */
const loadAll = (
  { services }: Run,
  load: typeof loadUp,
  migrations: ReadonlyArray<Resolved>
): Effect.Effect<ReadonlyArray<readonly [Resolved, Script]>, MigrationError> =>
  Effect.forEach(migrations, (resolved) => Effect.map(load(resolved), (script) => [resolved, script] as const)).pipe(
    Effect.provide(services)
  )

/** Applies the pending migrations, and returns those it applied. */
export const run = (
  database: Database.Service,
  plan: Plan
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const run = makeRun(database, plan)
    const { history, readStatus } = run
    const initial = yield* initialStatus(run)
    const { ahead } = initial.status
    if (ahead.length > 0) {
      yield* plan.progress({ _tag: "Ahead", migrations: ahead })
    }
    const scripts = yield* loadAll(run, loadUp, pendingOf(plan, initial.status))
    if (scripts.length > 0 || initial.withoutChecksum.length > 0) {
      const prepare = Effect.gen(function*() {
        yield* history.prepare
        const { withoutChecksum } = yield* readStatus
        yield* Effect.forEach(withoutChecksum, history.saveChecksum, { discard: true })
      })
      yield* locked(run, "prepare migrations", prepare)
    }
    return yield* performAll(run, "up", scripts)
  })

/** A migration that a run would apply. */
export interface Planned extends Migration {
  /** Its number and name as they are written. */
  readonly label: string
  /** Whether all of it is one transaction. */
  readonly isTransactional: boolean
  /** Whether it rebuilds tables. */
  readonly isRebuild: boolean
  /** Its statements in order; undefined if it is an Effect, whose statements are not known before it runs. */
  readonly statements: ReadonlyArray<PlannedStatement> | undefined
}

/** A statement of a migration that a run would apply. */
export interface PlannedStatement {
  /** The line on which it begins. */
  readonly line: number
  readonly sql: string
  /** What it locks until the migration has committed, if that is known. */
  readonly locks: string | undefined
}

/** What `run` would do. Only reads. */
export const dryRun = (
  database: Database.Service,
  plan: Plan
): Effect.Effect<ReadonlyArray<Planned>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const run = makeRun(database, plan)
    const { dialect } = run
    const { status } = yield* typed(run.readStatus)
    const scripts = yield* loadAll(run, loadUp, pendingOf(plan, status))
    return yield* Effect.forEach(scripts, ([resolved, { options }]) => {
      const migration = migrationOf(resolved)
      return Effect.map(
        resolved.text === undefined
          ? Effect.succeed(undefined)
          : statementsOf(migration, resolved.text, dialect, options),
        (statements): Planned => ({
          ...migration,
          label: label(migration),
          isTransactional: options.transaction === undefined,
          isRebuild: options.rebuild === true,
          statements: statements?.map(({ line, text }) => ({ line, sql: text, locks: dialect.locksOf(text) }))
        })
      )
    })
  })

/** What `down` takes back, and what allows it. */
export interface DownOptions {
  /** Takes back all migrations above this number; 0 is all of them. Default: only the last one. */
  readonly to?: number | undefined
  /** Allows it in production, together with `confirm`. Default: false. */
  readonly production?: boolean | undefined
  /** In production: the migration that is taken back first, as it is written. */
  readonly confirm?: string | undefined
}

/** In production, fails unless `production` is set and `confirm` names the migration that is taken back first. */
const checkProduction = (
  database: Database.Service,
  { confirm, production }: DownOptions,
  migrations: ReadonlyArray<Migration>
): Effect.Effect<void, MigrationError> => {
  const first = label(migrations[0])
  return !openDatabases.get(database.sql)!.isProduction || (production === true && confirm === first)
    ? Effect.void
    : invalid(
      `this is production, and ${
        migrations.map(label).join(", ")
      } would be taken back, which may delete data: to allow ` +
        `it, set the option production to true and confirm to "${first}" (--production --confirm ${first})`
    )
}

/** Takes back the last migration, or those above a number, and returns them. */
export const down = (
  database: Database.Service,
  plan: Plan,
  options: DownOptions
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const run = makeRun(database, plan)
    const { to } = options
    const { status: { ahead, applied } } = yield* initialStatus(run)
    if (to !== undefined && to !== 0 && !applied.some(({ id }) => id === to)) {
      return yield* invalid(`no migration with the number ${to} is applied, so nothing can be taken back down to it`)
    }
    const targets = to === undefined ? applied.slice(-1) : applied.filter(({ id }) => id > to)
    if (targets.length === 0) {
      return []
    }
    const unknown = targets.find(({ id }) => ahead.some((migration) => migration.id === id))
    if (unknown !== undefined) {
      return yield* invalid(`migration ${label(unknown)} is applied, and not known here, so it cannot be taken back`)
    }
    const migrations = targets.map(({ id }) => plan.migrations.find((migration) => migration[0] === id)!).toReversed()
    const scripts = yield* loadAll(run, loadDown, migrations)
    yield* checkProduction(database, options, migrations.map(migrationOf))
    return yield* performAll(run, "down", scripts)
  })

/** Records the migrations up to a number as applied, without running them, and returns them. */
export const baseline = (
  database: Database.Service,
  plan: Plan,
  number: number
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const run = makeRun(database, plan)
    const { history, readStatus } = run
    if (!plan.migrations.some(([id]) => id === number)) {
      return yield* invalid(`there is no migration with the number ${number}`)
    }
    const record = Effect.gen(function*() {
      yield* history.prepare
      const { status } = yield* readStatus
      const migrations = pendingOf(plan, status).filter(([id]) => id <= number)
      yield* Effect.forEach(migrations, history.record, { discard: true })
      return migrations.map(migrationOf)
    })
    return yield* locked(run, `baseline ${number}`, record)
  })

/** Marks an unfinished migration: as applied, or as one that is to be applied again. */
export const resolveUnfinished = (
  database: Database.Service,
  plan: Plan,
  number: number,
  state: "applied" | "rolled back"
): Effect.Effect<Migration, DatabaseError | MigrationError> => {
  const run = makeRun(database, plan)
  const { history } = run
  const resolve = Effect.gen(function*() {
    const { unfinished } = yield* history.read
    const found = unfinished.find(({ id }) => id === number)
    if (found === undefined) {
      return yield* new MigrationError({
        kind: "invalid",
        id: number,
        message: `no migration with the number ${number} is unfinished`
      })
    }
    const known = plan.migrations.find(([id]) => id === number)
    const resolved: Resolved = known?.[1] === found.name ? known : [found.id, found.name, Effect.void]
    yield* state === "applied" ? history.record(resolved) : history.unmark(number)
    return migrationOf(resolved)
  })
  return locked(run, `resolve ${number}`, resolve)
}
