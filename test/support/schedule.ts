/**
 * Schedules: what several sessions do, step by step, so that each statement meets the others' at a known moment.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Database from "../../src/Database.js"
import * as Session from "../../src/Session.js"
import { eventually } from "./eventually.js"

/** Which transaction does what: `begin`, `commit`, `rollback`, or a statement. Its session ends when it fails. */
export type Step = readonly [transaction: string, what: string, ...more: ReadonlyArray<string | undefined>]

/** The transactions that are open beside one. */
interface Others {
  readonly open: ReadonlyArray<string>
  /** Those of them that write, if this one does too. */
  readonly rivals: ReadonlyArray<string>
}

/** Where a schedule is played. */
export interface Stage {
  readonly database: (transaction: string) => Database.Service
  /** Runs first in each session. */
  readonly enter: (transaction: string) => Effect.Effect<unknown, SqlError>
  /** The transactions that this one is seen to wait for. */
  readonly waitsFor: (transaction: string, others: Others) => Effect.Effect<ReadonlyArray<string>>
}

/** What came of a schedule. */
export interface Played<S extends Step> {
  /** Of each step: `ok`, the rows as `1=10 2=20`, `nothing`, the tag of the error, or `over` after the session's end. */
  readonly results: ReadonlyMap<S, string>
  /** The steps that had to wait, and for whom. */
  readonly waits: ReadonlyMap<S, string>
  /** The steps in the order in which they were done. */
  readonly order: ReadonlyArray<S>
  /** What each transaction read. */
  readonly reads: Readonly<Record<string, ReadonlyArray<string>>>
  /** The result of the last step of each transaction that was not over: `ok` for one that ended as it wanted. */
  readonly ends: Readonly<Record<string, string>>
}

interface Job<S> {
  readonly step: S
  readonly done: Deferred.Deferred<void>
}

interface Actor<S> {
  readonly jobs: Queue.Queue<Job<S>>
  /** Not done yet, the one at work first. */
  readonly left: Array<Job<S>>
  state: "absent" | "open" | "over"
}

const isRead = (what: string): boolean => what.startsWith("SELECT")

/** Whether a transaction of the schedule only reads. */
export const onlyReads = (steps: ReadonlyArray<Step>, transaction: string): boolean =>
  steps.every(([name, what]) => name !== transaction || isRead(what) || ["begin", "commit", "rollback"].includes(what))

/** The transactions of a schedule, in the order of their first steps. */
export const transactions = (steps: ReadonlyArray<Step>): ReadonlyArray<string> =>
  Array.from(new Set(steps.map(([transaction]) => transaction)))

/** The same transactions one after the other. */
export const serially = <S extends Step>(steps: ReadonlyArray<S>, order: ReadonlyArray<string>): ReadonlyArray<S> =>
  order.flatMap((transaction) => steps.filter(([name]) => name === transaction))

/** The rows of `test` as a text. */
export const rowsText = (rows: ReadonlyArray<any>): string =>
  rows.length === 0
    ? "nothing"
    : rows.map(({ id, value }) => `${id}=${value}`).sort().join(" ")

/**
 * Plays a schedule. Each step is given to its session as soon as the steps before it are done, or are seen to wait.
 */
export const play = <S extends Step>(
  stage: Stage,
  steps: ReadonlyArray<S>,
  options: (transaction: string) => Session.Options
) =>
  Effect.gen(function*() {
    const results = new Map<S, string>()
    const waits = new Map<S, string>()
    const order: Array<S> = []
    const actors = new Map<string, Actor<S>>()

    const finish = (actor: Actor<S>, result: string) =>
      Effect.suspend(() => {
        const { done, step } = actor.left.shift()!
        results.set(step, result)
        order.push(step)
        return Deferred.succeed(done, undefined)
      })

    const work = (actor: Actor<S>, transaction: string) =>
      Effect.gen(function*() {
        const { sql } = stage.database(transaction)
        yield* stage.enter(transaction)
        actor.state = "open"
        yield* finish(actor, "ok")
        for (;;) {
          const { step: [, what] } = yield* Queue.take(actor.jobs)
          if (what === "commit") {
            return
          }
          if (what === "rollback") {
            return yield* Session.rollbackOnly
          }
          const rows = yield* sql.unsafe(what)
          yield* finish(actor, isRead(what) ? rowsText(rows) : "ok")
        }
      })

    const begin = (actor: Actor<S>, transaction: string) =>
      stage.database(transaction).session(work(actor, transaction), { name: transaction, ...options(transaction) })
        .pipe(
          Effect.match({ onFailure: ({ _tag }): string => _tag, onSuccess: () => "ok" }),
          Effect.flatMap((result) => {
            actor.state = "over"
            return finish(actor, result)
          }),
          Effect.zipRight(Effect.whileLoop({
            while: () => actor.left.length > 0,
            body: () => finish(actor, "over"),
            step: () => {}
          }))
        )

    /** Until each transaction has done what it was given, or is seen to wait. */
    const settle = Effect.suspend(() =>
      Effect.forEach(actors, ([transaction, actor]) =>
        Effect.gen(function*() {
          const seen = Effect.gen(function*() {
            const job = actor.left[0]
            if (job === undefined) {
              return true
            }
            const open = Array.from(actors).flatMap(([name, { state }]) =>
              name !== transaction && state === "open" ? [name] : []
            )
            const rivals = open.filter((name) => !onlyReads(steps, name) && !onlyReads(steps, transaction))
            const by = yield* stage.waitsFor(transaction, { open, rivals })
            if (by.length === 0 || actor.left[0] !== job) {
              return actor.left.length === 0
            }
            if (!waits.has(job.step)) {
              waits.set(job.step, by.join(" and "))
            }
            return true
          })
          const [job] = actor.left
          // Most steps take a moment: only one that does not is worth a look from outside.
          if (job !== undefined && !waits.has(job.step)) {
            yield* Effect.timeoutOption(Deferred.await(job.done), "20 millis")
          }
          yield* eventually(seen)
        }), { discard: true })
    )

    for (const step of steps) {
      const [transaction, what] = step
      const job: Job<S> = { step, done: yield* Deferred.make<void>() }
      let actor = actors.get(transaction)
      if (actor === undefined) {
        actor = { jobs: yield* Queue.unbounded<Job<S>>(), left: [], state: "absent" }
        actors.set(transaction, actor)
      }
      actor.left.push(job)
      if (what === "begin") {
        yield* Effect.forkScoped(begin(actor, transaction))
      } else if (actor.state === "over") {
        yield* finish(actor, "over")
      } else {
        yield* Queue.offer(actor.jobs, job)
      }
      yield* settle
    }

    const reads: Record<string, Array<string>> = {}
    const ends: Record<string, string> = {}
    for (const step of steps) {
      const [transaction, what] = step
      const result = results.get(step)!
      if (isRead(what) && result !== "over") {
        ;(reads[transaction] ??= []).push(result)
      }
      if (result !== "over") {
        ends[transaction] = result
      }
    }
    return { results, waits, order, reads, ends } satisfies Played<S>
  })
