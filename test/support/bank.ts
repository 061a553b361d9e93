/**
 * The bank on PostgreSQL: workers move money while the rig injects faults; afterwards the database must match the
 * journal of what the workers observed.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import { type Books, countEvents, type Entry, verify } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { query } from "./client.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import { newSeed, random } from "./random.js"
import * as Rig from "./rig.js"
import type { Server } from "./server.js"
import type { ServerOptions } from "./serverProcess.js"

/** The settings of the bank's server, with short timeouts. */
export const serverOptions: ServerOptions = {
  maxConnections: 60,
  config: { deadlock_timeout: "100ms", idle_in_transaction_session_timeout: "4s" }
}

/** The result of a run. */
export interface Outcome {
  readonly seed: number
  /** What went wrong; empty if nothing did. */
  readonly problems: ReadonlyArray<string>
  /** The number of journal events of each type. */
  readonly events: Readonly<Record<string, number>>
  /** The number of injected faults by name. */
  readonly faults: Readonly<Record<string, number>>
  /** For each restart of the server, the time until the health check succeeded again, in milliseconds. */
  readonly recoveries: ReadonlyArray<number>
  /** The longest times, in milliseconds: those of `Workers`, and of a health check. */
  readonly maxMillis: { readonly interruption: number; readonly excess: number; readonly health: number }
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
  cutResponse: 6,
  resetResponse: 6,
  silenceResponse: 3,
  loseCommit: 20,
  loseCommitResponse: 20,
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

/** Runs an effect for up to 30 seconds, and adds a problem if it fails or does not complete. */
const completes = <A, E, R>(effect: Effect.Effect<A, E, R>, problem: string, problems: Array<string>) =>
  Effect.timeoutTo(Effect.exit(Effect.disconnect(effect)), {
    duration: "30 seconds",
    onSuccess: (exit) => {
      if (Exit.isFailure(exit)) {
        problems.push(`${problem}: ${Cause.pretty(exit.cause)}`)
      }
    },
    onTimeout: () => {
      problems.push(`${problem}: not within 30 seconds`)
    }
  })

const readBooks = (url: string): Effect.Effect<Books> =>
  Effect.all({
    accounts: query(url, "SELECT id, balance FROM accounts ORDER BY id"),
    ledger: query(url, "SELECT id, attempt, part, source, target, amount FROM ledger")
  })

/** Runs the bank under faults for this time, and checks the result. */
export const run = (
  server: Server,
  options: {
    readonly millis: number
    readonly seed?: number
    /** The maximum duration of a fault, in milliseconds. Default: 600. */
    readonly maxMillis?: number
    readonly onFault?: (fault: Rig.Fault) => void
  }
): Effect.Effect<Outcome> =>
  Effect.gen(function*() {
    const seed = options.seed ?? newSeed()
    const chance = random(seed)
    const problems: Array<string> = []
    const journal: Array<Entry> = []
    const recoveries: Array<number> = []
    const faults: Record<string, number> = {}
    const onFault = (fault: Rig.Fault) => {
      faults[fault.name] = (faults[fault.name] ?? 0) + 1
      options.onFault?.(fault)
    }
    const initialRoots = new Set(yield* Fiber.roots)
    const scope = yield* Scope.make()
    let db: Database.Service | undefined = undefined

    const onRecovery = Effect.gen(function*() {
      yield* eventually(available(server.url))
      if (db !== undefined) {
        const start = performance.now()
        yield* eventually(db.health)
        recoveries.push(Math.round(performance.now() - start))
      }
    })
    const settings = chance.branch("pool")
    const rig = yield* Scope.extend(Rig.make(server, onRecovery), scope)
    db = yield* Database.make({
      environment: "production",
      url: rig.url,
      applicationName: "bank",
      poolSize: settings.pick([1, 3, 5]),
      poolMaxOverflow: settings.pick([2, 5]),
      poolRecycle: settings.pick(["3 seconds", "30 minutes"]),
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
      record: (entry) => journal.push(entry),
      maxPause: 200
    })
    // Not with `forkAll`, whose fiber counts as interrupted when one of them has ended: the server may still be restarting.
    const injections = yield* Effect.forEach([
      Rig.injectRandomly(rig, chance.branch("rig"), {
        weights,
        maxMillis: options.maxMillis ?? 600,
        maxPause: 100,
        onFault
      }),
      Rig.injectRandomly(rig, chance.branch("backends"), {
        weights: backendWeights,
        maxMillis: 1,
        maxPause: 400,
        onFault
      })
    ], Effect.fork)
    let maxHealthMillis = 0
    const timeHealth = Effect.map(Effect.timed(health), ([duration]) => {
      maxHealthMillis = Math.max(maxHealthMillis, Duration.toMillis(duration))
    })
    const healthChecks = yield* Effect.fork(Effect.forever(Effect.zipRight(timeHealth, Effect.sleep("300 millis"))))
    yield* Effect.raceFirst(Effect.sleep(options.millis), Fiber.joinAll(injections)).pipe(
      Effect.catchAllCause((cause) => Effect.sync(() => problems.push(`fault injection ended: ${Cause.pretty(cause)}`)))
    )
    yield* Fiber.interruptAll(injections)
    yield* Fiber.interrupt(healthChecks)

    yield* completes(workers.stop, "a worker hangs", problems)
    yield* completes(
      eventually(Effect.map(activity, ({ sessions }) => sessions.length === 0)),
      "a session is still open",
      problems
    )
    yield* completes(
      eventually(Effect.map(poolStats, ({ used, waiting }) => used === 0 && waiting === 0)),
      "connections are still in use",
      problems
    )
    if (!(yield* health)) {
      problems.push("the database is not healthy")
    }
    let counts: unknown
    const countsMatch = Effect.gen(function*() {
      const { idle, size } = yield* poolStats
      const { inTransaction, total } = yield* connections(server.url, { applicationName: "bank" })
      counts = { idle, size, inTransaction, total }
      return inTransaction === 0 && total === idle
    })
    yield* completes(eventually(countsMatch), "the server and the pool count different connections", problems)
    if (problems.length > 0) {
      problems.push(
        `counts: ${JSON.stringify(counts)}, ${JSON.stringify(yield* activity)}, ${JSON.stringify(yield* poolStats)}`
      )
    }
    problems.push(...verify(journal, yield* readBooks(server.url)))
    yield* completes(Scope.close(scope, Exit.void), "the database does not close", problems)
    const allClosed = Effect.map(
      connections(server.url, { applicationName: "bank" }),
      ({ total }) => total === 0
    )
    yield* completes(eventually(allClosed), "connections are still open", problems)
    // Not through `completes`, whose own fiber would be counted.
    const roots = Effect.map(Fiber.roots, (fibers) => fibers.filter((fiber) => !initialRoots.has(fiber)))
    yield* Effect.catchAllDefect(
      eventually(Effect.map(roots, (fibers) => fibers.length === 0)),
      () => Effect.map(roots, (fibers) => problems.push(`${fibers.length} fibers are still running`))
    )
    return {
      seed,
      problems,
      events: countEvents(journal),
      faults,
      recoveries,
      maxMillis: { ...workers.maxMillis(), health: Math.round(maxHealthMillis) }
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
