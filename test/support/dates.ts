/** Stores times in the time zones that it is given, and prints what became of them: run in a process of its own. */
import * as Effect from "effect/Effect"
import * as Database from "../../src/Database.js"

const [url, zones] = process.argv.slice(2)

interface Row {
  readonly epoch: string
  readonly read: Date
  readonly array: ReadonlyArray<Date>
  readonly local: Date
  readonly day: Date
}

const program = Effect.gen(function*() {
  const { sql } = yield* Database.make({ environment: "test", url })
  const store = (time: string) => {
    const date = new Date(time)
    const day = new Date(date)
    day.setHours(0, 0, 0, 0)
    return Effect.map(
      sql<Row>`SELECT extract(epoch FROM ${date}::timestamptz)::float8::text AS epoch, ${date}::timestamptz AS read,
        ${[date]}::timestamptz[] AS array, ${date}::timestamp AS local, ${day}::date AS day`,
      ([row]) => ({
        epoch: row.epoch,
        read: row.read,
        array: row.array,
        local: row.local,
        days: row.day.getTime() - day.getTime()
      })
    )
  }
  const results = yield* Effect.forEach(
    JSON.parse(zones) as Array<[string, Array<string>]>,
    ([zone, times]) =>
      Effect.suspend(() => {
        process.env.TZ = zone
        return Effect.map(Effect.forEach(times, store), (stored) => [zone, stored])
      })
  )
  process.stdout.write(JSON.stringify(results))
})

await Effect.runPromise(Effect.scoped(program))
