import { SqlError } from "@effect/sql/SqlError"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import * as DatabaseError from "../src/DatabaseError.js"

type AnyError = DatabaseError.DatabaseError
type Tag = AnyError["_tag"]

const figures: DatabaseError.PoolFigures = {
  name: "main",
  maximum: 30,
  size: 10,
  overflow: 20,
  idle: 0,
  used: 30,
  waiting: 4
}

const everything: DatabaseError.Fields = {
  dialect: "postgres",
  code: "23505",
  reason: "duplicate key value violates unique constraint \"account_email_key\"",
  detail: "Key (email)=(***) already exists.",
  hint: "Try another.",
  schema: "public",
  table: "account",
  column: "email",
  constraint: "account_email_key",
  statement: "INSERT INTO account (email) VALUES ($1)"
}

const only: DatabaseError.Fields = { dialect: "sqlite", code: "SQLITE_FULL", reason: "database or disk is full" }

const classes = Object.fromEntries(
  DatabaseError.DatabaseError.members.map((member) => [member._tag, member])
) as unknown as { readonly [T in Tag]: new(fields: DatabaseError.Fields) => AnyError }

const make = (tag: Tag, fields: DatabaseError.Fields): AnyError => {
  switch (tag) {
    case "ConnectionFailed":
      return new DatabaseError.ConnectionFailed({ ...fields, transient: true })
    case "PoolTimeout":
      return new DatabaseError.PoolTimeout({ ...fields, stats: figures })
    default:
      return new classes[tag](fields)
  }
}

// Written down from the documentation: what may be tried again.
const retryable: { readonly [T in Tag]: boolean } = {
  ConnectionFailed: true,
  AuthenticationFailed: false,
  ConnectionLost: true,
  PoolTimeout: true,
  DatabaseClosed: false,
  UniqueViolation: false,
  ForeignKeyViolation: false,
  NotNullViolation: false,
  CheckViolation: false,
  ExclusionViolation: false,
  SerializationFailure: true,
  DeadlockDetected: true,
  LockTimeout: true,
  StatementTimeout: false,
  StatementCanceled: false,
  InvalidStatement: false,
  InvalidData: false,
  InsufficientPrivilege: false,
  ReadOnlyViolation: false,
  ResourceExhausted: false,
  DatabaseCorrupt: false,
  TransactionAborted: false,
  CommitOutcomeUnknown: false,
  SessionClosed: false,
  SessionTimeout: false,
  UnknownDatabaseError: false
}

const tags = Object.keys(retryable) as Array<Tag>

