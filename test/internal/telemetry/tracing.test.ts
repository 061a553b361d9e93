/** The spans of statements and sessions: what they take, and what becomes of them when something else fails. */
import * as Statement from "@effect/sql/Statement"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import * as Database from "../../../src/Database.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { Interceptor } from "../../../src/internal/driver.js"
import { changedConnections } from "../../support/changedConnections.js"

const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

interface Recorded {
  readonly tracer: Tracer.Tracer
  readonly spans: Array<Tracer.Span>
  /** The steps of fibers that the tracer was around. */
  steps: number
}

/** A tracer that records. `change` may replace what a span has. */
const recording = (change: (span: Tracer.Span) => object = () => ({})): Recorded => {
  const recorded: Recorded = {
    steps: 0,
    spans: [],
    tracer: Tracer.make({
      span: (...args) => {
        const span = native.span(...args)
        Object.assign(span, change(span))
        recorded.spans.push(span)
        return span
      },
      context: (f) => {
        recorded.steps++
        return f()
      }
    })
  }
  return recorded
}

const open = (change: (connection: object) => object = () => ({})) =>
  Effect.provideService(
    Database.make({ url: ":memory:", environment: "test" }),
    Interceptor,
    (driver) => Effect.succeed(changedConnections(driver, change))
  )

const endOf = ({ status }: Tracer.Span): Exit.Exit<unknown, unknown> | undefined =>
  status._tag === "Ended" ? status.exit : undefined

const currentSpan = Effect.map(Effect.option(Effect.currentSpan), Option.getOrUndefined)

