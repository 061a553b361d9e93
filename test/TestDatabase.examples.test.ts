// The examples of docs/testing.md.
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiClient from "@effect/platform/HttpApiClient"
import { assert, describe, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TestServices from "effect/TestServices"
import { TestDatabase } from "sqlayer"
import * as Members from "../docs/examples/testing/members.js"
import { url } from "./support/postgres.js"

const { migrations } = Members

describe("members", () => {
  it.effect("are unique", () =>
    Effect.gen(function*() {
      yield* Members.add("ada@example.com")
      const error = yield* Effect.flip(Members.add("ada@example.com"))
      assert.strictEqual(error._tag, "EmailTaken")
      assert.deepStrictEqual(yield* Members.list, [{ email: "ada@example.com", points: 0 }])
    }).pipe(Effect.provide(TestDatabase.layer({ migrations }))))
})

const databases = {
  SQLite: TestDatabase.layer({ migrations }),
  PostgreSQL: Layer.suspend(() => TestDatabase.layerPostgres({ url: url(), migrations }))
}

for (const [name, database] of Object.entries(databases)) {
  it.layer(database)(`members on ${name}`, (it) => {
    it.effect("have no points in the beginning", () =>
      Effect.gen(function*() {
        yield* Members.add("ada@example.com")
        assert.deepStrictEqual(yield* Members.list, [{ email: "ada@example.com", points: 0 }])
      }).pipe(Effect.provide(TestDatabase.sandbox)))

    it.effect("get points", () =>
      Effect.gen(function*() {
        yield* Members.add("ada@example.com")
        yield* Members.reward("ada@example.com", 5)
        assert.deepStrictEqual(yield* Members.list, [{ email: "ada@example.com", points: 5 }])
      }).pipe(Effect.provide(TestDatabase.sandbox)))
  })
}

const ClubTest = HttpApiBuilder.serve().pipe(
  Layer.provide(Members.ClubLive),
  Layer.provideMerge(NodeHttpServer.layerTest),
  Layer.provide(TestDatabase.sandbox)
)

it.layer(TestDatabase.layer({ migrations }))("the API of the club", (it) => {
  it.scoped("says that an address is taken", () =>
    Effect.gen(function*() {
      const client = yield* HttpApiClient.make(Members.ClubApi)
      yield* client.members.add({ payload: { email: "ada@example.com" } })
      const error = yield* Effect.flip(client.members.add({ payload: { email: "ada@example.com" } }))
      assert.strictEqual(error._tag, "EmailTaken")
      assert.deepStrictEqual(yield* client.members.list(), [{ email: "ada@example.com", points: 0 }])
    }).pipe(Effect.provide(ClubTest)))
})

const unlucky = TestDatabase.sandbox.pipe(Layer.provide(TestDatabase.faults([
  { on: "statement", matching: /UPDATE member/, error: TestDatabase.error("DeadlockDetected") },
  { on: "commit", nth: 2, error: TestDatabase.error("SerializationFailure") }
])))

// Without the TestClock, so that the pauses between the attempts pass in real time.
layer(TestDatabase.layer({ migrations }), { excludeTestServices: true })("a reward", (it) => {
  it.effect("is given once, however often it takes", () =>
    Effect.gen(function*() {
      yield* Members.add("ada@example.com")
      yield* Members.reward("ada@example.com", 5)
      assert.deepStrictEqual(yield* Members.list, [{ email: "ada@example.com", points: 5 }])
    }).pipe(Effect.provide(unlucky)))
})

it.layer(TestDatabase.layer({ migrations }))("a patient member", (it) => {
  it.effect("is rewarded in real time", () =>
    Effect.gen(function*() {
      yield* Members.add("ada@example.com")
      yield* Members.reward("ada@example.com", 5)
      assert.deepStrictEqual(yield* Members.list, [{ email: "ada@example.com", points: 5 }])
    }).pipe(Effect.provide(unlucky), TestServices.provideLive))
})
