/**
 * A price list as CSV: new products are inserted, changed ones updated, all of them or none.
 */
import { SqlClient } from "@effect/sql"
import { Effect, type Stream } from "effect"
import { Database, Migrations } from "sqlayer"

export const migrations = {
  loader: Migrations.fromRecord({
    "0001_create_product": `
      CREATE TABLE product (sku text PRIMARY KEY, name text NOT NULL, cents integer NOT NULL CHECK (cents >= 0))`
  })
}

/**
 * A temporary table of this session. It has no constraints: those of `product` are checked when its rows are copied
 * there.
 */
const createStaging = (sql: SqlClient.SqlClient) =>
  sql.onDialectOrElse({
    pg: () =>
      sql`CREATE TEMPORARY TABLE staging (
        line integer GENERATED ALWAYS AS IDENTITY, sku text, name text, cents integer
      ) ON COMMIT DROP`,
    orElse: () => sql`CREATE TEMPORARY TABLE staging (line integer PRIMARY KEY, sku text, name text, cents integer)`
  })

/**
 * Imports lines of `sku,name,cents` below a header, and returns their number. If several lines have the same SKU, the
 * last one counts.
 *
 * Rows are written in the order of their keys, so that two imports wait for each other and never deadlock. Unchanged
 * rows are not written.
 */
export const importProducts = <E, R>(csv: Stream.Stream<Uint8Array, E, R>) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* createStaging(sql)
    const lines = yield* Database.copyFrom("staging", ["sku", "name", "cents"], { format: "csv", header: true })(csv)
    yield* sql`
      INSERT INTO product (sku, name, cents)
      SELECT sku, name, cents FROM (
        SELECT sku, name, cents, row_number() OVER (PARTITION BY sku ORDER BY line DESC) AS nth FROM staging
      ) AS lines
      WHERE nth = 1
      ORDER BY sku
      ON CONFLICT (sku) DO UPDATE SET name = excluded.name, cents = excluded.cents
      WHERE product.name IS DISTINCT FROM excluded.name OR product.cents IS DISTINCT FROM excluded.cents`
    yield* sql`DROP TABLE staging`
    return lines
  }).pipe(Database.session({ name: "import products" }))