describe("every error", () => {
  it("is of the union, and the union is of these", () => {
    assert.deepStrictEqual(DatabaseError.DatabaseError.members.map((member) => member._tag).sort(), [...tags].sort())
    for (const { _tag, identifier } of DatabaseError.DatabaseError.members) {
      assert.strictEqual(identifier, `sqlayer/DatabaseError/${_tag}`)
    }
  })

  it.each(tags)("%s goes over a wire and comes back", (tag) => {
    for (const fields of [everything, only, { ...everything, cause: new RangeError("of something else") }]) {
      const error = make(tag, fields)
      const wire = JSON.parse(JSON.stringify(Schema.encodeSync(DatabaseError.DatabaseError)(error)))
      const back = Schema.decodeUnknownSync(DatabaseError.DatabaseError)(wire)
      assert.strictEqual(back._tag, tag)
      assert.strictEqual(back.constructor, error.constructor)
      assert.strictEqual(back.message, error.message)
      const { cause, ...rest } = Object.fromEntries(Object.entries(error))
      const { cause: causeBack, ...restBack } = Object.fromEntries(Object.entries(back))
      assert.deepStrictEqual(restBack, rest)
      assert.strictEqual(String(causeBack), String(cause))
    }
  })

  it.each(tags)("%s is an Error with its tag as its name", (tag) => {
    const error = make(tag, everything)
    assert.instanceOf(error, Error)
    assert.strictEqual(error._tag, tag)
    assert.strictEqual(error.name, tag)
    assert.strictEqual(String(error), `${tag}: ${error.message}`)
    assert.isTrue(error.stack?.startsWith(`${tag}: ${error.message}\n`))
    assert.isTrue(DatabaseError.isDatabaseError(error))
    assert.isTrue(Schema.is(DatabaseError.DatabaseError)(error))
  })

  it.effect.each(tags)("%s is caught by its tag", (tag) =>
    Effect.gen(function*() {
      const error = make(tag, only)
      const caught = yield* Effect.fail(error).pipe(
        Effect.catchTag(tag, (error) => Effect.succeed(error)),
        Effect.orDie
      )
      assert.strictEqual(caught, error)
    }))

  it.each(tags)("%s is retryable or not", (tag) => {
    assert.strictEqual(DatabaseError.isRetryable(make(tag, only)), retryable[tag])
  })

  it("is equal to one with the same fields", () => {
    const cause = new Error("x")
    assert.isTrue(
      Equal.equals(make("LockTimeout", { ...everything, cause }), make("LockTimeout", { ...everything, cause }))
    )
    assert.isFalse(Equal.equals(make("LockTimeout", everything), make("LockTimeout", only)))
    assert.isFalse(Equal.equals(make("LockTimeout", everything), make("UniqueViolation", everything)))
  })

  it("shows its fields when inspected, printed as JSON and as a Cause", () => {
    const error = make("UniqueViolation", everything)
    const shown = inspect(error)
    for (const value of Object.values(everything)) {
      assert.include(shown, JSON.stringify(value).slice(1, -1).replaceAll("\\\"", "\""))
    }
    assert.deepStrictEqual(JSON.parse(JSON.stringify(error)), { _tag: "UniqueViolation", ...everything })
    assert.include(Cause.pretty(Cause.fail(error)), `UniqueViolation: ${error.message}`)
  })

  it("does not accept a field of the wrong type, unless told to trust", () => {
    const wrong = { ...only, code: 5 } as unknown as DatabaseError.Fields
    assert.throws(() => new DatabaseError.UniqueViolation(wrong), /Expected string, actual 5/)
    assert.doesNotThrow(() => new DatabaseError.UniqueViolation(wrong, { disableValidation: true }))
  })
})

describe("message", () => {
  it("says what happened, the code, and the names that the reason does not", () => {
    assert.strictEqual(
      new DatabaseError.UniqueViolation(everything).message,
      "duplicate key value violates unique constraint \"account_email_key\" " +
        "(23505, table public.account, column email). Key (email)=(***) already exists. Try another."
    )
    assert.strictEqual(
      new DatabaseError.CheckViolation({ ...only, reason: "refused", table: "t", constraint: "c" }).message,
      "refused (SQLITE_FULL, table t, constraint c)"
    )
    assert.strictEqual(
      new DatabaseError.UniqueViolation({ ...only, reason: "UNIQUE constraint failed: t$.a", table: "t$", column: "a" })
        .message,
      "UNIQUE constraint failed: t$.a (SQLITE_FULL)"
    )
    assert.strictEqual(new DatabaseError.ResourceExhausted(only).message, "database or disk is full (SQLITE_FULL)")
  })

  it.each(["table", "column", "constraint", "detail", "hint", "reason"] as const)(
    "is rendered whatever an unchecked %s is, so that a SqlError can always be made of the error",
    (name) => {
      for (const value of [5, {}, null]) {
        const fields = { ...only, reason: "refused", [name]: value } as unknown as DatabaseError.Fields
        const error = new DatabaseError.UniqueViolation(fields, { disableValidation: true })
        assert.isString(error.message)
        assert.strictEqual(DatabaseError.toSqlError(error).cause, error)
      }
    }
  )

  it("of PoolTimeout says the figures", () => {
    const reason = "no connection became free within 30s"
    assert.strictEqual(
      new DatabaseError.PoolTimeout({ ...only, code: "53300", reason, stats: figures }).message,
      `${reason} (53300, pool main: 30 of 30 connections in use, 0 idle, 4 waiting)`
    )
    assert.strictEqual(
      new DatabaseError.PoolTimeout({ ...only, code: "53300", reason }).message,
      `${reason} (53300)`
    )
  })
})

