import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import { bare, node } from "./support/bare.js"

// Processes take their time to start where others compete for it.
vi.setConfig({ testTimeout: 240_000 })

it.scopedLive("the barrel needs no package that is optional", () =>
  Effect.gen(function*() {
    const program = "import('./src/index.ts').then((modules) => console.log(Object.keys(modules).length))"
    const { status, stderr, stdout } = yield* node(yield* bare, "--eval", program)
    assert.strictEqual(stderr, "")
    assert.isAbove(Number(stdout), 5)
    assert.strictEqual(status, 0)
  }))
