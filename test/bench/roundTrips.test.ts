/**
 * What a unit of work costs where the network is slow: how often it waits for the server.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Database from "../../src/Database.js"
import type { DatabaseError } from "../../src/DatabaseError.js"
import type * as Session from "../../src/Session.js"
import { freshDatabase, query } from "../support/postgres.js"
import { type Proxy, proxy } from "../support/proxy.js"
import { tripsOf } from "../support/roundTrips.js"
import { crowded, fibers } from "./crowd.js"

const costs = (
  name: string,
  expected: number,
  work: (database: Database.Service) => Effect.Effect<unknown, DatabaseError | SqlError>
) =>
  it.live(`${name}: ${expected}`, () =>
    Effect.scoped(Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, "CREATE TABLE account (id int PRIMARY KEY, balance int); INSERT INTO account VALUES (1, 0)")
      const between = yield* proxy(url)
      const database = yield* Database.make({ url: between.url, poolSize: 1, poolMaxOverflow: 0 })
      const trips = yield* tripsOf(between)
      const unit = work(database)
      // What is sent but once, as for a statement's first use, is not the unit's.
      yield* Effect.repeatN(unit, 9)
      for (let again = 0; again < 5; again++) {
        const before = trips()
        yield* unit
        assert.strictEqual(trips() - before, expected)
      }
    })))

/** Of each connection, how often the client has spoken after it was spoken to. */
const tripsOfEach = (between: Proxy) => {
  let trips = 0
  const waiting = new Set<number>()
  return Effect.as(
    Effect.zip(
      between.onClientData((_, { id }) => {
        trips += waiting.has(id) ? 0 : 1
        waiting.add(id)
        return "pass"
      }),
      between.onServerData((_, { id }) => {
        waiting.delete(id)
        return "pass"
      })
    ),
    () => trips
  )
}

/** Nearly as many as without a crowd: connections that the crowd opens late send more. */
const crowdCosts = (
  name: string,
  expected: number,
  work: (database: Database.Service) => Effect.Effect<unknown, DatabaseError | SqlError>
) =>
  it.live(`${name}, where ${fibers} fibers share ten connections: ${expected}`, () =>
    Effect.scoped(Effect.gen(function*() {
      const url = yield* freshDatabase
      yield* query(url, "CREATE TABLE account (id int PRIMARY KEY, balance int); INSERT INTO account VALUES (1, 0)")
      const between = yield* proxy(url)
      const database = yield* Database.make({ url: between.url, poolSize: 10, poolMaxOverflow: 0 })
      const trips = yield* tripsOfEach(between)
      const unit = work(database)
      yield* crowded(unit, 10)
      const before = trips()
      yield* crowded(unit, 10)
      const each = (trips() - before) / (fibers * 10)
      assert.closeTo(each, expected, 0.1)
    })))

const read = ({ sql }: Database.Service) => sql`SELECT balance FROM account WHERE id = ${1}`
const select = ({ sql }: Database.Service) => sql`SELECT balance FROM account WHERE id = ${1} FOR UPDATE`
const update = ({ sql }: Database.Service) => sql`UPDATE account SET balance = balance + ${1} WHERE id = ${1}`

const both = (options: Session.Options = {}) => (database: Database.Service) =>
  database.session(Effect.zipRight(select(database), update(database)), options)

describe("round trips", () => {
  costs("a statement", 1, select)
  costs("a session of one statement", 2, (database) => database.session(update(database)))
  costs("a session of two statements", 3, both())
  costs("a session of five statements", 6, (database) => database.session(Effect.repeatN(update(database), 4)))
  costs("a session that runs nothing", 0, (database) => database.session(Effect.void))
  costs(
    "an isolation and limits",
    3,
    both({ isolation: "serializable", statementTimeout: "5 seconds", timeout: "5 seconds" })
  )
  costs("a verified commit", 3, both({ commit: "verified" }))
  costs(
    "a session in a session",
    3,
    (database) => database.session(Effect.zipRight(select(database), database.session(update(database))))
  )
  costs(
    "a session in a session, and a statement after it",
    4,
    (database) => database.session(Effect.zipRight(both()(database), update(database)))
  )
  costs(
    "a session in a session, neither of which runs anything",
    0,
    (database) => database.session(database.session(Effect.void))
  )
  costs(
    "a session that rolls back",
    2,
    (database) => Effect.ignore(database.session(Effect.zipRight(select(database), Effect.fail("no" as const))))
  )
  crowdCosts("a statement", 1, read)
  crowdCosts(
    "a session of two statements",
    3,
    (database) => database.session(Effect.zipRight(read(database), read(database)))
  )
})
