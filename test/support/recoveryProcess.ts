/**
 * An application whose pool is in use all the time: `recoveryProcess.ts <url> <name> <connections>`. It runs until its standard
 * input ends.
 */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { once } from "node:events"
import * as Database from "../../src/Database.js"

const [, , url, applicationName, connections] = process.argv

const ended = once(process.stdin.resume(), "end")

const application = Effect.gen(function*() {
  const { session, sql } = yield* Database.make({
    environment: "production",
    url,
    applicationName,
    poolSize: Number(connections),
    poolMaxOverflow: 0
  })
  const use = Effect.forever(Effect.ignore(session(sql`SELECT pg_sleep(0.05)`)))
  yield* Effect.forkAll(Array.from({ length: Number(connections) }, () => use))
  yield* Effect.promise(() => ended)
})

await Effect.runPromise(Effect.provide(Effect.scoped(application), Logger.remove(Logger.defaultLogger)))
process.exit()
