/**
 * Running migrations.
 *
 * The loop is not @effect/sql's Migrator.make: that applies everything in one transaction, so that a session of its own
 * for each is not to be had, skips for ever what was merged with a number below the latest, does not notice edits, and
 * turns what a migration fails with into a defect. Its loaders and its table are used.
 *
 * Each migration is one session, and in that session's transaction is the lock: there is no other connection that must
 * live as long, nothing is left of a runner that was killed, and a pooler between us and the server does no harm.
 * Runners that start together take turns, and whoever has the turn looks again at what is still to be done.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Array from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Order from "effect/Order"
import * as Predicate from "effect/Predicate"
import * as Database from "../../Database.js"
import { type DatabaseError, isDatabaseError, typed } from "../../DatabaseError.js"
import type { Session } from "../../Session.js"
import { exclusively } from "./lock.js"
import * as History from "./history.js"
import {
  type Applied,
  label,
  type Loader,
  type Migration,
  MigrationError,
  type Problem,
  type Progress,
  type Resolved,
  type Status
} from "./model.js"

/** Validated options, with the migrations found and in order. */
export interface Plan {
  readonly migrations: ReadonlyArray<Resolved>
  readonly table: string
  readonly lockTimeout: Duration.Duration
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

/** What a migration's effect may use, all of the one database. */
type Services = Database.Database | SqlClient.SqlClient | Session

const migrationOf = ([id, name]: Resolved): Migration => ({ id, name })

const invalid = (message: string) => new MigrationError({ kind: "invalid", message })

/** Finds the migrations, and refuses those that nothing could be done with. */
export const resolve = <R>(
  loader: Loader<R>
): Effect.Effect<ReadonlyArray<Resolved>, MigrationError, R> =>
  Effect.gen(function*() {
    const found = yield* Effect.mapError(loader, (error) =>
      error instanceof MigrationError
        ? error
        : new MigrationError({ kind: "load", message: error.message, cause: error }))
    const sorted = Array.sortWith(found, ([id]) => id, Order.number)
    for (const [i, resolved] of sorted.entries()) {
      const [id] = resolved
      const migration = label(migrationOf(resolved))
      if (!Number.isSafeInteger(id) || id < 1) {
        return yield* invalid(
          `migration ${migration}: its number must be a whole one from 1 to ${Number.MAX_SAFE_INTEGER}`
        )
      }
      if (i > 0 && sorted[i - 1][0] === id) {
        return yield* new MigrationError({
          kind: "duplicate",
          id,
          message: `two migrations have the number ${id}: ${label(migrationOf(sorted[i - 1]))} and ${migration}`
        })
      }
    }
    return sorted
  })

const kindOf = (checksum: string): string => checksum.slice(0, checksum.indexOf(":"))

/** Whether both are known, and comparable, and differ. */
const differ = (one: string | undefined, other: string | undefined): boolean =>
  one !== undefined && other !== undefined && kindOf(one) === kindOf(other) && one !== other

/** A status, and the applied migrations whose checksums are not kept yet. */
interface Comparison {
  readonly status: Status
  readonly unsigned: ReadonlyArray<Resolved>
}

const compare = (migrations: ReadonlyArray<Resolved>, rows: ReadonlyArray<History.Row>): Comparison => {
  const known = new Map(migrations.map((migration) => [migration[0], migration]))
  const latest = migrations.at(-1)?.[0] ?? 0
  const there = new Set(rows.map(({ id }) => id))
  const problems: Array<Problem> = []
  const ahead: Array<Migration> = []
  const unsigned: Array<Resolved> = []
  for (const { checksum, id, name } of rows) {
    const migration = known.get(id)
    const problem = (problem: Problem["problem"], message: string) =>
      problems.push({ id, name, problem, message: `migration ${label({ id, name })} ${message}` })
    if (migration === undefined) {
      if (id > latest) {
        ahead.push({ id, name })
      } else {
        problem("missing", "is applied, and no longer there")
      }
    } else if (migration[1] !== name) {
      problem("edited", `is applied, and now called ${label(migrationOf(migration))}`)
    } else if (differ(checksum, migration.checksum)) {
      problem("edited", "was edited after it was applied")
    } else if (checksum === undefined && migration.checksum !== undefined) {
      unsigned.push(migration)
    }
  }
  return {
    status: {
      applied: rows.map(({ at, id, name }): Applied => ({ id, name, at })),
      pending: migrations.filter(([id]) => !there.has(id)).map(migrationOf),
      problems,
      ahead
    },
    unsigned
  }
}

/** Where the database stands. Writes nothing. */
export const status = (database: Database.Service, plan: Plan): Effect.Effect<Status, DatabaseError> =>
  Effect.map(
    typed(History.make(database, plan.table).read),
    (rows) => compare(plan.migrations, rows).status
  )

/** Fails where an applied migration is not what it was. */
const unchanged = (comparison: Comparison): Effect.Effect<Comparison, MigrationError> => {
  const { problems } = comparison.status
  return problems.length === 0 ? Effect.succeed(comparison) : Effect.fail(
    new MigrationError({
      kind: problems[0].problem,
      id: problems[0].id,
      migration: label(problems[0]),
      message: problems.map(({ message }) => message).join("; ")
    })
  )
}

const describe = (cause: unknown): string =>
  isDatabaseError(cause)
    ? `${cause._tag}: ${cause.message}`
    : cause instanceof Error
    ? cause.message
    : Predicate.hasProperty(cause, "_tag")
    ? String(cause._tag)
    : String(cause)

const failed = (migration: Migration) => (cause: unknown): MigrationError =>
  new MigrationError({
    kind: "failed",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} failed: ${describe(cause)}`,
    cause
  })

const hasUnknownOutcome = (error: DatabaseError | MigrationError): error is MigrationError =>
  error._tag === "MigrationError" && isDatabaseError(error.cause) && error.cause._tag === "CommitOutcomeUnknown"

const notLoaded = (migration: Migration, what: string, cause?: unknown): MigrationError =>
  new MigrationError({
    kind: "load",
    id: migration.id,
    migration: label(migration),
    message: `migration ${label(migration)} ${what}`,
    ...(cause === undefined ? {} : { cause })
  })

/** The default export, or the default export of a module that was wrapped once more on its way from CommonJS. */
const effectIn = (loaded: unknown): unknown => {
  const inner = Predicate.hasProperty(loaded, "default") ? loaded.default : undefined
  return Effect.isEffect(loaded)
    ? loaded
    : Predicate.hasProperty(inner, "default") && !Effect.isEffect(inner)
    ? inner.default
    : inner
}

/** Gets hold of the migration's effect, without running it. */
const loaded = (
  resolved: Resolved
): Effect.Effect<Effect.Effect<unknown, unknown, Services>, MigrationError, SqlClient.SqlClient> => {
  const migration = migrationOf(resolved)
  return Effect.catchAllCause(resolved[2] as Effect.Effect<unknown, unknown, SqlClient.SqlClient>, (cause) => {
    const error = Cause.squash(cause)
    return Cause.isInterruptedOnly(cause)
      ? Effect.failCause(cause as Cause.Cause<never>)
      : Effect.fail(
        error instanceof MigrationError
          ? error
          : notLoaded(migration, `cannot be loaded: ${describe(error)}`, error)
      )
  }).pipe(
    Effect.map(effectIn),
    Effect.filterOrFail(
      (effect): effect is Effect.Effect<unknown, unknown, Services> => Effect.isEffect(effect),
      () => notLoaded(migration, "has no Effect as its default export")
    )
  )
}

/** Runs the plan, and gives what it applied. */
export const run = (
  database: Database.Service,
  plan: Plan
): Effect.Effect<ReadonlyArray<Migration>, DatabaseError | MigrationError> =>
  Effect.gen(function*() {
    const { migrations, progress, table } = plan
    const history = History.make(database, table)
    const services = Context.add(database.context, Database.Database, database)
    const turn = exclusively(database, history, plan)
    const look = Effect.flatMap(history.read, (rows) => unchanged(compare(migrations, rows)))

    const before = yield* typed(look)
    const { ahead } = before.status
    if (ahead.length > 0) {
      yield* progress({ _tag: "Ahead", migrations: ahead })
    }
    // What cannot be loaded is found before anything is applied.
    const pending = new Set(before.status.pending.map(({ id }) => id))
    const effects = yield* Effect.forEach(
      migrations.filter(([id]) => pending.has(id)),
      (migration) => Effect.map(loaded(migration), (effect) => [migration, effect] as const)
    ).pipe(Effect.provide(services))

    if (effects.length > 0 || before.unsigned.length > 0) {
      const prepare = Effect.gen(function*() {
        yield* history.prepare
        const { unsigned } = yield* look
        yield* Effect.forEach(unsigned, history.sign, { discard: true })
      })
      yield* turn("prepare migrations", prepare, (error) => error)
    }

    const clock = yield* Effect.clock
    const applied: Array<Migration> = []
    for (const [i, [resolved, effect]] of effects.entries()) {
      const migration = migrationOf(resolved)
      let started = 0
      let isUncertain = false
      const duration = () => Duration.millis(clock.unsafeCurrentTimeMillis() - started)
      const apply = Effect.gen(function*() {
        const { status } = yield* look
        if (!status.pending.some(({ id }) => id === migration.id)) {
          return isUncertain
        }
        started = clock.unsafeCurrentTimeMillis()
        yield* progress({ _tag: "Started", migration, position: i + 1, total: effects.length })
        yield* history.record(resolved)
        yield* effect
        return true
      })
      const once = turn(`migrate ${label(migration)}`, Effect.provide(apply, services), failed(migration))
      const done = yield* once.pipe(
        // Whoever has the turn again knows: by then that transaction is over, and the history tells what became of it.
        Effect.catchIf(hasUnknownOutcome, (error) => {
          isUncertain = true
          return Effect.catchIf(once, isDatabaseError, () => Effect.fail(error))
        }),
        Effect.tapErrorTag(
          "MigrationError",
          (error) =>
            error.kind === "failed" ? progress({ _tag: "Failed", migration, duration: duration(), error }) : Effect.void
        )
      )
      if (done) {
        applied.push(migration)
        yield* progress({ _tag: "Applied", migration, duration: duration() })
      }
    }
    return applied
  })
