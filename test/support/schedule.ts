/**
 * Schedules: the interleaved steps of several sessions, executed in a fixed order.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Database from "../../src/Database.js"
import * as Session from "../../src/Session.js"
import { eventually } from "./eventually.js"

/** One step of a transaction: `begin`, `commit`, `rollback`, or a statement. A session ends when a statement fails. */
export type Step = readonly [transaction: string, action: string, ...more: ReadonlyArray<string | undefined>]

/** The other open transactions, seen from one of them. */
interface Others {
  readonly open: ReadonlyArray<string>
  /** Those that write, if this transaction writes too; otherwise none. */
  readonly rivals: ReadonlyArray<string>
}

/** The databases on which a schedule is played. */
export interface Stage {
  readonly database: (transaction: string) => Database.Service
  /** Runs as the first statement of each session. */
  readonly enter: (transaction: string) => Effect.Effect<unknown, SqlError>
  /** The transactions that this one waits for, as observed from outside. */
  readonly waitsFor: (transaction: string, others: Others) => Effect.Effect<ReadonlyArray<string>>
}

/** The results of a schedule. */
export interface Played<S extends Step> {
  /**
   * The result of each step: `ok`, the rows as `1=10 2=20`, `nothing` for no rows, the tag of the error, or `over` if its
   * session had already ended.
   */
  readonly results: ReadonlyMap<S, string>
  /** The steps that waited, with the transactions they waited for. */
  readonly waits: ReadonlyMap<S, string>
  /** The steps in the order in which they completed. */
  readonly order: ReadonlyArray<S>
  /** The results of the reads of each transaction. */
  readonly reads: Readonly<Record<string, ReadonlyArray<string>>>
  /** The last result of each transaction other than `over`: `ok` if it committed or rolled back as its steps say. */
  readonly ends: Readonly<Record<string, string>>
}

interface PendingStep<S> {
  readonly step: S
  readonly done: Deferred.Deferred<void>
}

/** The session of one transaction. */
interface Participant<S> {
  readonly queue: Queue.Queue<PendingStep<S>>
  /** The steps that have not completed; the first is running. */
  readonly pending: Array<PendingStep<S>>
  state: "absent" | "open" | "over"
}

const isRead = (action: string): boolean => action.startsWith("SELECT")

/** Whether all statements of a transaction are reads. */
export const onlyReads = (steps: ReadonlyArray<Step>, transaction: string): boolean =>
  steps.every(([name, action]) =>
    name !== transaction || isRead(action) || ["begin", "commit", "rollback"].includes(action)
  )

/** The transactions of a schedule, in the order of their first steps. */
export const transactions = (steps: ReadonlyArray<Step>): ReadonlyArray<string> =>
  Array.from(new Set(steps.map(([transaction]) => transaction)))

/** The steps of the same transactions, executed one transaction after the other. */
export const serially = <S extends Step>(steps: ReadonlyArray<S>, order: ReadonlyArray<string>): ReadonlyArray<S> =>
  order.flatMap((transaction) => steps.filter(([name]) => name === transaction))

/** The rows of the table `test` as text. */
export const rowsText = (rows: ReadonlyArray<any>): string =>
  rows.length === 0
    ? "nothing"
    : rows.map(({ id, value }) => `${id}=${value}`).sort().join(" ")

/**
 * Executes a schedule. Each step starts when all steps before it have completed, or have been observed to wait.
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
    const participants = new Map<string, Participant<S>>()

    const finish = (participant: Participant<S>, result: string) =>
      Effect.suspend(() => {
        const { done, step } = participant.pending.shift()!
        results.set(step, result)
        order.push(step)
        return Deferred.succeed(done, undefined)
      })

    const work = (participant: Participant<S>, transaction: string) =>
      Effect.gen(function*() {
        const { sql } = stage.database(transaction)
        yield* stage.enter(transaction)
        participant.state = "open"
        yield* finish(participant, "ok")
        for (;;) {
          const { step: [, action] } = yield* Queue.take(participant.queue)
          if (action === "commit") {
            return
          }
          if (action === "rollback") {
            return yield* Session.rollbackOnly
          }
          const rows = yield* sql.unsafe(action)
          yield* finish(participant, isRead(action) ? rowsText(rows) : "ok")
        }
      })

    const begin = (participant: Participant<S>, transaction: string) =>
      stage.database(transaction).session(work(participant, transaction), {
        name: transaction,
        ...options(transaction)
      })
        .pipe(
          Effect.match({ onFailure: ({ _tag }): string => _tag, onSuccess: () => "ok" }),
          Effect.flatMap((result) => {
            participant.state = "over"
            return finish(participant, result)
          }),
          Effect.zipRight(Effect.whileLoop({
            while: () => participant.pending.length > 0,
            body: () => finish(participant, "over"),
            step: () => {}
          }))
        )

    /** Waits until every step that has started has completed, or has been observed to wait. */
    const untilSettled = Effect.suspend(() =>
      Effect.forEach(participants, ([transaction, participant]) =>
        Effect.gen(function*() {
          const isSettled = Effect.gen(function*() {
            const pendingStep = participant.pending[0]
            if (pendingStep === undefined) {
              return true
            }
            const open = Array.from(participants).flatMap(([name, { state }]) =>
              name !== transaction && state === "open" ? [name] : []
            )
            const rivals = open.filter((name) => !onlyReads(steps, name) && !onlyReads(steps, transaction))
            const blockers = yield* stage.waitsFor(transaction, { open, rivals })
            if (blockers.length === 0 || participant.pending[0] !== pendingStep) {
              return participant.pending.length === 0
            }
            if (!waits.has(pendingStep.step)) {
              waits.set(pendingStep.step, blockers.join(" and "))
            }
            return true
          })
          const [pendingStep] = participant.pending
          // Most steps complete at once; only the others are observed from outside.
          if (pendingStep !== undefined && !waits.has(pendingStep.step)) {
            yield* Effect.timeoutOption(Deferred.await(pendingStep.done), "20 millis")
          }
          yield* eventually(isSettled)
        }), { discard: true })
    )

    for (const step of steps) {
      const [transaction, action] = step
      const pendingStep: PendingStep<S> = { step, done: yield* Deferred.make<void>() }
      let participant = participants.get(transaction)
      if (participant === undefined) {
        participant = { queue: yield* Queue.unbounded<PendingStep<S>>(), pending: [], state: "absent" }
        participants.set(transaction, participant)
      }
      participant.pending.push(pendingStep)
      if (action === "begin") {
        yield* Effect.forkScoped(begin(participant, transaction))
      } else if (participant.state === "over") {
        yield* finish(participant, "over")
      } else {
        yield* Queue.offer(participant.queue, pendingStep)
      }
      yield* untilSettled
    }

    const reads: Record<string, Array<string>> = {}
    const ends: Record<string, string> = {}
    for (const step of steps) {
      const [transaction, action] = step
      const result = results.get(step)!
      if (isRead(action) && result !== "over") {
        ;(reads[transaction] ??= []).push(result)
      }
      if (result !== "over") {
        ends[transaction] = result
      }
    }
    return { results, waits, order, reads, ends } satisfies Played<S>
  })
