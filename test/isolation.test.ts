import { assert, describe, it, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as Database from "../src/Database.js"
import * as DatabaseError from "../src/DatabaseError.js"
import type * as Session from "../src/Session.js"
import { anomalies, type Anomaly, type Verdict } from "./support/anomalies.js"
import * as Dialects from "./support/dialects.js"
import { eventually } from "./support/eventually.js"
import { type Committed, contradiction } from "./support/history.js"
import * as Postgres from "./support/postgres.js"
import {
  onlyReads,
  play,
  type Played,
  rowsText,
  serially,
  type Stage,
  type Step,
  transactions
} from "./support/schedule.js"

const levels = ["read uncommitted", "read committed", "repeatable read", "serializable"] as const

/** Where a level stands in the columns of what is expected. */
const column = (level: Session.Isolation): 0 | 1 | 2 =>
  level === "serializable" ? 2 : level === "repeatable read" ? 1 : 0

const quiet = Logger.remove(Logger.defaultLogger)

class Place extends Context.Tag("test/Place")<Place, Stage & { readonly main: Database.Service }>() {}

const createTest = (database: Database.Service) =>
  database.sql.onDialectOrElse({
    // Statistics would change the plans, and with them what a serializable transaction is taken to have read.
    pg: () => database.sql`CREATE TABLE test (id INTEGER PRIMARY KEY, value INTEGER) WITH (autovacuum_enabled = false)`,
    orElse: () => database.sql`CREATE TABLE test (id INTEGER PRIMARY KEY, value INTEGER)`
  })

const fill = (database: Database.Service) =>
  Effect.zipRight(
    database.sql`DELETE FROM test`,
    database.sql`INSERT INTO test (id, value) VALUES (1, 10), (2, 20)`
  )

const after = (database: Database.Service) => Effect.map(database.sql`SELECT id, value FROM test`, rowsText)

/** Sessions of one Database, and another connection that sees from outside who waits for whom. */
const onPostgres = Layer.scoped(
  Place,
  Effect.gen(function*() {
    const url = yield* Postgres.freshDatabase
    const main = yield* Database.make({ url, environment: "test" })
    const observer = yield* Database.make({ url, environment: "test", poolSize: 1, poolMaxOverflow: 0 })
    yield* createTest(main)
    return {
      main,
      database: () => main,
      // It takes no snapshot, as a query would.
      enter: (transaction) => main.sql.unsafe(`SET LOCAL application_name = '${transaction}'`),
      waitsFor: (transaction, { open }) =>
        observer.sql<{ readonly event: string; readonly names: ReadonlyArray<string> }>`
          SELECT waiting.wait_event AS event,
                 ARRAY(SELECT application_name
                         FROM pg_stat_activity
                        WHERE pid = ANY (pg_blocking_pids(waiting.pid))) AS names
            FROM pg_stat_activity waiting
           WHERE waiting.datname = current_database()
             AND waiting.application_name = ${transaction}
             AND waiting.state = 'active'
             AND waiting.wait_event IN ('transactionid', 'tuple', 'SafeSnapshot')`.pipe(
          // pg_safe_snapshot_blocking_pids finds nobody where the connection had another transaction a moment ago.
          Effect.map(([row]) => row === undefined ? [] : row.event === "SafeSnapshot" ? open : row.names),
          Effect.orDie
        )
    }
  })
)

/** Sessions of one Database on a file: they take turns on its connection. */
const onOneSqlite = Layer.scoped(
  Place,
  Effect.gen(function*() {
    const main = yield* Dialects.make(Dialects.sqliteFile)
    yield* createTest(main)
    return {
      main,
      database: () => main,
      enter: () => Effect.void,
      waitsFor: (transaction, { open }) =>
        Effect.zipWith(
          main.activity,
          main.poolStats,
          ({ sessions }, { waiting }) =>
            waiting > 0 && sessions.some(({ name, state }) => name === transaction && state === "waiting") ? open : []
        )
    }
  })
)

/** What begins with its first statement begins with this one. */
const first = "SELECT 1"

/** Each transaction has a Database of its own on the same file, as processes have. */
const onManySqlite = Layer.scoped(
  Place,
  Effect.gen(function*() {
    const url = yield* Dialects.sqliteFile.url
    const make = Database.make({ url, environment: "test", lockTimeout: "30 seconds" })
    const databases: Record<string, Database.Service> = { T1: yield* make, T2: yield* make, T3: yield* make }
    yield* createTest(databases.T1)
    return {
      main: databases.T1,
      database: (transaction) => databases[transaction],
      enter: (transaction) => databases[transaction].sql.unsafe(first),
      // The file does not tell who waits for its lock. That it was really waited for shows in the order.
      waitsFor: (transaction, { rivals }) =>
        Effect.map(
          databases[transaction].activity,
          ({ sessions }) =>
            sessions.some(({ name, statement }) => name === transaction && statement === first) ? rivals : []
        )
    }
  })
)

const resultOf = <S extends Step>({ results, waits }: Played<S>, step: S): string =>
  waits.has(step) ? `waits for ${waits.get(step)}, then ${results.get(step)}` : `${results.get(step)}`

const verdictOf = <S extends Step>(anomaly: Anomaly, played: Played<S>, after: string): Verdict => {
  if (anomaly.happened({ ...played, after })) {
    return "happens"
  }
  const failed = Object.values(played.ends).find((end) => end !== "ok")
  return failed === undefined ? played.waits.size > 0 ? "waits" : "snapshot" : failed as Verdict
}

/** Random numbers that a seed repeats (mulberry32). */
const makeRandom = (seed: number) => {
  let state = seed
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
  /** One of the whole numbers from zero to below the limit. */
  return (limit: number): number => Math.floor(next() * limit)
}

/** Of everything that is random here; the titles tell it. */
const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 1_000_000))

