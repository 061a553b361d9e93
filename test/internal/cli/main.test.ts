import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import { bare, node } from "../../support/bare.js"

// Processes take their time to start where others compete for it.
vi.setConfig({ testTimeout: 240_000 })

describe("sqlayer", () => {
  it.scopedLive("names the packages that it needs in one line where they are not installed", () =>
    Effect.gen(function*() {
      const { status, stderr, stdout } = yield* node(yield* bare, "src/internal/cli/main.ts", "check")
      assert.strictEqual(stdout, "")
      assert.strictEqual(
        stderr,
        "sqlayer: the command line needs packages that are not installed: " +
          "npm install @effect/cli@0 @effect/platform-node@0 (Cannot find package '@effect/cli')\n"
      )
      assert.strictEqual(status, 1)
    }))
})
