/**
 * The bank on PostgreSQL: workers move money while the rig breaks what it can, and afterwards all must be as it was told.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import { type Books, type Entry, judge, tally } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { query } from "./client.js"
import type { ClusterOptions } from "./cluster.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import { newSeed, random } from "./random.js"
import * as Rig from "./rig.js"
import type { Server } from "./server.js"

/** What the bank's server is like: it gives up soon. */
export const serverOptions: ClusterOptions = {
  maxConnections: 60,
  config: { deadlock_timeout: "100ms", idle_in_transaction_session_timeout: "4s" }
}

/** What a run was like. */
export interface Outcome {
  readonly seed: number
  /** Everything that should not be. */
  readonly problems: ReadonlyArray<string>
  /** How often the workers were told what. */
  readonly told: Readonly<Record<string, number>>
  readonly struck: Readonly<Record<string, number>>
  /** After how many milliseconds the health was true again, each time that the server came back. */
  readonly recoveries: ReadonlyArray<number>
  /** What took longest, in milliseconds: see `Workers`; and an answer of the health check. */
  readonly longest: { readonly interruption: number; readonly excess: number; readonly health: number }
}

const weights: Rig.Weights = {
  cut: 6,
  reset: 6,
  silence: 3,
  cutAll: 1,
  resetAll: 1,
  silenceAll: 1,
  cutRequest: 6,
  resetRequest: 6,
  silenceRequest: 3,
  cutAnswer: 6,
  resetAnswer: 6,
  silenceAnswer: 3,
  loseCommit: 20,
  loseCommitted: 20,
  refuse: 2,
  delay: 2,
  throttle: 2,
  pause: 2,
  smart: 1,
  fast: 1,
  immediate: 1,
  kill: 3
}

const backendWeights: Rig.Weights = { terminate: 2, cancel: 1 }

/** Whether a plain client can connect. */
const available = (url: string) =>
  query(url, "SELECT 1").pipe(
    Effect.timeout("1 second"),
    Effect.matchCause({ onFailure: () => false, onSuccess: () => true })
  )

/** Fails, in place of waiting for ever. */
const within = <A, E, R>(effect: Effect.Effect<A, E, R>, what: string, problems: Array<string>) =>
  Effect.timeoutTo(Effect.exit(Effect.disconnect(effect)), {
    duration: "30 seconds",
    onSuccess: (exit) => {
      if (Exit.isFailure(exit)) {
        problems.push(`${what}: ${Cause.pretty(exit.cause)}`)
      }
    },
    onTimeout: () => {
      problems.push(`${what}: not within 30 seconds`)
    }
  })

const books = (url: string): Effect.Effect<Books> =>
  Effect.all({
    accounts: query(url, "SELECT id, balance FROM accounts ORDER BY id"),
    ledger: query(url, "SELECT id, attempt, part, source, target, amount FROM ledger")
  })