/** Where so many wait for each other; whoever comes later passes. */
const makeMeeting = (size: number) =>
  Effect.map(Effect.makeLatch(), (latch) => {
    let here = 0
    return Effect.suspend(() => ++here < size ? latch.await : latch.open)
  })

/** Every order of some things. */
const permutations = <A>(items: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> =>
  items.length === 0
    ? [[]]
    : items.flatMap((first) =>
      permutations(items.filter((item) => item !== first)).map((others) => [first].concat(others))
    )

/** What each step would have come to, and what would be left, had the transactions run one after the other. */
const asIfSerial = (steps: ReadonlyArray<Step>, order: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const place = yield* Place
    yield* fill(place.main)
    const { results } = yield* play(place, serially(steps, order), () => ({}))
    return describeEnd(steps, results, order, yield* after(place.main))
  })

const describeEnd = (
  steps: ReadonlyArray<Step>,
  results: ReadonlyMap<Step, string>,
  among: ReadonlyArray<string>,
  after: string
): ReadonlyArray<string> => [
  ...steps.filter(([transaction]) => among.includes(transaction)).map((step) =>
    `${step[0]} ${step[1]}: ${results.get(step)}`
  ),
  after
]

layer(onPostgres, { excludeTestServices: true })("PostgreSQL", (it) => {
  for (const anomaly of anomalies) {
    for (const level of levels) {
      const verdict = anomaly.verdicts[column(level)]
      it.scoped(`${anomaly.name} at "${level}": ${verdict}`, () =>
        Effect.gen(function*() {
          const place = yield* Place
          const { steps } = anomaly
          yield* fill(place.main)
          const played = yield* play(place, steps, () => ({ isolation: level }))
          const left = yield* after(place.main)

          assert.deepStrictEqual(
            steps.map((step) => `${step[0]} ${step[1]}: ${resultOf(played, step)}`),
            steps.map((step) => {
              const [transaction, what, readCommitted = "ok", repeatableRead, serializable] = step
              const expected = [
                readCommitted,
                repeatableRead ?? readCommitted,
                serializable ?? repeatableRead ?? readCommitted
              ]
              return `${transaction} ${what}: ${expected[column(level)]}`
            })
          )
          assert.strictEqual(left, anomaly.after[column(level)])
          assert.strictEqual(verdictOf(anomaly, played, left), verdict)

          if (level === "serializable") {
            // Those that committed did and saw what they would have in some order, one after the other.
            const committed = transactions(steps).filter((transaction) =>
              played.ends[transaction] === "ok" &&
              steps.some(([name, what]) => name === transaction && what === "commit")
            )
            const seen = describeEnd(steps, played.results, committed, left)
            const orders = yield* Effect.forEach(
              permutations(committed),
              (order) => asIfSerial(steps, order)
            )
            assert.deepInclude(orders, seen)
          }
        }).pipe(Effect.provide(quiet)))
    }
  }
})

