import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { vi } from "vitest"
import * as Database from "../src/Database.js"
import { type Connection, type Driver, Interceptor } from "../src/internal/driver.js"
import * as Migrations from "../src/Migrations.js"
import { directory } from "./internal/sqlite/support.js"
import { postgres } from "./support/dialects.js"

vi.setConfig({ testTimeout: 240_000 })

const statements: ReadonlySet<PropertyKey> = new Set(["execute", "executeRaw", "executeValues", "executeUnprepared"])
const ends: ReadonlySet<PropertyKey> = new Set(["commit", "rollback"])

type Step = (connection: Connection, property: PropertyKey) => Effect.Effect<void>

/** A driver with a step before everything that its connections send. */
const withSteps = (driver: Driver, step: Step): Driver => ({
  ...driver,
  connect: (onLost, restore) =>
    Effect.map(driver.connect(onLost, restore), (connection) =>
      new Proxy(connection, {
        get: (target, property) => {
          const value: unknown = property === "inner" ? target : Reflect.get(target, property, target)
          const before = <A, E>(effect: () => Effect.Effect<A, E>) =>
            Effect.zipRight(step(target, property), Effect.suspend(effect))
          return ends.has(property)
            ? before(() => value as Effect.Effect<void>)
            : typeof value !== "function"
            ? value
            : statements.has(property)
            ? (...args: ReadonlyArray<unknown>) => before(() => value.apply(target, args))
            : value.bind(target)
        }
      }))
})

const open = (url: string, step?: Step) => {
  const thread = url.startsWith("sqlite:") && step === undefined ? "main" : undefined
  const database = Database.make({ environment: "test", url, connectTimeout: "1 minute", thread })
  return step === undefined
    ? database
    : Effect.provideService(database, Interceptor, (driver) => Effect.succeed(withSteps(driver, step)))
}

const tables = `CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent (id) ON DELETE CASCADE);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (10, 1), (20, 2)`

const rebuild = (columns: string) =>
  `CREATE TABLE new_parent (${columns});
INSERT INTO new_parent (id) SELECT id FROM parent;
DROP TABLE parent;
ALTER TABLE new_parent RENAME TO parent`

/** Adds a column, and takes it back: on SQLite by building the table anew, which would delete the children. */
const change = {
  sqlite: {
    rebuild: true,
    up: rebuild("id integer PRIMARY KEY, note text"),
    down: rebuild("id integer PRIMARY KEY")
  },
  postgres: { up: "ALTER TABLE parent ADD COLUMN note text", down: "ALTER TABLE parent DROP COLUMN note" }
}

const optionsFor = (dialect: Database.Service["dialect"], count: number) => {
  const migrations = {
    "0001_tables": tables,
    "0002_change": change[dialect],
    "0003_none": {
      transaction: "none" as const,
      up: "INSERT INTO child VALUES (30, 1); INSERT INTO child VALUES (40, 2)"
    }
  }
  return {
    loader: Migrations.fromRecord(Object.fromEntries(Object.entries(migrations).slice(0, count))),
    progress: () => Effect.void
  }
}

/** What is in the database, in short. */
const stateOf = (database: Database.Service) =>
  Effect.gen(function*() {
    const { applied, problems } = yield* Migrations.status(optionsFor(database.dialect, 3))
    const { sql } = database
    const children = yield* Effect.either(sql`SELECT count(*) AS n FROM child`)
    const parents = yield* Effect.either(sql`SELECT * FROM parent`)
    return [
      `applied ${applied.map(({ id }) => id).join()}`,
      problems.map(({ id, problem }) => `${problem} ${id}`).join(),
      Either.isLeft(children) ? "no tables" : `${Number(children.right[0].n)} children`,
      Either.isRight(parents) && "note" in parents.right[0] ? "changed" : ""
    ].filter((part) => part !== "").join(", ")
  }).pipe(Effect.provideService(Database.Database, database))

interface Case {
  readonly name: string
  readonly prepare: (dialect: Database.Service["dialect"]) => Effect.Effect<unknown, unknown, Database.Database>
  readonly act: (dialect: Database.Service["dialect"]) => Effect.Effect<unknown, unknown, Database.Database>
  /** The states that it may leave, in their order. */
  readonly states: ReadonlyArray<string>
  /** The state in which it cannot be run again. */
  readonly stuck?: string
}

const run = (count: number) => (dialect: Database.Service["dialect"]) => Migrations.run(optionsFor(dialect, count))

const unfinished = "applied 1,2, unfinished 3, 2 children, changed"

