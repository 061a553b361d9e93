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
import { linesIn, type Options, type Peer, peer, type Worker } from "../peer.js"
import { copyParts, key, readable, rows } from "../workloads.js"

type Session = <A>(effect: Effect.Effect<A, unknown>) => Effect.Effect<A, unknown>

export interface Client<R> {
  readonly layer: Layer.Layer<R | SqlClient.SqlClient, unknown>
  readonly session: (context: Context.Context<R | SqlClient.SqlClient>) => Session
  readonly prepare?: Effect.Effect<unknown, unknown, SqlClient.SqlClient>
  /** How to copy, where there is more than statements. */
  readonly copy?: (context: Context.Context<R | SqlClient.SqlClient>) => Copy
}

export interface Copy {
  readonly copyIn: Effect.Effect<unknown, unknown>
  readonly copyOut: Stream.Stream<Uint8Array, unknown>
}

export const withTransaction = (context: Context.Context<SqlClient.SqlClient>): Session =>
  Context.get(context, SqlClient.SqlClient).withTransaction

export const open = async <R>(client: Client<R>, { pool, statements }: Options): Promise<Peer> => {
  const runtime = ManagedRuntime.make(client.layer)
  const context = await runtime.runPromise(Effect.context<R | SqlClient.SqlClient>())
  await runtime.runPromise(client.prepare ?? Effect.void)
  const sql = Context.get(context, SqlClient.SqlClient)
  const session = client.session(context)

  const fork = <A>(effect: Effect.Effect<A, unknown>): Promise<A> =>
    Effect.runPromise(Fiber.join(runtime.runFork(effect)))

  const worker = <A>(operation: () => Effect.Effect<A, unknown>, rowsOf: (result: A) => number): Worker => (clock) =>
    fork(Effect.whileLoop({ while: clock.start, body: operation, step: (result) => clock.end(rowsOf(result)) }))

  const length = (rows: ReadonlyArray<unknown>) => rows.length
  const none = () => 0

  const selects = Array.from({ length: statements }, (_, i) => `SELECT id, balance FROM account WHERE id = $1 -- ${i}`)
  let index = 0
  const nextSelect = () => sql.unsafe(selects[index = (index + 1) % statements], [key()])
  const select = () => sql`SELECT id, balance FROM account WHERE id = ${key()}`
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

  return peer({
    ...(copyOut === undefined ? {} : {
      copyOut: worker(
        () => Stream.runFold(copyOut, 0, (count, chunk) => count + linesIn(chunk)),
        (count) => count
      )
    }),
    ...(isSqlite && copy === undefined ? {} : { copyIn: worker(() => copyIn, none) }),
    select: worker(statements === 1 ? select : nextSelect, length),
    session: worker(() => {
      const id = key()
      return session(Effect.zipLeft(lock(id), sql`UPDATE account SET balance = balance + 1 WHERE id = ${id}`))
    }, length),
    empty: worker(() => session(Effect.void), none),
    read: worker(() => sql`SELECT id, amount, note FROM item WHERE id <= ${readable}`, length),
    stream: worker(() =>
      Stream.runFold(
        Stream.chunks(sql`SELECT id, amount, note FROM item`.stream),
        0,
        (count, chunk) => count + chunk.length
      ), (count) => count),
    insert: worker(() => session(sql`INSERT INTO journal ${sql.insert(rows)}`), none)
  }, {
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
