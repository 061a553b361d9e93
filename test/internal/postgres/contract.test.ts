import * as Effect from "effect/Effect"
import { driverContract } from "../../support/driverContract.js"
import { freshDatabase } from "../../support/postgres.js"
import { driver } from "./harness.js"

driverContract("postgres", {
  driver: Effect.map(freshDatabase, (url) => driver(url)),
  placeholder: (n) => `$${n}`,
  endless: "SELECT pg_sleep(600)",
  failing: "1 / (n - 2000)",
  leaveTraces: "SET work_mem = '5MB'",
  written: (raw) => (raw as { readonly rowCount: number }).rowCount,
  unencodable: {
    toJSON: () => {
      throw new Error("secret-value")
    }
  }
})
