/**
 * Large and hostile values that a database refuses and quotes: the statement fails by type, and nobody sees them.
 */
import { SqlError } from "@effect/sql/SqlError"
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Inspectable from "effect/Inspectable"
import * as Logger from "effect/Logger"
import type * as Database from "../../src/Database.js"
import { fromSqlError, isDatabaseError } from "../../src/DatabaseError.js"
import { open } from "./clients.js"

const secret = "S3cr3t.V4lue/"

/** A value of so many characters. */
const valueOf = (length: number): string => secret.repeat(Math.ceil(length / secret.length)).slice(0, length)

/** Everything that an error or a log entry shows. */
const shown = (value: unknown): string =>
  [
    Inspectable.toStringUnknown(value),
    String(value),
    value instanceof Error ? `${value.stack} ${value.message} ${JSON.stringify(Object.entries(value))}` : ""
  ].join("\n")

const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) {
    return "success"
  }
  const { cause } = exit
  if (cause._tag !== "Fail") {
    return cause._tag
  }
  const error = cause.error
  return error instanceof SqlError ? fromSqlError(error)._tag : isDatabaseError(error) ? error._tag : "another error"
}

/** Runs statements outside of sessions, inside one, and at once; the pool of one connection is intact after each. */
const refused = (
  db: Database.Service,
  statement: Effect.Effect<unknown, SqlError>,
  expected: string,
  logged: Array<string> = []
) =>
  Effect.gen(function*() {
    const alone = yield* Effect.exit(statement).pipe(Effect.timeout("5 seconds"))
    const inSession = yield* Effect.exit(db.session(statement)).pipe(Effect.timeout("5 seconds"))
    const sibling = yield* Effect.exit(db.session(
      Effect.all([Effect.exit(statement), Effect.exit(db.sql`SELECT 1`)], { concurrency: "unbounded" })
    )).pipe(Effect.timeout("5 seconds"))
    const { used, waiting } = yield* db.poolStats
    assert.deepStrictEqual([used, waiting], [0, 0])
    assert.lengthOf(yield* db.sql`SELECT 1`, 1)
    assert.deepStrictEqual([tagOf(alone), tagOf(inSession), tagOf(sibling)], [expected, expected, "TransactionAborted"])
    for (const text of [shown(alone), shown(inSession), shown(sibling), ...logged]) {
      assert.notInclude(text, secret)
    }
  }).pipe(Effect.provide(Logger.replace(
    Logger.defaultLogger,
    Logger.make((entry) => logged.push(shown(entry.message), shown(entry.cause), shown(entry.annotations)))
  )))

const options = { poolSize: 1, poolMaxOverflow: 0 }

for (const length of [100, 13_000, 1_000_000]) {
  it.scopedLive(`PostgreSQL refuses a value of ${length} characters`, () =>
    Effect.gen(function*() {
      const db = yield* open("postgres", options)
      const { sql } = db
      yield* sql`CREATE TYPE mood AS ENUM ('good')`
      yield* sql`CREATE TABLE places (id integer, key uuid, mood mood)`
      yield* sql.unsafe(
        `CREATE FUNCTION refuse(form text, value text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
          RAISE EXCEPTION USING MESSAGE = format(form, value), DETAIL = format('Key (a)=(%s) exists.', value),
            HINT = format('not %s', value);
        END $$`
      )
      const value = valueOf(length)
      yield* refused(db, sql`SELECT * FROM places WHERE id = ${value}`, "InvalidData")
      yield* refused(db, sql`SELECT * FROM places WHERE key = ${value}`, "InvalidData")
      yield* refused(db, sql`SELECT * FROM places WHERE mood = ${value}`, "InvalidData")
      for (const form of ["bad %s", "bad \"%s\" here", "bad '%s"]) {
        yield* refused(db, sql`SELECT refuse(${form}, ${value})`, "UnknownDatabaseError")
      }
    }), 240_000)

  it.scopedLive(`a SQLite file refuses a value of ${length} characters`, () =>
    Effect.gen(function*() {
      const db = yield* open("sqlite", options)
      const { sql } = db
      yield* sql`CREATE TABLE places (name TEXT)`
      yield* sql.unsafe(
        `CREATE TRIGGER refuse BEFORE INSERT ON places BEGIN
          SELECT RAISE(ABORT, 'bad "' || NEW.name || '" or ' || NEW.name);
        END`
      )
      yield* refused(db, sql`INSERT INTO places (name) VALUES (${valueOf(length)})`, "CheckViolation")
    }), 240_000)
}

it.scopedLive("PostgreSQL refuses objects that cannot be looked at a second time", () =>
  Effect.gen(function*() {
    const db = yield* open("postgres", options)
    const { sql } = db
    yield* sql`CREATE TABLE places (id integer)`
    const once = (text: string): object => {
      let calls = 0
      return {
        get text() {
          if (++calls > 1) {
            throw new Error(text)
          }
          return text
        }
      }
    }
    const json = (text: string): object => {
      let calls = 0
      return {
        toJSON: () => {
          if (++calls > 1) {
            throw new Error(text)
          }
          return { text }
        }
      }
    }
    for (const make of [once, json]) {
      yield* refused(
        db,
        Effect.suspend(() => sql`SELECT * FROM places WHERE id = ${make(valueOf(20)) as never}`),
        "InvalidData"
      )
    }
  }), 240_000)
