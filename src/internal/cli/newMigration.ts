/**
 * `sqlayer migrate new`: creates the file of a migration.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { filesAmong } from "../migrations/files.js"
import { MigrationError } from "../migrations/model.js"

/** How many digits the number of a directory's first migration has. */
const defaultDigits = 4

/** Numbers of this length are times (20260102030405). */
const timestampDigits = 14

const timestamp = (): string => new Date().toISOString().replace(/\D/g, "").slice(0, timestampDigits)

/** The number after the highest one, with as many digits. After a time, it is the current time, if that is later. */
const nextNumber = (labels: ReadonlyArray<string>): string => {
  const numbers = labels.map((label) => /^\d+/.exec(label)![0])
  const highest = numbers.reduce((a, b) => Number(b) > Number(a) ? b : a, "0".repeat(defaultDigits))
  const next = String(Number(highest) + 1).padStart(highest.length, "0")
  const now = timestamp()
  return highest.length === timestampDigits && now > highest ? now : next
}

const failed = (kind: "invalid" | "load", message: string, cause?: unknown): MigrationError =>
  new MigrationError({ kind, message, ...(cause === undefined ? {} : { cause }) })

/** Creates a migration in SQL with the next number, and its directory if that is missing, and returns its path. */
export const create = (directory: string, name: string): Effect.Effect<string, MigrationError> =>
  Effect.gen(function*() {
    const words = name.trim().replace(/\s+/g, "_")
    if (!/^[^./\\]+$/.test(words)) {
      return yield* failed(
        "invalid",
        `${JSON.stringify(name)} is not the name of a migration: a name such as create_account is accepted`
      )
    }
    const path = Path.resolve(directory)
    const attempt = <A>(run: () => Promise<A>) =>
      Effect.tryPromise({
        try: run,
        catch: (error) => failed("load", error instanceof Error ? error.message : String(error), error)
      })
    yield* attempt(() => Fs.mkdir(path, { recursive: true }))
    const files = yield* filesAmong(path, yield* attempt(() => Fs.readdir(path, { withFileTypes: true })))
    const file = Path.join(path, `${nextNumber(files.map(({ label }) => label))}_${words}.sql`)
    yield* attempt(() => Fs.writeFile(file, `-- ${words.replaceAll("_", " ")}\n`, { flag: "wx" }))
    return file
  })