describe("predicates", () => {
  it("isRetryable asks ConnectionFailed itself", () => {
    assert.isTrue(DatabaseError.isRetryable(new DatabaseError.ConnectionFailed({ ...only, transient: true })))
    assert.isFalse(DatabaseError.isRetryable(new DatabaseError.ConnectionFailed({ ...only, transient: false })))
  })

  it("isConnectionError and isConstraintViolation name their tags", () => {
    const tagsOf = (predicate: (error: AnyError) => boolean) => tags.filter((tag) => predicate(make(tag, only)))
    assert.deepStrictEqual(tagsOf(DatabaseError.isConnectionError), [
      "ConnectionFailed",
      "AuthenticationFailed",
      "ConnectionLost"
    ])
    assert.deepStrictEqual(tagsOf(DatabaseError.isConstraintViolation), [
      "UniqueViolation",
      "ForeignKeyViolation",
      "NotNullViolation",
      "CheckViolation",
      "ExclusionViolation"
    ])
  })

  it("isDatabaseError refuses what only looks like one", () => {
    for (
      const other of [undefined, null, "UniqueViolation", new Error("x"), { _tag: "UniqueViolation" }, {
        _tag: "X",
        dialect: "sqlite"
      }]
    ) {
      assert.isFalse(DatabaseError.isDatabaseError(other))
    }
  })
})

describe("SqlError", () => {
  const error = make("UniqueViolation", everything)

  it("holds the DatabaseError, and says what happened", () => {
    const sqlError = DatabaseError.toSqlError(error)
    assert.instanceOf(sqlError, SqlError)
    assert.strictEqual(sqlError.cause, error)
    assert.strictEqual(sqlError.message, `UniqueViolation: ${error.message}`)
    assert.strictEqual(DatabaseError.fromSqlError(sqlError), error)
  })

  it("is looked through, and so are the errors that query builders wrap it in, as far as there is sense in it", () => {
    const wrapped = (times: number): unknown => times === 0 ? error : { cause: wrapped(times - 1) }
    assert.strictEqual(DatabaseError.fromSqlError(new SqlError({ cause: wrapped(8) })), error)
    assert.strictEqual(DatabaseError.fromSqlError(new SqlError({ cause: wrapped(9) }))._tag, "UnknownDatabaseError")
    const circular: { cause?: unknown } = {}
    circular.cause = circular
    assert.strictEqual(DatabaseError.fromSqlError(new SqlError({ cause: circular }))._tag, "UnknownDatabaseError")
  })

  it("of another client keeps its code and its message, and nothing that may hold values", () => {
    const cause = Object.assign(new Error("Key (email)=(s3cr3t-v4lue)"), { code: "23505", detail: "s3cr3t-v4lue" })
    const foreign = DatabaseError.fromSqlError(new SqlError({ cause, message: "Failed to execute statement" }))
    assert.strictEqual(foreign._tag, "UnknownDatabaseError")
    assert.deepStrictEqual([foreign.dialect, foreign.code], ["postgres", "23505"])
    assert.strictEqual(foreign.message, "Failed to execute statement (23505)")
    assert.notInclude(inspect(foreign, { depth: Infinity, showHidden: true }), "s3cr3t-v4lue")

    const sqlite = DatabaseError.fromSqlError(new SqlError({ cause: { code: "SQLITE_BUSY" }, message: "Failed" }))
    assert.deepStrictEqual([sqlite.dialect, sqlite.code], ["sqlite", "SQLITE_BUSY"])
    const nothing = DatabaseError.fromSqlError(new SqlError({}))
    assert.strictEqual(nothing.message, "a statement failed (XX000)")
  })

  it.effect("becomes the DatabaseError in `typed`, and other errors stay", () =>
    Effect.gen(function*() {
      const failed = yield* Effect.exit(DatabaseError.typed(Effect.fail(DatabaseError.toSqlError(error))))
      assert.deepStrictEqual(failed, Exit.fail(error))
      const other: Effect.Effect<never, "other" | AnyError> = DatabaseError.typed(
        Effect.fail<"other" | SqlError>("other")
      )
      assert.strictEqual(yield* Effect.flip(other), "other")
      assert.strictEqual(yield* DatabaseError.typed(Effect.succeed(1)), 1)
      const caught = yield* DatabaseError.typed(Effect.fail(DatabaseError.toSqlError(error))).pipe(
        Effect.catchTag("UniqueViolation", ({ constraint }) => Effect.succeed(constraint))
      )
      assert.strictEqual(caught, "account_email_key")
    }))
})