/** Works for so long, while everything goes wrong. */
export const run = (
  server: Server,
  options: {
    readonly millis: number
    readonly seed?: number
    /** How long a fault lasts at most, in milliseconds. */
    readonly longest?: number
    readonly onStrike?: (fault: Rig.Fault) => void
  }
): Effect.Effect<Outcome> =>
  Effect.gen(function*() {
    const seed = options.seed ?? newSeed()
    const chance = random(seed)
    const problems: Array<string> = []
    const journal: Array<Entry> = []
    const recoveries: Array<number> = []
    const struck: Record<string, number> = {}
    const onStrike = (fault: Rig.Fault) => {
      struck[fault.name] = (struck[fault.name] ?? 0) + 1
      options.onStrike?.(fault)
    }
    const rootsBefore = new Set(yield* Fiber.roots)
    const scope = yield* Scope.make()
    let db: Database.Service | undefined = undefined

    const whenBack = Effect.gen(function*() {
      yield* eventually(available(server.url))
      if (db !== undefined) {
        const since = performance.now()
        yield* eventually(db.health)
        recoveries.push(Math.round(performance.now() - since))
      }
    })
    const shape = chance.branch("pool")
    const rig = yield* Scope.extend(Rig.make(server, whenBack), scope)
    db = yield* Database.make({
      environment: "production",
      url: rig.url,
      applicationName: "bank",
      poolSize: shape.pick([1, 3, 5]),
      poolMaxOverflow: shape.pick([2, 5]),
      poolRecycle: shape.pick(["3 seconds", "30 minutes"]),
      poolTimeout: "2 seconds",
      connectTimeout: "2 seconds",
      statementTimeout: "4 seconds",
      lockTimeout: "2 seconds"
    }).pipe(Effect.orDie, Scope.extend(scope))
    yield* Effect.orDie(Workers.open(db))

    const { activity, health, poolStats } = db
    const workers = yield* Workers.start({
      db,
      name: "bank",
      workers: 16,
      random: chance.branch("workers"),
      tell: (entry) => journal.push(entry),
      calm: 200
    })
    const storms = yield* Effect.forkAll([
      Rig.storm(rig, chance.branch("rig"), { weights, longest: options.longest ?? 600, calm: 100, onStrike }),
      Rig.storm(rig, chance.branch("backends"), { weights: backendWeights, longest: 1, calm: 400, onStrike })
    ])
    let longestHealth = 0
    const asking = Effect.map(Effect.timed(health), ([took]) => {
      longestHealth = Math.max(longestHealth, Duration.toMillis(took))
    })
    const asker = yield* Effect.fork(Effect.forever(Effect.zipRight(asking, Effect.sleep("300 millis"))))
    yield* Effect.raceFirst(Effect.sleep(options.millis), Fiber.join(storms)).pipe(
      Effect.catchAllCause((cause) => Effect.sync(() => problems.push(`the storm ended: ${Cause.pretty(cause)}`)))
    )
    yield* Fiber.interrupt(storms)
    yield* Fiber.interrupt(asker)

    yield* within(workers.stop, "a worker hangs", problems)
    yield* within(
      eventually(Effect.map(activity, ({ sessions }) => sessions.length === 0)),
      "a session is left",
      problems
    )
    yield* within(
      eventually(Effect.map(poolStats, ({ used, waiting }) => used === 0 && waiting === 0)),
      "the pool is not at rest",
      problems
    )
    if (!(yield* health)) {
      problems.push("the database is not healthy")
    }
    let seen: unknown
    const counted = Effect.gen(function*() {
      const { idle, size } = yield* poolStats
      const { inTransaction, total } = yield* connections(server.url, { applicationName: "bank" })
      seen = { idle, size, inTransaction, total }
      return inTransaction === 0 && total === idle
    })
    yield* within(eventually(counted), "the server has other connections than the pool", problems)
    if (problems.length > 0) {
      problems.push(
        `seen: ${JSON.stringify(seen)}, ${JSON.stringify(yield* activity)}, ${JSON.stringify(yield* poolStats)}`
      )
    }
    problems.push(...judge(journal, yield* books(server.url)))
    yield* within(Scope.close(scope, Exit.void), "the database does not close", problems)
    const left = Effect.map(
      connections(server.url, { applicationName: "bank" }),
      ({ total }) => total === 0
    )
    yield* within(eventually(left), "connections are left", problems)
    // Asked by this fiber itself, as one more would be found.
    const roots = Effect.map(Fiber.roots, (fibers) => fibers.filter((fiber) => !rootsBefore.has(fiber)))
    yield* Effect.catchAllDefect(
      eventually(Effect.map(roots, (fibers) => fibers.length === 0)),
      () => Effect.map(roots, (fibers) => problems.push(`${fibers.length} fibers are left`))
    )
    return {
      seed,
      problems,
      told: tally(journal),
      struck,
      recoveries,
      longest: { ...workers.longest(), health: Math.round(longestHealth) }
    }
  }).pipe(
    (bank) =>
      Effect.suspend(() => {
        const defects: Array<string> = []
        const logger = Logger.make(({ cause, message }) => {
          if (Cause.isDie(cause)) {
            defects.push(`logged: ${String(message)} ${Cause.pretty(cause)}`)
          }
        })
        return Effect.map(
          Effect.provide(bank, Logger.replace(Logger.defaultLogger, logger)),
          (outcome) => ({ ...outcome, problems: [...outcome.problems, ...defects] })
        )
      })
  )
