/**
 * The bank on a cluster: workers move money while its primary is killed, frozen or switched over. Afterwards the books of the
 * primary must match what the workers were told.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Database from "../../src/Database.js"
import type * as DatabaseConfig from "../../src/DatabaseConfig.js"
import type * as Session from "../../src/Session.js"
import { type Books, countEvents, type Entry, verify } from "./bankJournal.js"
import * as Workers from "./bankWorkers.js"
import { query } from "./client.js"
import type { Cluster } from "./cluster.js"
import { eventually } from "./eventually.js"
import { random } from "./random.js"

/** What happens to the primary. A frozen one is thawed when the application has gone on with its successor. */
export type Fault = "kill" | "freeze" | "switchover"

export type Commit = NonNullable<Session.Options["commit"]>

/** How an application went on after a failover. Times are in milliseconds. */
export interface Recovery {
  readonly fault: Fault
  /** From the promotion to the first commit that was acknowledged. */
  readonly firstSuccess: number
  /** From the promotion until every worker has had a commit acknowledged. */
  readonly everyWorker: number
  /** The longest time that a worker was without an acknowledged commit, from the fault on. */
  readonly maxGap: number
}

/** An application with workers that move money all the time. */
export interface Application {
  readonly database: Database.Service
  /** The fault, the promotion of a standby, and the wait until every worker has gone on. The cluster is left as it is then. */
  readonly failOver: (fault: Fault) => Effect.Effect<Recovery>
  /** Ends the workers, and compares the journal with the books. */
  readonly finish: Effect.Effect<{
    /** What is lost, doubled or invented, and every unexpected error; empty if nothing is. */
    readonly problems: ReadonlyArray<string>
    readonly events: Readonly<Record<string, number>>
    /** The number of sessions with this `commit` whose outcome remained unknown. */
    readonly unknown: (commit: Commit) => number
  }>
}

const readBooks = (url: string): Effect.Effect<Books> =>
  Effect.all({
    accounts: query(url, "SELECT id, balance FROM accounts ORDER BY id"),
    ledger: query(url, "SELECT id, attempt, part, source, target, amount FROM ledger")
  })

// So many that transfers hardly ever wait for each other.
const accounts = 1_000

// Kinds that end by themselves soon: how long a transfer waits is then how long its database was away.
const kinds = ["plain", "nested", "siblings", "joined", "refused"]

/** Opens an application of the cluster. It ends when the scope closes. */
export const open = (
  cluster: Cluster,
  options: {
    readonly seed: number
    /** Each worker has one of these. */
    readonly commits: ReadonlyArray<Commit>
    readonly workers: number
    readonly settings?: DatabaseConfig.Options | undefined
  }
): Effect.Effect<Application, never, Scope.Scope> =>
  Effect.gen(function*() {
    const journal: Array<Entry> = []
    /** When commits were acknowledged, since `failOver` began. */
    let acknowledged: Array<{ readonly worker: number; readonly at: number }> = []

    const unknown: Array<Commit> = []
    const commitOf = (worker: number) => options.commits[worker % options.commits.length]

    const database = yield* Effect.orDie(Database.make({
      environment: "production",
      url: cluster.url,
      applicationName: "failover",
      poolSize: options.workers,
      poolMaxOverflow: 0,
      ...options.settings
    }))
    yield* Effect.orDie(Workers.open(database, accounts))
    const workers = yield* Workers.start({
      db: database,
      name: "failover",
      workers: options.workers,
      accounts,
      random: random(options.seed),
      kinds,
      sessionOptions: (worker) => ({ name: "bank", retry: true, commit: commitOf(worker) }),
      record: (entry, worker) => {
        journal.push(entry)
        if (entry.event === "acknowledged") {
          acknowledged.push({ worker, at: performance.now() })
        } else if (entry.event === "unknown") {
          unknown.push(commitOf(worker))
        }
      }
    })

    const everyone = Array.from({ length: options.workers }, (_, worker) => worker)
    /** Each worker's first acknowledged commit after this time, if it has one. */
    const firstAfter = (time: number): ReadonlyArray<number | undefined> =>
      everyone.map((worker) => acknowledged.find((entry) => entry.worker === worker && entry.at > time)?.at)
    const haveAll = (time: () => number) =>
      eventually(Effect.sync(() => firstAfter(time()).every((at) => at !== undefined)), { timeout: "2 minutes" })

    const failOver = (fault: Fault) =>
      Effect.gen(function*() {
        acknowledged = []
        yield* haveAll(() => 0)
        const former = cluster.primary()
        const since = performance.now()
        if (fault === "switchover") {
          yield* cluster.switchover()
        } else {
          yield* fault === "kill" ? former.kill : former.pause
          yield* cluster.promote()
          yield* Effect.forEach(cluster.standbys(), cluster.follow, { discard: true })
        }
        const promotedAt = cluster.promotedAt()
        yield* haveAll(cluster.promotedAt)
        if (fault === "freeze") {
          yield* former.resume
        }
        const firsts = firstAfter(promotedAt).map((at) => at! - promotedAt)
        const gaps = everyone.map((worker) => {
          const times = acknowledged.filter((entry) => entry.worker === worker).map(({ at }) => at)
          return Math.max(...times.map((at, index) => at - Math.max(since, times[index - 1] ?? since)))
        })
        return {
          fault,
          firstSuccess: Math.round(Math.min(...firsts)),
          everyWorker: Math.round(Math.max(...firsts)),
          maxGap: Math.round(Math.max(...gaps))
        }
      })

    const finish = Effect.gen(function*() {
      yield* workers.stop
      const problems = verify(journal, yield* readBooks(cluster.primary().url))
      return {
        problems,
        events: countEvents(journal),
        unknown: (commit: Commit) => unknown.filter((one) => one === commit).length
      }
    })
    return { database, failOver, finish }
  })