/**
 * The statements alone: a session takes its connection with its first one, and the next session may have it before the
 * last one knows that its commit has happened.
 */
const statementsOf = (steps: ReadonlyArray<Step>) =>
  steps.filter(([, what]) => what !== "begin" && what !== "commit" && what !== "rollback")

layer(onOneSqlite, { excludeTestServices: true })("SQLite, one Database", (it) => {
  for (const anomaly of anomalies) {
    it.scoped(`${anomaly.name}: sessions take turns at every level`, () =>
      Effect.gen(function*() {
        const place = yield* Place
        const { steps } = anomaly
        const turns = transactions(statementsOf(steps))
        const serial = yield* asIfSerial(steps, turns)
        for (const isolation of levels) {
          yield* fill(place.main)
          const played = yield* play(place, steps, () => ({ isolation }))
          const left = yield* after(place.main)
          assert.deepStrictEqual(statementsOf(played.order), statementsOf(serially(steps, turns)))
          assert.deepStrictEqual(describeEnd(steps, played.results, turns, left), serial)
          assert.isFalse(anomaly.happened({ ...played, after: left }))
          assert.isAbove(played.waits.size, 0)
        }
      }).pipe(Effect.provide(quiet)))
  }
})

layer(onManySqlite, { excludeTestServices: true })("SQLite, several Databases on one file", (it) => {
  for (const anomaly of anomalies) {
    it.scoped(`${anomaly.name}: comes to ${anomaly.order}`, () =>
      Effect.gen(function*() {
        const place = yield* Place
        const { steps } = anomaly
        const order = anomaly.order.split(" ")
        const serial = yield* asIfSerial(steps, order)
        yield* fill(place.main)
        const readers = new Set(transactions(steps).filter((transaction) => onlyReads(steps, transaction)))
        const played = yield* play(place, steps, (transaction) => ({
          isolation: "read uncommitted",
          readOnly: readers.has(transaction)
        }))
        const left = yield* after(place.main)
        assert.deepStrictEqual(describeEnd(steps, played.results, order, left), serial)
        assert.isFalse(anomaly.happened({ ...played, after: left }))
        // Readers wait for nobody, writers for the writer before them.
        const writers = order.filter((transaction) => !readers.has(transaction))
        const waiting = Array.from(played.waits.keys(), ([transaction, what]) => `${transaction} ${what}`)
        assert.deepStrictEqual(waiting, writers.slice(1).map((transaction) => `${transaction} begin`))
        assert.deepStrictEqual(
          statementsOf(played.order.filter(([transaction]) => writers.includes(transaction))),
          statementsOf(serially(steps, writers))
        )
      }).pipe(Effect.provide(quiet)))
  }
})

