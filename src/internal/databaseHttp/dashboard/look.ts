/**
 * What the dashboard asks of the database while somebody looks at it: what sessions wait for on the server, the figures that the
 * dialect has, and the migrations.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type { Service } from "../../../Database.js"
import { type DatabaseError, isConnectionError, typed } from "../../../DatabaseError.js"
import type * as Migrations from "../../../Migrations.js"
import type { OpenSession } from "../../../Telemetry.js"
import type { OpenDatabase } from "../../database/opened.js"
import type { Connection } from "../../driver.js"
import * as History from "../../migrations/history.js"
import type { BackendWait, Cell } from "../../monitoring.js"
import type { SessionActivity } from "../../telemetry/activity.js"
import { asOwnStatements } from "../../telemetry/ownStatements.js"
import type { Details, Examined, Section, Wait } from "./data.js"
import { type Examiner, make as makeExaminer } from "./examiner.js"
import { describe } from "./plan.js"

/** The time between two questions about what sessions wait for, and between two about all else. */
const waitsInterval = Duration.seconds(2)
const sectionsInterval = Duration.seconds(15)

/** The table of the migrations of an application that does not provide Migrations. */
const defaultTable = "effect_sql_migrations"

/** What the server has said of a session. */
interface Seen {
  readonly session: SessionActivity
  readonly state: OpenSession["state"]
  readonly wait: Wait
}

type Rows = Pick<Section, "rows" | "missing">

const toSection = (
  { columns, id, none, title }: Pick<Section, "id" | "title" | "columns" | "none">,
  result: Either.Either<Rows, { readonly _tag: string; readonly message: string }>
): Section => ({
  id,
  title,
  columns,
  none,
  ...Either.match(result, {
    onLeft: (error) => ({ rows: [], missing: undefined, error: describe(error) }),
    onRight: ({ missing, rows }) => ({ rows, missing, error: undefined })
  })
})

const migrationsSection: Pick<Section, "id" | "title" | "columns" | "none"> = {
  id: "migrations",
  title: "Migrations",
  columns: [["Number", "text"], ["Name", "text"], ["State", "text"], ["Applied", "text"]],
  none: "No migration is applied."
}

/** How many migrations are shown. */
const maxMigrations = 20

/** The migrations that are not applied or have a problem, and the latest that are applied. */
const statusRows = ({ ahead, applied, pending, problems }: Migrations.Status): Rows => {
  const rows: ReadonlyArray<ReadonlyArray<Cell>> = [
    ...problems.map(({ id, name, problem }) => [String(id), name, problem, null]),
    ...pending.map(({ id, name }) => [String(id), name, "pending", null]),
    ...ahead.map(({ id, name }) => [String(id), name, "applied by a newer version", null]),
    ...applied.toReversed().map(({ at, id, name }) => [String(id), name, "applied", at.toISOString()])
  ]
  return { rows: rows.slice(0, maxMigrations), missing: omitted(rows.length) }
}

const omitted = (count: number): string | undefined =>
  count > maxMigrations ? `${count - maxMigrations} more are not shown.` : undefined

/** What is applied, where it is not known what is to be applied. */
const historyRows = ({ rows, unfinished }: History.Content): Rows => ({
  rows: [
    ...unfinished.map(({ id, name }) => [String(id), name, "unfinished", null]),
    ...rows.toReversed().slice(0, maxMigrations).map((
      { at, id, name }
    ) => [String(id), name, "applied", at.toISOString()])
  ],
  missing: omitted(rows.length) ??
    (rows.length === 0 ? undefined : "What is pending is not known: the application does not provide Migrations.")
})

export class Look {
  /** By the session's id. */
  private seen: ReadonlyMap<string, Seen> = new Map()
  private requests = 0
  private readonly requested = Effect.unsafeMakeLatch()
  /** The latest figures, and how often there were some. */
  examined: Examined | undefined = undefined
  version = 0

  constructor(
    private readonly database: Service,
    private readonly open: OpenDatabase,
    private readonly migrations: Migrations.Service | undefined
  ) {}

  /** Somebody looks. */
  readonly request: Effect.Effect<void> = Effect.suspend(() => {
    this.requests++
    return Effect.asVoid(this.requested.open)
  })