describe("spans of statements and sessions", () => {
  it.scopedLive("add few steps to the fiber, and few to a session", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      const select = Effect.suspend(() => sql`SELECT 1 AS n`)
      const stepsOf = (unit: Effect.Effect<unknown, unknown>) =>
        Effect.gen(function*() {
          yield* unit
          const traced = recording()
          yield* unit.pipe(Effect.withTracerEnabled(true), Effect.withTracer(traced.tracer))
          const untraced = recording()
          yield* unit.pipe(Effect.withTracerEnabled(false), Effect.withTracer(untraced.tracer))
          return { added: traced.steps - untraced.steps, spans: traced.spans.length }
        })
      const statement = yield* stepsOf(select)
      const both = yield* stepsOf(session(Effect.zipRight(select, select)))
      assert.strictEqual(statement.spans, 1)
      assert.strictEqual(both.spans, 3)
      assert.isAtMost(statement.added, 20)
      assert.isAtMost(both.added, 50)
    }))

  it.scopedLive("that the sampler has dropped get no attributes and no events, and are the parents of what is in them", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      const recorded = recording(() => ({ sampled: false }))
      const inner = yield* Effect.withTracer(
        session(Effect.zipRight(sql`SELECT 1 AS n`, Effect.withSpan(Effect.currentSpan, "inner")), { name: "named" }),
        recorded.tracer
      )
      const [outer, statement] = recorded.spans
      assert.strictEqual(Option.getOrUndefined(inner.parent), outer)
      assert.strictEqual(Option.getOrUndefined(statement.parent), outer)
      for (const { attributes, events } of [outer, statement] as Array<Tracer.Span & { events: Array<unknown> }>) {
        assert.deepStrictEqual([...attributes.keys()], [])
        assert.deepStrictEqual(events, [])
      }
      assert.deepStrictEqual(recorded.spans.map((span) => Exit.isSuccess(endOf(span)!)), [true, true, true])
    }))

  it.scopedLive("that are not sampled but recorded by OpenTelemetry get their attributes", () =>
    Effect.gen(function*() {
      const { sql } = yield* open()
      const recorded = recording(() => ({ sampled: false, span: { isRecording: () => true } }))
      yield* Effect.withTracer(sql`SELECT 1 AS n`, recorded.tracer)
      assert.strictEqual(recorded.spans[0].attributes.get("db.query.text"), "SELECT 1 AS n")
    }))

  it.scopedLive("end with the statement that is interrupted, and those of its session with that", () =>
    Effect.gen(function*() {
      let started = () => {}
      const isRunning = new Promise<void>((resolve) => {
        started = resolve
      })
      const { session, sql } = yield* open(() => ({
        execute: () => Effect.zipRight(Effect.sync(() => started()), Effect.never)
      }))
      const recorded = recording()
      const fiber = yield* Effect.fork(Effect.withTracer(session(sql`SELECT 1 AS n`), recorded.tracer))
      yield* Effect.promise(() => isRunning)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(recorded.spans.map(({ name }) => name), ["sql.transaction", "SELECT"])
      for (const span of recorded.spans) {
        const exit = endOf(span)!
        assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause), span.name)
        assert.strictEqual(span.attributes.get("error.type"), "interrupted")
      }
    }))

  it.scopedLive("are current in the statement only, whether it succeeds, fails or is interrupted", () =>
    Effect.gen(function*() {
      const inside: Array<string | undefined> = []
      let result: Effect.Effect<ReadonlyArray<unknown>, DatabaseError> = Effect.succeed([])
      const { session, sql } = yield* open(() => ({
        execute: () =>
          Effect.flatMap(currentSpan, (span) => {
            inside.push(span?.name)
            return result
          })
      }))
      const recorded = recording()
      const run = (statement: Effect.Effect<unknown, unknown>) =>
        Effect.gen(function*() {
          yield* Effect.exit(statement)
          return (yield* currentSpan)?.name
        }).pipe(Effect.withSpan("around"), Effect.withTracer(recorded.tracer))
      assert.strictEqual(yield* run(sql`SELECT 1`), "around")
      result = Effect.fail(new Error("failed") as never)
      assert.strictEqual(yield* run(sql`SELECT 1`), "around")
      result = Effect.die("defect")
      assert.strictEqual(yield* run(sql`SELECT 1`), "around")
      result = Effect.interrupt
      assert.strictEqual(yield* run(sql`SELECT 1`), "around")
      result = Effect.succeed([])
      assert.strictEqual(yield* run(session(Effect.zipRight(sql`SELECT 1`, currentSpan))), "around")
      const inSession = yield* Effect.withTracer(session(Effect.zipRight(sql`SELECT 1`, currentSpan)), recorded.tracer)
      assert.strictEqual(inSession?.name, "sql.transaction")
      assert.deepStrictEqual(inside, Array.from({ length: inside.length }, () => "SELECT"))
      assert.lengthOf(inside, 6)
    }))

  it.scopedLive("end where a statement transformer fails, and where it is interrupted", () =>
    Effect.gen(function*() {
      const { sql } = yield* open()
      const recorded = recording()
      const transformed = (transformer: Effect.Effect<never>) =>
        Statement.withTransformer(sql`SELECT 1`, () => transformer).pipe(Effect.withTracer(recorded.tracer))
      const died = yield* Effect.exit(transformed(Effect.die("broken")))
      assert.deepStrictEqual(died, Exit.die("broken"))
      const fiber = yield* Effect.fork(transformed(Effect.never))
      while (recorded.spans.length < 2) {
        yield* Effect.yieldNow()
      }
      yield* Fiber.interrupt(fiber)
      const [first, second] = recorded.spans.map(endOf)
      assert.deepStrictEqual(first, Exit.die("broken"))
      assert.isTrue(Exit.isFailure(second!) && Cause.isInterruptedOnly(second.cause))
    }))

  it.scopedLive("whose end throws hide no failure", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      const broken = () => {
        throw new Error("broken")
      }
      const failing: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        sql`SELECT * FROM missing`,
        session(Effect.fail("mine"))
      ]
      for (const unit of failing) {
        const exit = yield* Effect.exit(Effect.withTracer(unit, recording(() => ({ end: broken })).tracer))
        assert.isTrue(Exit.isFailure(exit) && Option.isSome(Cause.failureOption(exit.cause)), String(exit))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause), String(exit))
      }
      const exit = yield* Effect.exit(Effect.withTracer(sql`SELECT 1`, recording(() => ({ end: broken })).tracer))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause), String(exit))
      assert.strictEqual((yield* sql`SELECT 1 AS n`).length, 1)
    }))

  it.scopedLive("end once, by the clock of their fiber, and at no time where times are disabled", () =>
    Effect.gen(function*() {
      const { session, sql } = yield* open()
      let ends = 0
      const recorded = recording((span) => ({
        end: (time: bigint, exit: Exit.Exit<unknown, unknown>) => {
          ends++
          Object.getPrototypeOf(span).end.call(span, time, exit)
        }
      }))
      const ending = Effect.flatMap(Effect.currentSpan, (span) => Effect.sync(() => span.end(7n, Exit.void)))
      yield* Effect.withTracer(session(ending), recorded.tracer)
      assert.strictEqual(ends, 1)
      const clock: Clock.Clock = { ...Clock.make(), unsafeCurrentTimeNanos: () => 42n }
      yield* sql`SELECT 1`.pipe(Effect.withTracer(recorded.tracer), Effect.withClock(clock))
      yield* sql`SELECT 1`.pipe(Effect.withTracer(recorded.tracer), Effect.withTracerTiming(false))
      const times = recorded.spans.map(({ status }) => status._tag === "Ended" ? status.endTime : undefined)
      assert.deepStrictEqual(times, [7n, 42n, 0n])
    }))
})
