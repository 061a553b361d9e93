/** Which connections the dashboard asks on. */
import * as SqlClient from "@effect/sql/SqlClient"
import { describe } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { assert } from "vitest"
import { openDatabases } from "../../../src/internal/database/opened.js"
import { make } from "../../../src/internal/databaseHttp/dashboard/examiner.js"
import { on } from "../clients.js"

describe("the examiners of a pool", () => {
  on("postgres")(
    "leave one of its connections to the application",
    ({ poolStats, sql }) =>
      Effect.gen(function*() {
        const open = openDatabases.get(yield* SqlClient.SqlClient)!
        yield* Effect.scoped(Effect.zip(sql.reserve, sql.reserve))
        assert.strictEqual((yield* poolStats).idle, 2)
        const [one, two] = yield* Effect.all([make(open), make(open)])
        const used = Effect.map(poolStats, ({ used }) => used)
        const seen = yield* one((first) =>
          Effect.flatMap(used, (before) =>
            two((second) => Effect.map(used, (after) => [before, after, first === second])))
        )
        assert.deepStrictEqual(seen, [1, 1, false])
        assert.deepStrictEqual(yield* sql<{ n: number }>`SELECT 1 AS n`, [{ n: 1 }])
      }),
    { poolSize: 2, poolMaxOverflow: 0 }
  )
})