  /** Asks until the scope closes, and only while there are requests. */
  get run(): Effect.Effect<void, never, Scope.Scope> {
    const whileLooked = Effect.scoped(Effect.gen(this, function*() {
      const examine = yield* makeExaminer(this.open)
      let due = 0
      let requests: number
      do {
        requests = this.requests
        yield* this.requested.close
        yield* this.readWaits(examine)
        if ((yield* Clock.currentTimeMillis) >= due) {
          yield* this.readSections(examine)
          due = (yield* Clock.currentTimeMillis) + Duration.toMillis(sectionsInterval)
        }
        yield* Effect.sleep(waitsInterval)
      } while (this.requests > requests)
    }))
    const loop = this.requested.await.pipe(
      Effect.zipRight(whileLooked),
      Effect.catchAllDefect((defect) => Effect.logWarning("the dashboard could not ask the database", defect))
    )
    return Effect.asVoid(Effect.forkScoped(Effect.forever(loop)))
  }

  /** What is known now of sessions beside their activity. */
  details(): Details {
    const committing = this.open.tracker.committing()
    return ({ id, state }) => {
      const seen = id === undefined ? undefined : this.seen.get(id)
      return {
        isCommitting: id !== undefined && committing.has(id),
        wait: seen?.state === state && seen.session.index >= 0 ? seen.wait : undefined
      }
    }
  }

  private readWaits(examine: Examiner): Effect.Effect<void> {
    const { driver: { monitoring: { waits } }, tracker } = this.open
    return Effect.suspend(() => {
      if (waits === undefined || !tracker.hasBusySessions()) {
        this.seen = new Map()
        return Effect.void
      }
      const query = (connection: Connection) =>
        Effect.suspend(() => {
          const sessions = tracker.sessionsOn(connection.server)
          const busy = new Map(
            Array.from(sessions).filter(([, { state }]) => state === "statement" || state === "ending")
          )
          const states = new Map(Array.from(busy, ([id, { state }]) => [id, state]))
          return busy.size === 0 ? Effect.succeed(new Map<string, Seen>()) : Effect.map(
            waits(connection, Array.from(busy.keys())),
            (found) =>
              new Map(found.flatMap((backend) => {
                const session = busy.get(backend.connection)
                const state = states.get(backend.connection)
                return session?.id === undefined || state === undefined
                  ? []
                  : [[session.id, { session, state, wait: waitOf(backend, sessions) }] as const]
              }))
          )
        })
      return Effect.map(
        Effect.orElseSucceed(examine(query), () => new Map<string, Seen>()),
        (seen) => {
          this.seen = seen
        }
      )
    })
  }

  private readSections(examine: Examiner): Effect.Effect<void> {
    const { driver: { monitoring: { sections } }, tracker } = this.open
    return Effect.gen(this, function*() {
      /** Why no connection could be used. Nothing more is asked then. */
      let lost: DatabaseError | undefined = undefined
      const ask = (query: (connection: Connection) => Effect.Effect<Rows, DatabaseError>) =>
        lost !== undefined ?
          Effect.succeed(Either.left(lost)) :
          Effect.tap(Effect.either(examine(query)), (result) =>
            Effect.sync(() => {
              if (Either.isLeft(result) && isConnectionError(result.left)) {
                lost = result.left
              }
            }))
      const own = yield* Effect.forEach(sections, (section) => {
        const query = (connection: Connection) =>
          Effect.map(section.read(connection), ({ missing, rows }): Rows => {
            const sessions = tracker.sessionsOn(connection.server)
            const cellOf = (cell: Cell, column: number): Cell =>
              section.columns[column]?.[1] === "connection" && typeof cell === "number"
                ? nameOf(cell, sessions.get(cell))
                : cell
            return { rows: rows.map((row) => row.map(cellOf)), missing }
          })
        return Effect.map(ask(query), (result) => toSection(section, result))
      })
      const migrations = yield* ask((connection) =>
        this.open.runOn(connection, this.readMigrations) as Effect.Effect<Rows, DatabaseError>
      )
      this.examined = {
        time: yield* Clock.currentTimeMillis,
        sections: [...own, toSection(migrationsSection, migrations)]
      }
      this.version++
    })
  }

  private get readMigrations(): Effect.Effect<Rows, DatabaseError | Migrations.MigrationError> {
    const { driver } = this.open
    return this.migrations !== undefined
      ? Effect.map(this.migrations.status, statusRows)
      : Effect.map(
        typed(asOwnStatements(History.make(this.database, driver.migrations, defaultTable).read)),
        historyRows
      )
  }
}

const nameOf = (connection: number, session: SessionActivity | undefined): string =>
  session === undefined ? String(connection) : `${connection} (${session.name}, ${session.id ?? ""})`

const waitOf = ({ event, lock }: BackendWait, sessions: ReadonlyMap<number, SessionActivity>): Wait => ({
  event,
  lock: lock === undefined ? undefined : {
    ...lock,
    holders: lock.holders.map((holder) => {
      const session = holder.connection === undefined ? undefined : sessions.get(holder.connection)
      return { ...holder, session: session?.name, sessionId: session?.id }
    })
  }
})
