/**
 * Watches a database for the dashboard: keeps samples of the last minutes, and asks the database while a page is open.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { randomUUID } from "node:crypto"
import type { Service } from "../../../Database.js"
import type * as Migrations from "../../../Migrations.js"
import { openDatabases } from "../../database/opened.js"
import { type Data, type Details, type Health, healthOf, type History, nowOf, type Sample, sampleOf } from "./data.js"
import { Look } from "./look.js"
import { processSettings, settingsOf } from "./settings.js"

const interval = Duration.seconds(1)
/** How many samples are kept: those of five minutes. */
const kept = 300
/** The time between two health checks. */
const healthInterval = Duration.seconds(5)
/** The maximum age of a result that is shown. */
const maxHealthAge = Duration.toMillis(Duration.times(healthInterval, 3))

/** What is known of sessions of a database that was not opened by sqlayer. */
const noDetails: Details = () => ({ isCommitting: false, wait: undefined })

/**
 * The last samples. A cursor is the name of this history and the number of samples that were added to it, followed by the
 * version of what was asked of the database. So a cursor from before a restart, or from another process behind the same
 * address, gets all of it.
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

  /** Whether a cursor is one of this history, and of a version. */
  hasVersion(cursor: string, version: number): boolean {
    const [name, , known] = cursor.split(".")
    return name === this.name && known === String(version)
  }

  since(cursor: string, version: number): History {
    const [name, number] = cursor.split(".")
    const missing = this.added - Number(number)
    const complete = name !== this.name || !(missing >= 0 && missing <= this.samples.length)
    return {
      cursor: `${this.name}.${this.added}.${version}`,
      complete,
      samples: complete ? this.samples : this.samples.slice(this.samples.length - missing)
    }
  }
}

/** What the page is to show. */
export interface WatchOptions {
  /** Whether plans of statements can be asked for. */
  readonly explains: boolean
  /** The migrations, if the application provides them. */
  readonly migrations: Migrations.Service | undefined
}

/**
 * Watches until the scope closes. Returns a function that makes the response to a request of the page, from the cursor of
 * its previous response or the empty string.
 */
export const watch = (
  database: Service,
  { explains, migrations }: WatchOptions
): Effect.Effect<(cursor: string) => Effect.Effect<Data>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const open = openDatabases.get(database.sql)
    const look = open === undefined ? undefined : new Look(database, open, migrations)
    const settings = [...(open === undefined ? [] : settingsOf(open)), ...processSettings()]
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

    if (look !== undefined) {
      yield* look.run
    }

    return (cursor) =>
      Effect.gen(function*() {
        yield* requested.open
        yield* look?.request ?? Effect.void
        const version = look?.version ?? 0
        const isKnown = samples.hasVersion(cursor, version)
        const time = yield* Clock.currentTimeMillis
        return {
          time,
          dialect: database.dialect,
          interval: Duration.toSeconds(interval),
          kept,
          history: samples.since(cursor, version),
          health: health !== undefined && time - health.checked < maxHealthAge ? health : undefined,
          explains,
          examined: isKnown ? undefined : look?.examined,
          settings: isKnown ? undefined : settings,
          process: { uptime: process.uptime(), memory: process.memoryUsage.rss() },
          ...nowOf(yield* database.poolStats, yield* database.activity, look?.details() ?? noDetails)
        }
      })
  })
