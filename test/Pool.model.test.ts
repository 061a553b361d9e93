import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as TestContext from "effect/TestContext"
import type { DatabaseError } from "../src/DatabaseError.js"
import type * as Pool from "../src/Pool.js"
import {
  closed,
  type FakeConnection,
  FakeServer,
  makePool,
  refused,
  settle,
  take,
  wrongPassword
} from "./internal/pool/harness.js"

type Borrower = Fiber.RuntimeFiber<Pool.Lease<FakeConnection>, DatabaseError>

interface Model {
  readonly world: FakeServer
  readonly pool: Pool.Pool<FakeConnection>
  readonly scope: Scope.CloseableScope
  /** Those that wait, or have what they waited for. */
  borrowers: Array<Borrower>
  /** Every lease that was taken and not given back. */
  leases: Array<Pool.Lease<FakeConnection>>
}

type Step =
  | { readonly _tag: "acquire" | "interrupt" | "release" | "invalidate" | "warm"; readonly at: number }
  | { readonly _tag: "dirty" | "kill" | "killSilently"; readonly at: number }
  | { readonly _tag: "advance"; readonly millis: number }
  | { readonly _tag: "connecting"; readonly how: "works" | "takes time" | "fails" | "cannot work" | "hangs" }

const at = FastCheck.nat(50)

const step: FastCheck.Arbitrary<Step> = FastCheck.oneof(
  { weight: 10, arbitrary: FastCheck.record({ _tag: FastCheck.constant("acquire" as const), at }) },
  { weight: 6, arbitrary: FastCheck.record({ _tag: FastCheck.constant("release" as const), at }) },
  {
    weight: 8,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constantFrom(...["interrupt", "invalidate", "warm", "dirty", "kill", "killSilently"] as const),
      at
    })
  },
  {
    weight: 4,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("advance" as const),
      millis: FastCheck.constantFrom(1, 60, 700, 1_500, 2_500, 5_500, 61_000)
    })
  },
  {
    weight: 3,
    arbitrary: FastCheck.record({
      _tag: FastCheck.constant("connecting" as const),
      how: FastCheck.constantFrom(...["works", "works", "takes time", "fails", "cannot work", "hangs"] as const)
    })
  }
)

const connecting = {
  "works": Effect.void,
  "takes time": Effect.sleep("300 millis"),
  "fails": Effect.fail(refused),
  "cannot work": Effect.fail(wrongPassword),
  "hangs": Effect.zipRight(Effect.sleep("10 seconds"), Effect.fail(refused))
}

const pick = <A>(array: ReadonlyArray<A>, index: number): A | undefined => array[index % Math.max(1, array.length)]

const size = 2
const overflow = 1

const apply = (model: Model, step: Step): Effect.Effect<void> => {
  const { pool, scope, world } = model
  switch (step._tag) {
    case "acquire":
      return Effect.map(Effect.forkDaemon(Scope.extend(take(pool), scope)), (fiber) => {
        model.borrowers.push(fiber)
      })
    case "interrupt": {
      const fiber = pick(model.borrowers, step.at)
      return fiber === undefined ? Effect.void : Effect.asVoid(Fiber.interruptFork(fiber))
    }
    case "release": {
      const lease = pick(model.leases, step.at)
      model.leases = model.leases.filter((other) => other !== lease)
      return lease === undefined ? Effect.void : lease.release
    }
    case "invalidate":
      return pool.invalidate
    case "warm":
      return Effect.asVoid(Effect.forkDaemon(Effect.ignore(pool.warm)))
    case "dirty":
      return Effect.sync(() => {
        const lease = pick(model.leases, step.at)
        if (lease?.connection.status === "idle") {
          lease.connection.status = "dirty"
        }
      })
    case "kill":
    case "killSilently":
      return Effect.sync(() => {
        const connection = pick(world.open, step.at)
        if (connection !== undefined) {
          world.kill(connection, step._tag === "killSilently")
        }
      })
    case "advance":
      return TestClock.adjust(step.millis)
    case "connecting":
      return Effect.sync(() => {
        world.connecting = connecting[step.how]
      })
  }
}

/** Finds out who got what; nothing is left to do before time passes. */
const observe = (model: Model) =>
  Effect.gen(function*() {
    yield* settle
    const waiting: Array<Borrower> = []
    for (const fiber of model.borrowers) {
      const exit = yield* Fiber.poll(fiber)
      if (exit._tag === "None") {
        waiting.push(fiber)
      } else if (Exit.isSuccess(exit.value)) {
        model.leases.push(exit.value.value)
      }
    }
    model.borrowers = waiting
  })

const check = ({ borrowers, leases, pool, world }: Model): void => {
  const stats = pool.stats()
  assert.isAtMost(world.maxOpen, size + overflow, "more are open than may be")
  assert.strictEqual(stats.waiting, borrowers.length, "all who wait are known")
  assert.strictEqual(new Set(leases.map(({ connection }) => connection)).size, leases.length, "each is lent once")
  assert.isAtLeast(stats.used, leases.length)
  assert.strictEqual(stats.created - closed(stats), stats.idle + stats.used, "what was opened and not closed is there")
  assert.strictEqual(world.open.length, stats.idle + stats.used, "nothing else is open")
  assert.isFalse(stats.waiting > 0 && stats.idle > 0, "nobody waits while a connection is idle")
}

const run = (steps: ReadonlyArray<Step>) =>
  Effect.gen(function*() {
    const world = new FakeServer()
    const scope = yield* Scope.make()
    const pool = yield* Scope.extend(
      makePool(world, {
        size,
        maxOverflow: overflow,
        timeout: "5 seconds",
        recycle: "100 seconds",
        shutdownTimeout: "5 seconds",
        idleTimeout: "3 seconds",
        min: 1,
        resetLater: ({ id }) => id % 2 === 0
      }),
      scope
    )
    const model: Model = { world, pool, scope, borrowers: [], leases: [] }
    for (const step of steps) {
      yield* apply(model, step)
      yield* observe(model)
      check(model)
    }
    model.world.connecting = Effect.void
    yield* Effect.forEach(model.leases.splice(0), ({ release }) => release)
    // All waits and attempts have ended by then, and what was idle at the end of them for the idle timeout as well.
    yield* TestClock.adjust("20 seconds")
    yield* observe(model)
    yield* Effect.forEach(model.leases.splice(0), ({ release }) => release)
    yield* TestClock.adjust("3 seconds")
    yield* settle
    assert.isAtMost(pool.stats().idle, 1, "no more are kept than shall be")
    yield* Scope.close(scope, Exit.void)
    yield* observe(model)
    const stats = pool.stats()
    assert.deepStrictEqual([stats.idle, stats.used, stats.waiting], [0, 0, 0])
    assert.lengthOf(world.open, 0)
    assert.lengthOf(model.borrowers, 0)
    assert.strictEqual(stats.created, closed(stats))
  }).pipe(Effect.provide(TestContext.TestContext))

it("whatever happens in whatever order, the pool keeps its promises", () =>
  FastCheck.assert(
    FastCheck.asyncProperty(
      FastCheck.array(step, { minLength: 5, maxLength: 60 }),
      (steps) => Effect.runPromise(run(steps))
    ),
    { numRuns: 150 }
  ), 240_000)
