import * as Effect from "effect/Effect"
import { type Dialect, driverContract } from "../../support/driverContract.js"
import { driver, file } from "./support.js"

const dialect: Omit<Dialect, "driver"> = {
  placeholder: () => "?",
  endless: "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT n FROM numbers",
  failing: "CASE n WHEN 2000 THEN json('{') END",
  leaveTraces: "CREATE TEMPORARY TABLE left_behind (n INTEGER)",
  written: (raw) => (raw as { readonly changes: number }).changes,
  unencodable: { toString: () => "secret-value", secret: "secret-value" }
}

driverContract("sqlite, a file, in a thread of its own", {
  ...dialect,
  driver: Effect.map(file, (filename) => driver(filename))
})

driverContract("sqlite, a file, on the main thread", {
  ...dialect,
  driver: Effect.map(file, (filename) => driver(filename, { thread: "main" })),
  uninterruptible: true
})

driverContract("sqlite, in memory", {
  ...dialect,
  driver: Effect.sync(() => driver(":memory:")),
  single: true,
  uninterruptible: true
})
