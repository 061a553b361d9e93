import { assert, describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as CommitRaces from "../../support/commitRaces.js"
import { freshDatabase } from "../../support/postgres.js"
import { newSeed } from "../../support/random.js"
import { live } from "./harness.js"

describe("a connection that is closed at any byte around COMMIT", () => {
  for (const commit of ["verified", "recorded"] as const) {
    live(`leaves each ${commit} session done once, or not at all, as it was said`, () =>
      Effect.gen(function*() {
        const seed = newSeed()
        const url = yield* freshDatabase
        const { faults, problems, succeeded, unknown } = yield* CommitRaces.run(url, { commit, seed, times: 60 })
        const message = `TEST_SEED=${seed} repeats it`
        assert.deepStrictEqual(problems, [], message)
        assert.isAbove(faults, 20, message)
        assert.isAbove(succeeded, unknown, message)
      }))
  }
})
