import { assert, describe, it } from "@effect/vitest"
import * as Exchanges from "../../../src/internal/postgres/exchanges.js"
import { load } from "../../../src/internal/postgres/pg.js"
import { MalformedMessage } from "../../../src/internal/postgres/protocol/messages.js"
import { RowDescription } from "../../../src/internal/postgres/protocol/rowDescription.js"
import { TypeRegistry } from "../../../src/internal/postgres/types/registry.js"

const types = new TypeRegistry({})

assert.isUndefined(await load())

describe("postgres exchange", () => {
  it("drops its rows when it is canceled", () => {
    const columns = new RowDescription([{
      name: "n",
      tableID: 0,
      columnID: 0,
      dataTypeID: 23,
      dataTypeSize: 4,
      dataTypeModifier: -1,
      format: "text"
    }], types)
    const row = (digit: string) => Buffer.from(`\0\u0001\0\0\0\u0001${digit}`)
    const exchange = Exchanges.query("SELECT 1 AS n; SELECT 2 AS n", { user: true })
    exchange.rowDescription(columns)
    exchange.dataRow(row("1"), 0, 7)
    assert.deepStrictEqual(exchange.result.rows, [{ n: 1 }])
    exchange.commandComplete("SELECT 1")
    exchange.rowDescription(columns)
    assert.strictEqual(exchange.results?.length, 2)
    exchange.cancel()
    exchange.dataRow(row("2"), 0, 7)
    assert.deepStrictEqual(exchange.result.rows, [])
    assert.isUndefined(exchange.results)
  })

  it("rejects a row that does not fit its row description", () => {
    const field = { tableID: 0, columnID: 0, dataTypeID: 25, dataTypeSize: -1, dataTypeModifier: -1, format: "text" }
    const columns = new RowDescription([{ ...field, name: "a" }, { ...field, name: "b" }], types)
    const read = (bytes: ReadonlyArray<number>) => columns.readRow(undefined, Buffer.from(bytes), 0, bytes.length)
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
      assert.throws(() => read(wrong), MalformedMessage)
    }
  })
})
