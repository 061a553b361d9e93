/** What a server says beside its answers reaches the log, or the application. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as Database from "../../../src/Database.js"
import type * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { freshDatabase, query } from "../../support/postgres.js"

interface Line {
  readonly level: string
  readonly message: string
  readonly code: unknown
  readonly span: string | undefined
}

/** Runs an effect with a logger that collects the lines of every level, and a tracer whose spans are recorded. */
const withLog = <A, E, R>(run: (lines: ReadonlyArray<Line>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const lines: Array<Line> = []
    const logger = Logger.make(({ annotations, context, logLevel, message }) => {
      const span = Option.map(
        Option.fromNullable(
          [...context.locals.values()].map(([[, value]]) =>
            (value as { readonly unsafeMap?: Map<string, Tracer.AnySpan> }).unsafeMap?.get(Tracer.ParentSpan.key)
          ).find((found) => found !== undefined)
        ),
        (found) => found._tag === "Span" ? found.name : "external"
      )
      lines.push({
        level: logLevel.label,
        message: String(message),
        code: Option.getOrUndefined(HashMap.get(annotations, "code")),
        span: Option.getOrUndefined(span)
      })
    })
    return run(lines).pipe(
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Logger.withMinimumLogLevel(LogLevel.All)
    )
  })

const opened = (options: Omit<DatabaseConfig.Options, "url"> = {}) =>
  Effect.gen(function*() {
    const url = yield* freshDatabase
    yield* query(
      url,
      `CREATE FUNCTION say(level text, what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
         IF level = 'INFO' THEN RAISE INFO '% it is', what;
         ELSIF level = 'WARNING' THEN RAISE WARNING '% it is', what USING ERRCODE = '01234';
         ELSE RAISE NOTICE 'note "%"', what; END IF;
         RETURN what; END $$`
    )
    return yield* Database.make({ environment: "test", ...options, url })
  })

describe("postgres notices", () => {
  it.scopedLive("are logged at their level with their code, and without the parameters of the statement", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const { session, sql } = yield* opened()
        yield* sql`SELECT say('NOTICE', 'a')`
        yield* sql`SELECT say('INFO', 'b')`
        yield* session(sql`SELECT say('WARNING', 'c')`)
        yield* sql`SELECT say(${"NOTICE"}, ${"the secret"})`
        yield* Stream.runDrain(sql`SELECT say('NOTICE', 'd')`.stream)
        yield* sql`CREATE TABLE IF NOT EXISTS item (id int)`
        yield* sql`CREATE TABLE IF NOT EXISTS item (id int)`
        const notices = lines.filter(({ code }) => code !== undefined)
        assert.deepStrictEqual(notices.map(({ code, level }) => `${level} ${String(code)}`), [
          "DEBUG 00000",
          "INFO 00000",
          "WARN 01234",
          "DEBUG 00000",
          "DEBUG 00000",
          "DEBUG 42P07"
        ])
        assert.strictEqual(notices[1].message, "INFO: b it is")
        assert.notInclude(JSON.stringify(notices), "secret")
      })
    ))

  it.scopedLive("are logged in the span of their statement", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const { copyTo, sql } = yield* opened()
        const tracer = Tracer.make({
          context: (f) => f(),
          span: (name, parent, context, links, startTime, kind) => ({
            _tag: "Span",
            name,
            spanId: "1",
            traceId: "1",
            parent,
            context,
            links,
            kind,
            sampled: true,
            status: { _tag: "Started", startTime },
            attributes: new Map(),
            end: () => undefined,
            attribute: () => undefined,
            event: () => undefined,
            addLinks: () => undefined
          })
        })
        yield* sql`SELECT say('WARNING', 'a')`.pipe(Effect.withSpan("around"), Effect.withTracer(tracer))
        yield* Stream.runDrain(copyTo("SELECT say('WARNING', 'a')"))
        const notices = lines.filter(({ code }) => code !== undefined)
        assert.deepStrictEqual(notices.map(({ span }) => span), ["SELECT", undefined])
      })
    ))

  it.scopedLive("a statement that raises many reports the first, and how many there were", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const { sql } = yield* opened()
        yield* sql`SELECT say('NOTICE', i::text) FROM generate_series(1, 1000) AS i`
        assert.strictEqual(lines.filter(({ code }) => code !== undefined).length, 100)
        assert.isTrue(lines.some(({ message }) => message.includes("900 more notices")))
      })
    ))

  it.scopedLive("are given to the application where it asks for them, in the statement's fiber and before its result", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const notices: Array<DatabaseConfig.Notice> = []
        const { sql } = yield* opened({
          onNotice: (notice) =>
            notices.length === 1 ? Effect.die("defect") : Effect.sync(() => void notices.push(notice))
        })
        yield* sql`SELECT say('WARNING', ${"a"})`
        assert.strictEqual(notices.length, 1)
        const [{ where, ...notice }] = notices
        assert.include(where, "function say")
        assert.deepStrictEqual(notice, {
          severity: "WARNING",
          code: "01234",
          message: "a it is",
          statement: "SELECT say('WARNING', $1)"
        })
        // What the handler dies of is logged, and the statement has succeeded.
        assert.deepStrictEqual(yield* sql`SELECT say('NOTICE', 'b') AS b`, [{ b: "b" }])
        assert.deepStrictEqual(lines.map(({ message }) => message), ["onNotice has failed"])
      })
    ))
})