const cases: ReadonlyArray<Case> = [
  {
    name: "migrations of every kind",
    prepare: () => Effect.void,
    act: run(3),
    states: [
      "applied , no tables",
      "applied 1, 2 children",
      "applied 1,2, 2 children, changed",
      unfinished,
      "applied 1,2, unfinished 3, 3 children, changed",
      "applied 1,2, unfinished 3, 4 children, changed",
      "applied 1,2,3, 4 children, changed"
    ],
    stuck: "unfinished"
  },
  {
    name: "a baseline",
    prepare: () =>
      Effect.flatMap(
        Database.Database,
        ({ session, sql }) => session(Effect.forEach(tables.split(";"), (text) => sql.unsafe(text), { discard: true }))
      ),
    act: (dialect) => Migrations.baseline(optionsFor(dialect, 2), 2),
    states: ["applied , 2 children", "applied 1,2, 2 children"]
  },
  {
    name: "taking back",
    prepare: run(2),
    act: (dialect) => Migrations.down({ ...optionsFor(dialect, 2), to: 1 }),
    states: ["applied 1,2, 2 children, changed", "applied 1, 2 children"]
  },
  {
    name: "marking an unfinished one",
    prepare: (dialect) =>
      Effect.zipRight(
        run(2)(dialect),
        Effect.ignore(Migrations.run({
          ...optionsFor(dialect, 3),
          loader: Migrations.fromRecord({
            "0001_tables": tables,
            "0002_change": change[dialect],
            "0003_none": { transaction: "none", up: "SELECT nothing" }
          })
        }))
      ),
    act: (dialect) => Migrations.resolve(optionsFor(dialect, 3), 3, "applied"),
    states: [unfinished, "applied 1,2,3, 2 children, changed"],
    stuck: "applied 1,2,3"
  }
]

/** Checks that what a crash has left is one of the states, and that the same leads from there to the last one. */
const check = ({ act, states, stuck }: Case, database: Database.Service, seen: Set<string>) =>
  Effect.gen(function*() {
    const state = yield* stateOf(database)
    assert.include(states, state)
    seen.add(state)
    const again = yield* Effect.exit(Effect.provideService(act(database.dialect), Database.Database, database))
    if (stuck !== undefined && state.includes(stuck)) {
      assert(Exit.isFailure(again))
      assert.strictEqual(yield* stateOf(database), state)
    } else {
      assert(Exit.isSuccess(again))
      assert.strictEqual(yield* stateOf(database), states.at(-1))
    }
  })

describe("a process that is killed at any step leaves the state before or after it, or a named one in between", () => {
  for (const each of cases) {
    it.scopedLive(`${each.name}, on SQLite`, () =>
      Effect.gen(function*() {
        const path = yield* directory
        const filename = Path.join(path, "test.db")
        const images: Array<ReadonlyArray<Buffer>> = []
        let isRecording = false
        /** Keeps the files as a process that is killed now would leave them. */
        const record = Effect.sync(() => {
          const image = [filename, `${filename}-wal`].map((file) => Fs.readFileSync(file))
          if (isRecording && !image.every((content, i) => images.at(-1)?.[i].equals(content))) {
            images.push(image)
          }
        })
        const database = yield* open(`sqlite:///${filename}`, () => record)
        yield* Effect.provideService(each.prepare("sqlite"), Database.Database, database)
        isRecording = true
        yield* record
        yield* Effect.provideService(each.act("sqlite"), Database.Database, database)
        yield* record
        isRecording = false
        const seen = new Set<string>()
        for (const [i, [content, wal]] of images.entries()) {
          const image = Path.join(path, `${i}.db`)
          Fs.writeFileSync(image, content)
          Fs.writeFileSync(`${image}-wal`, wal)
          yield* Effect.scoped(Effect.flatMap(open(`sqlite:///${image}`), (database) => check(each, database, seen)))
        }
        assert.sameMembers(Array.from(seen), Array.from(each.states))
      }))
  }

  for (const each of cases.slice(1)) {
    it.scopedLive(`${each.name}, on PostgreSQL`, () =>
      Effect.gen(function*() {
        const url = yield* postgres.url
        const seen = new Set<string>()
        const database = yield* open(url)
        let isDone = false
        for (let last = 0; !isDone; last++) {
          yield* database.sql`DROP SCHEMA public CASCADE`
          yield* database.sql`CREATE SCHEMA public`
          yield* Effect.provideService(each.prepare("postgres"), Database.Database, database)
          const killed = yield* Deferred.make<void>()
          const connections = new Set<Connection>()
          let count = 0
          /** Ends all connections before the last COMMIT, and goes on with nothing. */
          const step: Step = (connection, property) =>
            Effect.suspend(() => {
              connections.add(connection)
              if (property !== "commit" || count++ < last) {
                return Effect.void
              }
              connections.forEach((each) => each.destroy())
              return Effect.zipRight(Deferred.succeed(killed, undefined), Effect.never)
            })
          const scope = yield* Scope.make()
          const other = yield* Scope.extend(open(url, step), scope)
          const running = yield* Effect.forkDaemon(
            Effect.provideService(each.act("postgres"), Database.Database, other)
          )
          isDone = yield* Effect.raceFirst(
            Effect.as(Deferred.await(killed), false),
            Effect.as(Fiber.join(running), true)
          )
          yield* check(each, database, seen)
        }
        assert.sameMembers(Array.from(seen), Array.from(each.states))
      }))
  }
})