it("is documented as measured", () => {
  const page = fs.readFileSync(new URL("../docs/isolation.md", import.meta.url), "utf8")
  const rows = page.split("\n").filter((line) => /^\| [A-Z]/.test(line)).map((line) =>
    line.split("|").slice(1, -1).map((cell) => cell.replaceAll(/[*`]/g, "").trim())
  )
  assert.deepStrictEqual(rows, anomalies.map(({ name, verdicts }) => [name, ...verdicts]))
})

const live = (name: string, body: () => Effect.Effect<void, unknown, Scope.Scope>): void => {
  it.scopedLive(name, () => Effect.provide(body(), quiet))
}

const openPostgres = Effect.flatMap(
  Effect.tap(Postgres.freshDatabase, (url) =>
    // Deadlocks are looked for at once.
    Postgres.query(url, `ALTER DATABASE ${new URL(url).pathname.slice(1)} SET deadlock_timeout = '20ms'`)),
  (url) => Database.make({ url, environment: "test" })
)

/** Several Databases on one file. */
const openSqlite = (count: number) =>
  Effect.flatMap(
    Dialects.sqliteFile.url,
    (url) => Effect.all(Array.from({ length: count }, () => Database.make({ url, environment: "test" })))
  )

const patient = Schedule.intersect(Schedule.jittered(Schedule.spaced("5 millis")), Schedule.recurs(500))

describe("write skew", () => {
  const doctors = 4
  const rounds = 25

  const createDoctors = (db: Database.Service) =>
    Effect.zipRight(
      db.sql`CREATE TABLE doctor (shift INTEGER, id INTEGER, on_call INTEGER, PRIMARY KEY (shift, id))`,
      db.sql`INSERT INTO doctor ${
        db.sql.insert(
          Array.from({ length: rounds * doctors }, (_, n) => ({
            shift: Math.floor(n / doctors),
            id: n % doctors,
            on_call: 1
          }))
        )
      }`
    )

  const onCall = (db: Database.Service, shift: number) =>
    Effect.map(db.sql`SELECT id FROM doctor WHERE shift = ${shift} AND on_call = 1`, (rows) => rows.length)

  /** All of a shift's doctors ask to go, and may if another stays. How many went, and how many stayed. */
  const endOfShift = (
    databases: ReadonlyArray<Database.Service>,
    shift: number,
    options: Session.Options,
    pause: Effect.Effect<void>
  ) =>
    Effect.gen(function*() {
      const went = yield* Effect.forEach(databases, (db, id) =>
        db.session(
          Effect.gen(function*() {
            const others = (yield* onCall(db, shift)) - 1
            yield* pause
            if (others > 0) {
              yield* db.sql`UPDATE doctor SET on_call = 0 WHERE shift = ${shift} AND id = ${id}`
            }
            return others > 0
          }),
          options
        ), { concurrency: "unbounded" })
      return [went.filter((one) => one).length, yield* onCall(databases[0], shift)]
    })

  const endOfShifts = (db: Database.Service, isolation: Session.Isolation) =>
    Effect.forEach(
      Array.from({ length: rounds }).keys(),
      (shift) =>
        Effect.flatMap(makeMeeting(doctors), (meeting) =>
          endOfShift(Array.from({ length: doctors }, () => db), shift, { isolation, retry: true }, meeting))
    )

  live("on PostgreSQL ends in a serial result at serializable, with retry", () =>
    Effect.gen(function*() {
      const db = yield* openPostgres
      yield* createDoctors(db)
      assert.deepStrictEqual(
        yield* endOfShifts(db, "serializable"),
        Array.from({ length: rounds }, () => [doctors - 1, 1])
      )
      const { retried } = yield* db.activity
      assert.isAtLeast(retried.SerializationFailure, rounds)
    }))

  live("on PostgreSQL leaves nobody on call at repeatable read", () =>
    Effect.gen(function*() {
      const db = yield* openPostgres
      yield* createDoctors(db)
      assert.deepStrictEqual(
        yield* endOfShifts(db, "repeatable read"),
        Array.from({ length: rounds }, () => [doctors, 0])
      )
    }))

  live(`on SQLite does not come about, in several Databases on one file (seed ${seed})`, () =>
    Effect.gen(function*() {
      const random = makeRandom(seed)
      const databases = yield* openSqlite(doctors)
      yield* createDoctors(databases[0])
      const pause = Effect.suspend(() => Effect.sleep(random(5)))
      assert.deepStrictEqual(
        yield* Effect.forEach(
          Array.from({ length: 5 }).keys(),
          (shift) => endOfShift(databases, shift, { retry: true }, pause)
        ),
        Array.from({ length: 5 }, () => [doctors - 1, 1])
      )
    }))
})

describe("a counter that is read and then written", () => {
  const workers = 8
  const increments = 10

  const createCounter = (db: Database.Service) =>
    Effect.zipRight(db.sql`CREATE TABLE counter (n INTEGER)`, db.sql`INSERT INTO counter VALUES (0)`)

  const read = (db: Database.Service) =>
    Effect.map(db.sql<{ readonly n: number }>`SELECT n FROM counter`, ([{ n }]) => n)

  const increment = (db: Database.Service, options: Session.Options, pause: Effect.Effect<void> = Effect.void) =>
    db.session(
      Effect.gen(function*() {
        const n = yield* read(db)
        yield* pause
        yield* db.sql`UPDATE counter SET n = ${n + 1}`
      }),
      options
    )

  const fromAll = (databases: ReadonlyArray<Database.Service>, options: Session.Options) =>
    Effect.forEach(
      Array.from({ length: workers }).keys(),
      (worker) => Effect.repeatN(increment(databases[worker % databases.length], options), increments - 1),
      { concurrency: "unbounded", discard: true }
    )

  live("loses none on PostgreSQL at repeatable read, with retry", () =>
    Effect.gen(function*() {
      const db = yield* openPostgres
      yield* createCounter(db)
      yield* fromAll([db], { isolation: "repeatable read", retry: patient })
      assert.strictEqual(yield* read(db), workers * increments)
      const { retried } = yield* db.activity
      assert.isAbove(retried.SerializationFailure, 0)
    }))

  live(
    "loses all but one on PostgreSQL at read committed, where all have read before one writes",
    () =>
      Effect.gen(function*() {
        const db = yield* openPostgres
        yield* createCounter(db)
        const once = (isolation: Session.Isolation) =>
          Effect.flatMap(makeMeeting(workers), (meeting) =>
            Effect.all(
              Array.from({ length: workers }, () => increment(db, { isolation, retry: patient }, meeting)),
              { concurrency: "unbounded", discard: true }
            ))
        yield* once("read committed")
        assert.strictEqual(yield* read(db), 1)
        yield* once("repeatable read")
        assert.strictEqual(yield* read(db), 1 + workers)
      })
  )

  live("loses none on SQLite, in several Databases on one file", () =>
    Effect.gen(function*() {
      const databases = yield* openSqlite(4)
      yield* createCounter(databases[0])
      yield* fromAll(databases, { retry: true })
      assert.strictEqual(yield* read(databases[0]), workers * increments)
    }))
})

describe("the sum of a bank's accounts", () => {
  const accounts = 4

  const createAccounts = (db: Database.Service) =>
    Effect.zipRight(
      db.sql`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)`,
      db.sql`INSERT INTO account ${db.sql.insert(Array.from({ length: accounts }, (_, id) => ({ id, balance: 100 })))}`
    )

  const balance = (db: Database.Service, id: number) =>
    Effect.map(
      db.sql<{ readonly balance: number }>`SELECT balance FROM account WHERE id = ${id}`,
      ([{ balance }]) => balance
    )

  const transfer = (db: Database.Service, from: number, to: number, amount: number, options: Session.Options) =>
    db.session(
      Effect.gen(function*() {
        const [giver, taker] = [yield* balance(db, from), yield* balance(db, to)]
        yield* db.sql`UPDATE account SET balance = ${giver - amount} WHERE id = ${from}`
        yield* db.sql`UPDATE account SET balance = ${taker + amount} WHERE id = ${to}`
      }),
      options
    )

  /** One account after the other, with a moment for others in between. */
  const sum = (db: Database.Service, moment: Effect.Effect<unknown, DatabaseError.DatabaseError> = Effect.void) =>
    Effect.gen(function*() {
      const first = yield* balance(db, 0)
      yield* moment
      const others = yield* Effect.forEach([1, 2, 3], (id) => balance(db, id))
      return others.reduce((total, one) => total + one, first)
    })

  live(`is right in deferrable sessions beside serializable transfers (seed ${seed})`, () =>
    Effect.gen(function*() {
      const random = makeRandom(seed)
      const db = yield* openPostgres
      yield* createAccounts(db)
      let transfers = 0
      const teller = Effect.suspend(() => {
        const from = random(accounts)
        const to = (from + 1 + random(accounts - 1)) % accounts
        return transfer(db, from, to, 1 + random(20), { isolation: "serializable", retry: patient })
      }).pipe(Effect.tap(() => Effect.sync(() => transfers++)), Effect.forever)
      const tellers = yield* Effect.fork(Effect.all([teller, teller, teller], { concurrency: "unbounded" }))

      const audit = Effect.suspend(() => {
        const enough = transfers + 3
        // Others commit while it reads.
        const moment = eventually(Effect.sync(() => transfers >= enough))
        return db.session(sum(db, moment), { isolation: "serializable", readOnly: true, deferrable: true })
      })
      const sums = yield* Effect.replicateEffect(audit, 15)
      yield* Fiber.interrupt(tellers)
      assert.deepStrictEqual(sums, Array.from({ length: 15 }, () => accounts * 100))
      assert.strictEqual(yield* sum(db), accounts * 100)
    }))

  live(
    "is wrong at read committed, and right again from repeatable read on, when a transfer comes in between",
    () =>
      Effect.gen(function*() {
        const db = yield* openPostgres
        yield* createAccounts(db)
        const audit = (options: Session.Options) =>
          Effect.gen(function*() {
            const session = yield* db.acquireSession(options)
            return yield* session.run(sum(db, transfer(db, 0, 1, 10, { propagation: "new" })))
          })
        assert.strictEqual(yield* audit({ isolation: "read committed" }), accounts * 100 + 10)
        assert.strictEqual(yield* audit({ isolation: "repeatable read" }), accounts * 100)
        assert.strictEqual(
          yield* audit({ isolation: "serializable", readOnly: true, deferrable: true }),
          accounts * 100
        )
      })
  )
})

describe("random transactions", () => {
  const keys = 3

  const createLists = (db: Database.Service) =>
    Effect.zipRight(
      db.sql`CREATE TABLE list (id INTEGER PRIMARY KEY, elements TEXT NOT NULL)`,
      db.sql`INSERT INTO list ${db.sql.insert(Array.from({ length: keys }, (_, id) => ({ id, elements: "" })))}`
    )

  const elementsOf = (text: string): ReadonlyArray<string> => text.split(" ").filter((element) => element !== "")

  const read = (db: Database.Service, key: number) =>
    Effect.map(
      db.sql<{ readonly elements: string }>`SELECT elements FROM list WHERE id = ${key}`,
      ([{ elements }]) => ({ key, seen: elementsOf(elements) })
    )

  const append = (db: Database.Service, key: number, element: string) =>
    Effect.as(db.sql`UPDATE list SET elements = elements || ${` ${element}`} WHERE id = ${key}`, { key, element })

  const lists = (db: Database.Service) =>
    Effect.map(
      db.sql<{ readonly id: number; readonly elements: string }>`SELECT id, elements FROM list`,
      (rows) => new Map(rows.map(({ elements, id }) => [id, elementsOf(elements)]))
    )

  /** Workers that read and append at random, over and over: what they committed. */
  const work = (databases: ReadonlyArray<Database.Service>, options: Session.Options) =>
    Effect.map(
      Effect.forEach(Array.from({ length: 6 }).keys(), (worker) => {
        const random = makeRandom(seed + worker)
        const db = databases[worker % databases.length]
        return Effect.forEach(Array.from({ length: 20 }).keys(), (n) => {
          const steps = Array.from({ length: 2 + random(3) }, () => ({ key: random(keys), reads: random(2) === 0 }))
          let attempts = 0
          return db.session(
            Effect.gen(function*() {
              const name = `${worker}.${n}.${++attempts}`
              const done = {
                name,
                reads: [] as Array<Committed["reads"][number]>,
                appends: [] as Array<Committed["appends"][number]>
              }
              for (const [index, { key, reads }] of steps.entries()) {
                if (reads) {
                  done.reads.push(yield* read(db, key))
                } else {
                  done.appends.push(yield* append(db, key, `${name}.${index}`))
                }
              }
              return done
            }),
            { ...options, readOnly: steps.every(({ reads }) => reads) }
          )
        })
      }, { concurrency: "unbounded" }),
      (histories) => histories.flat()
    )

  live(`have a serial order on PostgreSQL at serializable, with retry (seed ${seed})`, () =>
    Effect.gen(function*() {
      const db = yield* openPostgres
      yield* createLists(db)
      const history = yield* work([db], { isolation: "serializable", retry: patient })
      assert.strictEqual(history.length, 120)
      assert.isUndefined(contradiction(history, yield* lists(db)))
      const { retried } = yield* db.activity
      assert.isAbove(retried.SerializationFailure, 0)
    }))

  live(`have a serial order on SQLite, in several Databases on one file (seed ${seed})`, () =>
    Effect.gen(function*() {
      const databases = yield* openSqlite(3)
      yield* createLists(databases[0])
      const history = yield* work(databases, { retry: true })
      assert.strictEqual(history.length, 120)
      assert.isUndefined(contradiction(history, yield* lists(databases[0])))
    }))

  live("that skew each other's writes are found out, at repeatable read", () =>
    Effect.gen(function*() {
      const db = yield* openPostgres
      yield* createLists(db)
      const meeting = yield* makeMeeting(2)
      const one = (name: string, from: number, to: number) =>
        db.session(
          Effect.gen(function*() {
            const seen = yield* read(db, from)
            yield* meeting
            return { name, reads: [seen], appends: [yield* append(db, to, name)] }
          }),
          { isolation: "repeatable read" }
        )
      const history = yield* Effect.all([one("a", 0, 1), one("b", 1, 0)], { concurrency: "unbounded" })
      assert.strictEqual(contradiction(history, yield* lists(db)), "a -rw 0-> b -rw 1-> a")
    }))
})

describe("a serializable session that is deferrable", () => {
  live("waits for a snapshot that nobody's commit can spoil", () =>
    Effect.gen(function*() {
      const place = yield* Layer.build(onPostgres).pipe(Effect.map(Context.get(Place)))
      const { steps } = anomalies.find(({ name }) => name === "G2: two anti-dependency edges")!
      yield* fill(place.main)
      const played = yield* play(place, steps, (transaction) => ({
        isolation: "serializable",
        ...(transaction === "T3" && { readOnly: true, deferrable: true })
      }))
      assert.deepStrictEqual(
        steps.filter(([, what]) => what !== "begin").map((step) => `${step[0]}: ${resultOf(played, step)}`),
        [
          "T1: 1=10 2=20",
          "T2: ok",
          "T2: ok",
          "T3: waits for T1, then 1=0 2=25",
          "T3: ok",
          "T1: ok",
          "T1: ok"
        ]
      )
    }))
})

describe("SQLite's way", () => {
  const createItems = (db: Database.Service) => db.sql`CREATE TABLE items (n INTEGER PRIMARY KEY)`
  const numbers = (db: Database.Service) =>
    Effect.map(db.sql<{ readonly n: number }>`SELECT n FROM items ORDER BY n`, (rows) => rows.map(({ n }) => n))

  live(
    "a writer waits for the writer of another Database, and LockTimeout ends the wait",
    () =>
      Effect.gen(function*() {
        const [one, other] = yield* openSqlite(2)
        yield* createItems(one)
        const session = yield* one.acquireSession()
        yield* session.run(one.sql`INSERT INTO items VALUES (1)`)

        const refused = yield* Effect.flip(other.session(numbers(other), { lockTimeout: "50 millis" }))
        assert.strictEqual(refused._tag, "LockTimeout")

        const waiting = yield* Effect.fork(
          other.session(Effect.zipRight(other.sql`INSERT INTO items VALUES (2)`, numbers(other)))
        )
        yield* eventually(
          Effect.map(other.activity, ({ sessions }) => sessions.some(({ state }) => state === "statement"))
        )
        yield* session.commit
        assert.deepStrictEqual(yield* Fiber.join(waiting), [1, 2])
      })
  )

  live("a session waits for its turn in its own Database, and PoolTimeout ends the wait", () =>
    Effect.gen(function*() {
      const db = yield* Dialects.make(Dialects.sqliteFile, { poolTimeout: "50 millis" })
      yield* createItems(db)
      const session = yield* db.acquireSession()
      yield* session.run(db.sql`INSERT INTO items VALUES (1)`)
      assert.strictEqual((yield* Effect.flip(db.session(numbers(db))))._tag, "PoolTimeout")
      yield* session.commit
      assert.deepStrictEqual(yield* db.session(numbers(db)), [1])
    }))

  live("a reader keeps its snapshot while another Database commits, and must not write", () =>
    Effect.gen(function*() {
      const [one, other] = yield* openSqlite(2)
      yield* createItems(one)
      const reader = yield* other.acquireSession({ readOnly: true })
      assert.deepStrictEqual(yield* reader.run(numbers(other)), [])

      const writer = yield* one.acquireSession()
      yield* writer.run(one.sql`INSERT INTO items VALUES (1)`)
      assert.deepStrictEqual(yield* reader.run(numbers(other)), [])
      yield* writer.commit
      assert.deepStrictEqual(yield* reader.run(numbers(other)), [])
      const refused = yield* Effect.flip(DatabaseError.typed(reader.run(other.sql`INSERT INTO items VALUES (2)`)))
      assert.strictEqual(refused._tag, "ReadOnlyViolation")
      yield* reader.rollback

      assert.deepStrictEqual(yield* other.session(numbers(other), { readOnly: true }), [1])
    }))
})
