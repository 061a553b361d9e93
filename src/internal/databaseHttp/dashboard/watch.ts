/**
 * Watches a database for the dashboard: keeps the last minutes, and looks after its health while somebody asks.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { randomUUID } from "node:crypto"
import type { Service } from "../../../Database.js"
import { type Data, type Health, healthOf, type History, nowOf, type Sample, sampleOf } from "./data.js"

const interval = Duration.seconds(1)
/** Five minutes. */
const kept = 300
/** Between one check of the health and the next. An answer that is much older than this says nothing. */
const healthInterval = Duration.seconds(5)
const staleHealth = Duration.toMillis(Duration.times(healthInterval, 3))

/**
 * The last samples, numbered. A cursor names the history and its last sample, so that one from before a restart, or
 * from another process behind the same address, is answered with everything.
 */
class Ring {
  readonly #name = randomUUID()
  readonly #samples: Array<Sample> = []
  #added = 0

  add(sample: Sample): void {
    this.#samples.push(sample)
    this.#added += 1
    if (this.#samples.length > kept) {
      this.#samples.shift()
    }
  }

  since(cursor: string): History {
    const [name, number] = cursor.split(".")
    const missing = this.#added - Number(number)
    const complete = name !== this.#name || !(missing >= 0 && missing <= this.#samples.length)
    return {
      cursor: `${this.#name}.${this.#added}`,
      complete,
      samples: complete ? this.#samples : this.#samples.slice(this.#samples.length - missing)
    }
  }
}

/**
 * Starts to watch, until the scope closes. Gives what answers the page, which hands in the cursor of its last answer, or
 * the empty string.
 */
export const watch = (database: Service): Effect.Effect<(cursor: string) => Effect.Effect<Data>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const ring = new Ring()
    let health: Health | undefined = undefined
    const asked = yield* Effect.makeLatch()

    const sample = Effect.zipWith(
      Clock.currentTimeMillis,
      Effect.zip(database.poolStats, database.activity),
      (time, [pool, activity]) => ring.add(sampleOf(time, pool, activity))
    )
    yield* Effect.forkScoped(Effect.repeat(sample, Schedule.fixed(interval)))

    const check = Effect.gen(function*() {
      yield* asked.await
      yield* asked.close
      const report = yield* database.report
      health = healthOf(yield* Clock.currentTimeMillis, report)
      yield* Effect.sleep(healthInterval)
    })
    yield* Effect.forkScoped(Effect.forever(check))

    return (cursor) =>
      Effect.gen(function*() {
        yield* asked.open
        const time = yield* Clock.currentTimeMillis
        return {
          time,
          dialect: database.dialect,
          interval: Duration.toSeconds(interval),
          kept,
          history: ring.since(cursor),
          health: health !== undefined && time - health.checked < staleHealth ? health : undefined,
          ...nowOf(yield* database.poolStats, yield* database.activity)
        }
      })
  })
