/**
 * Random programs of sessions, judged by a model. MODEL_WITHOUT=streams,races leaves features out, MODEL_SECONDS is how
 * long each database is tried, TEST_SEED the first program's seed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Dialects from "./support/dialects.js"
import { features } from "./support/model/program.js"
import { runModel } from "./support/model/run.js"
import { newSeed } from "./support/random.js"

const seed = newSeed()
const seconds = Number(process.env.MODEL_SECONDS ?? 25)
const without = new Set((process.env.MODEL_WITHOUT ?? "").split(","))

describe("random programs do what the model allows", () => {
  for (const dialect of [Dialects.postgres, Dialects.sqliteFile]) {
    it.live(`on ${dialect.name}, from seed ${seed}`, () =>
      Effect.gen(function*() {
        const { problems, programs } = yield* runModel(dialect, {
          seed,
          millis: seconds * 1_000,
          atLeast: 25,
          features: new Set(features.filter((feature) => !without.has(feature))),
          problems: 3,
          shrinkMillis: 10_000
        })
        assert.deepStrictEqual(problems, [], problems.join("\n\n"))
        assert.isAtLeast(programs, 25)
      }), seconds * 1_000 + 240_000)
  }
})
