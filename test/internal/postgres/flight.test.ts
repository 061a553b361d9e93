import { assert, describe, it } from "@effect/vitest"
import * as Flight from "../../../src/internal/postgres/flight.js"

describe("postgres flight", () => {
  it("keeps no rows once nobody waits for them", () => {
    const column = {
      name: "n",
      tableID: 0,
      columnID: 0,
      dataTypeID: 23,
      dataTypeSize: 4,
      dataTypeModifier: -1,
      format: "text"
    }
    const flight = Flight.simple("SELECT 1 AS n; SELECT 2 AS n", { user: true })
    flight.rowDescription({ fields: [column] })
    flight.dataRow({ fields: ["1"], length: 11 })
    assert.deepStrictEqual(flight.result.rows, [{ n: 1 }])
    flight.commandComplete({ text: "SELECT 1" })
    flight.rowDescription({ fields: [column] })
    assert.strictEqual(flight.results?.length, 2)
    flight.abandon()
    flight.dataRow({ fields: ["2"], length: 11 })
    assert.deepStrictEqual(flight.result.rows, [])
    assert.isUndefined(flight.results)
  })
})
