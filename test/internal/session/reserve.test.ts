/** Connections that are reserved with a name, which are meant to be held for long. */
import * as ShardingConfig from "@effect/cluster/ShardingConfig"
import * as SqlRunnerStorage from "@effect/cluster/SqlRunnerStorage"
import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { leakDetectionExempt } from "../../../src/internal/pool/leakDetection.js"
import { Reserved } from "../../../src/internal/session/reserved.js"
import * as Session from "../../../src/Session.js"
import { dialects, layer, make, postgres } from "../../support/dialects.js"
import { live } from "./harness.js"

const isOnPurpose = (connection: unknown): boolean => {
  assert.instanceOf(connection, Reserved)
  return leakDetectionExempt.has(connection.lease)
}

for (const dialect of dialects) {
  describe(`on ${dialect.name}`, () => {
    live(
      "a connection that is reserved with a name is held on purpose, and no other one is",
      () =>
        Effect.gen(function*() {
          const { session, sql } = yield* make(dialect)
          const named = Session.withReserveName("leader")
          const reserved = Effect.scoped(Effect.map(sql.reserve, isOnPurpose))
          assert.isFalse(yield* reserved)
          assert.isTrue(yield* named(reserved))
          assert.isTrue(
            yield* Effect.provide(reserved, Layer.succeed(Session.ReserveName, "leader"))
          )
          // The name is that of the connection in the statistics of what runs there.
          const name = yield* named(
            Effect.scoped(Effect.map(sql.reserve, (connection) => (connection as Reserved).transaction.activity.name))
          )
          assert.strictEqual(name, "leader")
          // A session inside is one like any other.
          assert.deepStrictEqual(yield* named(session(sql`SELECT 1 AS a`)), [{ a: 1 }])
          assert.isFalse(yield* reserved)
        })
    )
  })
}

live(
  "the connection of @effect/cluster's locks is held on purpose where its layer has a name",
  () =>
    Effect.gen(function*() {
      const added: Array<object> = []
      const add = leakDetectionExempt.add.bind(leakDetectionExempt)
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          leakDetectionExempt.add = (lease) => {
            added.push(lease)
            return add(lease)
          }
        }),
        () => Effect.sync(() => Reflect.deleteProperty(leakDetectionExempt, "add"))
      )
      const storage = SqlRunnerStorage.layer.pipe(
        Layer.provide(ShardingConfig.layerDefaults),
        Layer.provide(layer(postgres))
      )
      yield* Effect.scoped(Layer.build(storage))
      assert.lengthOf(added, 0)
      yield* Effect.scoped(Layer.build(Layer.provide(storage, Layer.succeed(Session.ReserveName, "cluster"))))
      assert.lengthOf(added, 1)
    })
)
