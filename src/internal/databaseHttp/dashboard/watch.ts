/**
 * Watches a database for the dashboard: keeps samples of the last minutes, and checks its health while a page is open.
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
/** How many samples are kept: those of five minutes. */
const kept = 300
/** The time between two health checks. */
const healthInterval = Duration.seconds(5)
/** The maximum age of a result that is shown. */
const maxHealthAge = Duration.toMillis(Duration.times(healthInterval, 3))

/**
 * The last samples. A cursor is the name of this history and the number of samples that were added to it. So a cursor from
 * before a restart, or from another process behind the same address, gets all samples.
 */
class SampleHistory {
  private readonly name = randomUUID()
  private readonly samples: Array<Sample> = []
  private added = 0

  add(sample: Sample): void {
    this.samples.push(sample)
    this.added += 1
    if (this.samples.length > kept) {
      this.samples.shift()
    }
  }

  since(cursor: string): History {
    const [name, number] = cursor.split(".")
    const missing = this.added - Number(number)
    const complete = name !== this.name || !(missing >= 0 && missing <= this.samples.length)
    return {
      cursor: `${this.name}.${this.added}`,
      complete,
      samples: complete ? this.samples : this.samples.slice(this.samples.length - missing)
    }
  }
}

/**
 * Watches until the scope closes. Returns a function that makes the response to a request of the page, from the cursor of
 * its previous response or the empty string.
 */
export const watch = (database: Service): Effect.Effect<(cursor: string) => Effect.Effect<Data>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const samples = new SampleHistory()
    let health: Health | undefined = undefined
    const requested = yield* Effect.makeLatch()

    const sample = Effect.zipWith(
      Clock.currentTimeMillis,
      Effect.zip(database.poolStats, database.activity),
      (time, [pool, activity]) => samples.add(sampleOf(time, pool, activity))
    )
    yield* Effect.forkScoped(Effect.repeat(sample, Schedule.fixed(interval)))

    const check = Effect.gen(function*() {
      yield* requested.await
      yield* requested.close
      const report = yield* database.report
      health = healthOf(yield* Clock.currentTimeMillis, report)
      yield* Effect.sleep(healthInterval)
    })
    yield* Effect.forkScoped(Effect.forever(check))

    return (cursor) =>
      Effect.gen(function*() {
        yield* requested.open
        const time = yield* Clock.currentTimeMillis
        return {
          time,
          dialect: database.dialect,
          interval: Duration.toSeconds(interval),
          kept,
          history: samples.since(cursor),
          health: health !== undefined && time - health.checked < maxHealthAge ? health : undefined,
          ...nowOf(yield* database.poolStats, yield* database.activity)
        }
      })
  })
