import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { dialects } from "./support/dialects.js"
import { applicable, everywhere } from "./support/everywhere.js"
import { programs } from "./support/programs.js"
import { newSeed } from "./support/random.js"

const seed = newSeed()

for (const dialect of dialects) {
  describe(`interrupted everywhere, on ${dialect.name}`, () => {
    for (const program of programs.filter((program) => applicable(program, dialect))) {
      it.scopedLive(`${program.name} leaves nothing behind`, () =>
        Effect.gen(function*() {
          // A file is opened in a thread of its own, which takes its time.
          const points = program.reopens === true && dialect.name === "sqlite file" ? 1 : 5
          const { interrupted, problems } = yield* everywhere(dialect, program, { seed, points })
          assert.deepStrictEqual(problems, [])
          assert.isAbove(interrupted, points)
        }), 240_000)
    }
  })
}
