/**
 * What a unit of work costs where 64 fibers share ten connections of PostgreSQL, or the one of SQLite's worker: fibers,
 * suspensions and tasks of the scheduler, and on PostgreSQL writes to sockets. Unlike its time, that is nearly the same
 * whenever it is measured.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import { Socket } from "node:net"
import * as Database from "../../src/Database.js"
import { file } from "../internal/sqlite/support.js"
import { FiberCounter } from "../support/fiberCounter.js"
import { freshDatabase } from "../support/postgres.js"
import { crowded, fibers } from "./crowd.js"

interface Counts {
  /** Fibers that were started. */
  readonly fibers: number
  /** How often a fiber stopped to wait. */
  readonly suspensions: number
  /** Tasks that were handed to the scheduler. */
  readonly tasks: number
  /** Writes to sockets that lead to the port. */
  readonly writes: number
}

/** Counts the calls of what a Writable calls to write one or several chunks, on sockets that lead to this port. */
const countWrites = (port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const { _write, _writev } = Socket.prototype
      const counter = { writes: 0, restore: () => void Object.assign(Socket.prototype, { _write, _writev }) }
      const counting = <Args extends Array<any>>(write: (...args: Args) => void) =>
        function(this: Socket, ...args: Args): void {
          counter.writes += this.remotePort === port ? 1 : 0
          write.apply(this, args)
        }
      Object.assign(Socket.prototype, { _write: counting(_write), _writev: counting(_writev!) })
      return counter
    }),
    ({ restore }) => Effect.sync(restore)
  )

const times = 20

/** The counts of one unit of work of the crowd. */
const countsOf = (
  unit: (database: Database.Service) => Effect.Effect<unknown, unknown>,
  url: string,
  poolSize: number
) =>
  Effect.gen(function*() {
    const counter = new FiberCounter()
    let tasks = 0
    const scheduler: Scheduler.Scheduler = {
      shouldYield: (fiber) => Scheduler.defaultScheduler.shouldYield(fiber),
      scheduleTask: (task, priority, fiber) => {
        tasks++
        Scheduler.defaultScheduler.scheduleTask(task, priority, fiber)
      }
    }
    const writes = yield* countWrites(Number(new URL(url).port))
    return yield* Effect.gen(function*() {
      const database = yield* Database.make({ url, poolSize, poolMaxOverflow: 0 })
      const { sql } = database
      yield* sql`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)`
      yield* sql`INSERT INTO account SELECT column1, 0 FROM (VALUES (1), (2), (3)) AS number`
      // Opens the connections, and prepares the statements.
      yield* crowded(unit(database), 5)
      const counts = (): Counts => ({
        fibers: counter.fibers,
        suspensions: counter.suspensions,
        tasks,
        writes: writes.writes
      })
      const initial = counts()
      yield* crowded(Effect.void, times)
      const before = counts()
      yield* crowded(unit(database), times)
      const after = counts()
      // Less what the crowd itself takes.
      const perUnit = (count: keyof Counts) =>
        (after[count] - before[count] - (before[count] - initial[count])) / (fibers * times)
      return {
        fibers: perUnit("fibers"),
        suspensions: perUnit("suspensions"),
        tasks: perUnit("tasks"),
        writes: perUnit("writes")
      }
    }).pipe(Effect.supervised(counter), Effect.withScheduler(scheduler))
  })

const select = ({ sql }: Database.Service): Effect.Effect<unknown, unknown> =>
  Effect.suspend(() => sql`SELECT balance FROM account WHERE id = ${1}`)

const session = (database: Database.Service): Effect.Effect<unknown, unknown> =>
  database.session(Effect.zipRight(
    select(database),
    Effect.suspend(() => database.sql`SELECT balance + 1 FROM account WHERE id = ${2}`)
  ))

const withinBounds = (
  name: string,
  url: Effect.Effect<string, never, Scope.Scope>,
  bounds: { readonly statement: Counts; readonly session: Counts }
) => {
  for (const [title, unit] of [["statement", select], ["session", session]] as const) {
    it.live(
      `${name}: a ${title}`,
      () =>
        Effect.scoped(Effect.gen(function*() {
          const counts = yield* countsOf(unit, yield* url, 10)
          for (const count of ["fibers", "suspensions", "tasks", "writes"] as const) {
            assert.isAtMost(counts[count], bounds[title][count], count)
          }
        })),
      240_000
    )
  }
}

// What was measured, and a tenth for what runs beside: connections that are opened late, checks of idle ones.
describe("a crowd", () => {
  withinBounds("PostgreSQL", freshDatabase, {
    statement: { fibers: 0.1, suspensions: 1.1, tasks: 1.1, writes: 1.1 },
    session: { fibers: 0.1, suspensions: 4.1, tasks: 4.1, writes: 3.1 }
  })
  withinBounds("SQLite's worker", Effect.map(file, (name) => `sqlite:///${name}`), {
    statement: { fibers: 0.1, suspensions: 1.1, tasks: 1.1, writes: 0 },
    session: { fibers: 0.1, suspensions: 4.1, tasks: 4.1, writes: 0 }
  })
})
