import { assert, describe, it } from "@effect/vitest"
import { RowDescription } from "../../../src/internal/postgres/protocol/rowDescription.js"
import * as Flights from "../../../src/internal/postgres/exchanges.js"
import { Malformed } from "../../../src/internal/postgres/protocol/messages.js"

describe("postgres flight", () => {
  it("keeps no rows once nobody waits for them", () => {
    const columns = new RowDescription([{
      name: "n",
      tableID: 0,
      columnID: 0,
      dataTypeID: 23,
      dataTypeSize: 4,
      dataTypeModifier: -1,
      format: "text"
    }])
    const row = (digit: string) => Buffer.from(`\0\u0001\0\0\0\u0001${digit}`)
    const flight = Flights.query("SELECT 1 AS n; SELECT 2 AS n", { user: true })
    flight.described(columns)
    flight.dataRow(row("1"), 0, 7)
    assert.deepStrictEqual(flight.answer.rows, [{ n: 1 }])
    flight.completed("SELECT 1")
    flight.described(columns)
    assert.strictEqual(flight.answers?.length, 2)
    flight.abandon()
    flight.dataRow(row("2"), 0, 7)
    assert.deepStrictEqual(flight.answer.rows, [])
    assert.isUndefined(flight.answers)
  })

  it("takes no row that is not of the columns described", () => {
    const field = { tableID: 0, columnID: 0, dataTypeID: 25, dataTypeSize: -1, dataTypeModifier: -1, format: "text" }
    const columns = new RowDescription([{ ...field, name: "a" }, { ...field, name: "b" }])
    const read = (bytes: ReadonlyArray<number>) => columns.read(undefined, Buffer.from(bytes), 0, bytes.length)
    assert.deepStrictEqual(read([0, 2, 0, 0, 0, 1, 65, 255, 255, 255, 255]), { a: "A", b: null })
    for (
      const wrong of [
        [],
        [0],
        [0, 1, 0, 0, 0, 1, 65],
        [0, 3, 0, 0, 0, 1, 65, 0, 0, 0, 1, 66, 0, 0, 0, 1, 67],
        [0, 2, 0, 0, 0, 1, 65],
        [0, 2, 0, 0, 0, 9, 65, 0, 0, 0, 1, 66],
        [0, 2, 0, 0, 0, 1, 65, 255, 255, 255, 254]
      ]
    ) {
      assert.throws(() => read(wrong), Malformed)
    }
  })
})
