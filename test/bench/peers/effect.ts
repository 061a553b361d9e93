/**
 * What the peers built on @effect/sql share: one runtime, as in an application, and a fiber for each worker.
 */
import * as SqlClient from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Stream from "effect/Stream"
import { linesIn, type Options, type Peer, peerOf, type Worker, worker, workersOf } from "../peer.js"
import { accountColumns, copyParts, key, rows, wideQuery } from "../workloads.js"

type Session = <A>(effect: Effect.Effect<A, unknown>) => Effect.Effect<A, unknown>

export interface Client<R> {
  readonly layer: Layer.Layer<R | SqlClient.SqlClient, unknown>
  readonly session: (context: Context.Context<R | SqlClient.SqlClient>) => Session
  readonly prepare?: Effect.Effect<unknown, unknown, SqlClient.SqlClient>
  /** How to copy, where there is more than statements. */
  readonly copy?: (context: Context.Context<R | SqlClient.SqlClient>) => Copy
  /** Whether a session has failed since no connection came free in time. */
  readonly isRefusal?: (error: unknown) => boolean
}

export interface Copy {
  readonly copyIn: Effect.Effect<unknown, unknown>
  readonly copyOut: Stream.Stream<Uint8Array, unknown>
}

export const withTransaction = (context: Context.Context<SqlClient.SqlClient>): Session =>
  Context.get(context, SqlClient.SqlClient).withTransaction

export const open = async <R>(client: Client<R>, { columns, pool, statements }: Options): Promise<Peer> => {
  const runtime = ManagedRuntime.make(client.layer)
  const context = await runtime.runPromise(Effect.context<R | SqlClient.SqlClient>())
  await runtime.runPromise(client.prepare ?? Effect.void)
  const sql = Context.get(context, SqlClient.SqlClient)
  const session = client.session(context)

  const fork = <A>(effect: Effect.Effect<A, unknown>): Promise<A> =>
    Effect.runPromise(Fiber.join(runtime.runFork(effect)))

  /** One fiber for all operations of a worker. */
  const fiberWorker = (operation: (number: number) => Effect.Effect<number, unknown>): Worker => (clock) =>
    fork(Effect.whileLoop({ while: clock.start, body: () => operation(clock.number()), step: clock.end }))

  const count: <E>(rows: Effect.Effect<ReadonlyArray<unknown>, E>) => Effect.Effect<number, E> = Effect.map(
    (rows) => rows.length
  )

  const selects = Array.from(
    { length: statements },
    (_, i) => `SELECT ${accountColumns} FROM account WHERE id = $1 -- ${i}`
  )
  let index = 0
  const nextSelect = () => sql.unsafe(selects[index = (index + 1) % statements], [key()])
  const selectOne = () => sql`SELECT id, owner, currency, balance, opened FROM account WHERE id = ${key()}`
  const select = () => count(statements === 1 ? selectOne() : nextSelect())
  const isSqlite = sql.onDialectOrElse({ sqlite: () => true, orElse: () => false })
  const lock = sql.onDialectOrElse({
    sqlite: () => (id: number) => sql`SELECT balance FROM account WHERE id = ${id}`,
    orElse: () => (id: number) => sql`SELECT balance FROM account WHERE id = ${id} FOR UPDATE`
  })

  const copy = client.copy?.(context)
  const insertParts = session(
    Effect.forEach(copyParts, (part) => sql`INSERT INTO journal ${sql.insert(part)}`, { discard: true })
  )
  const { copyIn = insertParts, copyOut } = copy ?? {}
  const wide = wideQuery(columns)
  const { isRefusal } = client

  const operations = {
    ...(copyOut === undefined ? {} : {
      copyOut: () => Stream.runFold(copyOut, 0, (count, chunk) => count + linesIn(chunk))
    }),
    // Stock @effect/sql-sqlite-node neither streams nor binds as many values as the parts have.
    ...(isSqlite && copy === undefined ? {} : {
      copyIn: () => Effect.as(copyIn, 0),
      stream: () =>
        Stream.runFold(
          Stream.chunks(sql`SELECT id, account, amount, note, created FROM item`.stream),
          0,
          (count, chunk) => count + chunk.length
        )
    }),
    ...(isSqlite ? {} : { empty: () => Effect.as(session(Effect.void), 0) }),
    select,
    session: () => {
      const id = key()
      return count(session(Effect.zipLeft(lock(id), sql`UPDATE account SET balance = balance + 1 WHERE id = ${id}`)))
    },
    read: (rows: number) => count(sql`SELECT id, account, amount, note, created FROM item WHERE id <= ${rows}`),
    wide: () => count(sql.unsafe(wide)),
    insert: () => Effect.as(session(sql`INSERT INTO journal ${sql.insert(rows)}`), 0)
  }
  // As a web framework runs them: a fiber for each.
  const promise = worker(() => runtime.runPromise(select()))

  return peerOf({ ...workersOf(operations, fiberWorker), promise }, {
    ...(isRefusal === undefined ? {} : {
      hold: (millis) =>
        runtime.runPromise(
          session(sql`SELECT pg_sleep(${millis / 1_000})`).pipe(
            Effect.as(true),
            Effect.catchIf(isRefusal, () => Effect.succeed(false))
          )
        )
    }),
    wait: async (sessions) => {
      let release = () => {}
      const released = new Promise<void>((resolve) => {
        release = resolve
      })
      const holders = Array.from(
        { length: pool },
        () => fork(session(Effect.zipRight(select(), Effect.promise(() => released))))
      )
      await runtime.runPromise(Effect.sleep("500 millis"))
      const waiting = Array.from({ length: sessions }, () => runtime.runFork(session(select())))
      return () => {
        release()
        return Promise.all([...holders, ...waiting.map((fiber) => Effect.runPromise(Fiber.join(fiber)))])
      }
    }
  })
}
