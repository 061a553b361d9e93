import { assert, it } from "@effect/vitest"
import * as Fs from "node:fs"
import { generate, target } from "../../tools/dashboard.js"

it("the script of the dashboard is the one in its modules: node --import tsx test/tools/dashboard.ts", () => {
  assert.strictEqual(Fs.readFileSync(target, "utf8"), generate())
})
