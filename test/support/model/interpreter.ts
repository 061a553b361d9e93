/**
 * Runs programs against a database.
 */
import type { SqlError } from "@effect/sql/SqlError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import type * as Database from "../../../src/Database.js"
import * as Session from "../../../src/Session.js"
import * as TestDatabase from "../../../src/TestDatabase.js"
import type { Node, Program, Root } from "./program.js"
import { type Clock, ends, type Level, makeLevel, type RootTrace, type Statement } from "./trace.js"

/** The tables of a database that programs run on. */
export const prepare = ({ dialect, sql }: Database.Service): Effect.Effect<void, SqlError> =>
  Effect.gen(function*() {
    yield* sql`CREATE TABLE items (run integer, part integer, PRIMARY KEY (run, part))`
    yield* sql`INSERT INTO items (run, part) VALUES (0, 0)`
    if (dialect === "postgres") {
      // Slow, so that the batches of a stream are read one by one.
      yield* sql.unsafe(
        `CREATE FUNCTION emit(run integer, part integer) RETURNS integer LANGUAGE sql VOLATILE
          AS 'SELECT pg_sleep(0.0003); INSERT INTO items (run, part) VALUES (run, part) RETURNING part'`
      )
    }
  })

type Work = Effect.Effect<unknown, unknown, Session.Session>

/** Not `Effect.all`, which hangs when it is interrupted before the first of its fibers has started. */
const together = (works: ReadonlyArray<Work>): Work =>
  Effect.scoped(Effect.flatMap(
    Effect.forEach(works, (work) => Effect.forkScoped(Effect.interruptible(work))),
    Effect.forEach((fiber) => Fiber.join(fiber), { discard: true })
  ))

/** Not `Effect.race`, for the same reason. The first to end wins, and the others are interrupted. */
const race = (works: ReadonlyArray<Work>): Work =>
  Effect.scoped(Effect.gen(function*() {
    const first = yield* Deferred.make<unknown, unknown>()
    for (const work of works) {
      yield* Effect.forkScoped(Effect.interruptible(Effect.onExit(work, (exit) => Deferred.done(first, exit))))
    }
    yield* Deferred.await(first)
  }))

class Interpreter {
  /** How often each node has written: what a stream runs at its rows runs several times. */
  private readonly writes = new Map<number, number>()

  constructor(
    private readonly db: Database.Service,
    private readonly clock: Clock,
    private readonly trace: RootTrace
  ) {}

  /** Runs a session and takes down how it ended. */
  root({ acquired, node, retry, timeout }: Root): Effect.Effect<unknown, unknown> {
    const options: Session.Options = {
      ...(timeout > 0 && { timeout }),
      ...(retry && !acquired && { retry: true })
    }
    const attempt = Effect.suspend(() => {
      const level = makeLevel(0, this.trace.attempts.length + 1, this.clock)
      this.trace.attempts.push(level)
      return Effect.onExit(this.body(level, node), (exit) => Effect.sync(() => this.ended(level, exit)))
    })
    return acquired
      ? Effect.scoped(
        Effect.flatMap(this.db.acquireSession(options), (handle) => Effect.zipRight(handle.run(attempt), handle.commit))
      )
      : this.db.session(attempt, options)
  }

  /** Where the rows begin that a node writes: ids are less than 1000, the rows of a stream less than 10000. */
  private partOf(level: Level, id: number): number {
    const node = level.attempt * 1_000 + id
    const time = this.writes.get(node) ?? 0
    this.writes.set(node, time + 1)
    return (node * 10 + time) * 10_000
  }

  private ended(observed: Level | Statement, exit: Parameters<typeof ends>[1]): void {
    ends(observed, exit)
    observed.ended = ++this.clock.now
  }

  /** What runs in a session, with hooks that say how it ended. */
  private body(level: Level, node: Node): Work {
    return Effect.gen(this, function*() {
      yield* Session.afterCommit(Effect.sync(() => {
        level.committed++
      }))
      yield* Session.afterRollback(Effect.sync(() => {
        level.rolledBack++
      }))
      level.hooked = true
      yield* this.run(level, node)
      level.finished = true
    })
  }

  private run(level: Level, node: Node): Work {
    switch (node._tag) {
      case "write":
      case "read":
      case "violate":
        return this.statement(level, node)
      case "stream":
        return this.stream(level, node)
      case "pause":
        return node.millis === 0 ? Effect.void : Effect.sleep(node.millis)
      case "fail":
        return node.retryable && level.attempt === 1
          ? Effect.fail(TestDatabase.error("SerializationFailure")(this.db.dialect))
          : node.retryable
          ? Effect.void
          : Effect.fail("boom")
      case "sequence":
        return Effect.forEach(node.nodes, (inner) => this.run(level, inner), { discard: true })
      case "together":
        return together(node.nodes.map((inner) => this.run(level, inner)))
      case "race":
        return race(node.nodes.map((inner) => this.run(level, inner)))
      case "timeout":
        return Effect.timeoutOption(this.run(level, node.node), node.millis)
      case "swallow":
        return Effect.catchAllDefect(Effect.catchAll(this.run(level, node.node), () => Effect.void), () => Effect.void)
      case "orDie":
        return Effect.orDie(this.run(level, node.node))
      case "rollbackOnly":
        return Effect.tap(Session.rollbackOnly, () => {
          level.rollbackOnly = true
        })
      case "nested":
      case "handle":
        return this.nested(level, node)
    }
  }

  private nested(parent: Level, node: Extract<Node, { readonly _tag: "nested" | "handle" }>): Work {
    return Effect.suspend(() => {
      const level = makeLevel(node.id, parent.attempt, this.clock)
      parent.levels.push(level)
      const body = this.body(level, node.node)
      const session = node._tag === "nested"
        ? this.db.session(body, node.millis === 0 ? {} : { timeout: node.millis })
        : Effect.scoped(Effect.gen(this, function*() {
          const handle = yield* this.db.acquireSession()
          yield* handle.run(body)
          level.rollbackOnly = level.rollbackOnly || node.end !== "commit"
          yield* node.end === "commit" ? handle.commit : node.end === "rollback" ? handle.rollback : Effect.void
        }))
      return Effect.onExit(session as Work, (exit) => Effect.sync(() => this.ended(level, exit)))
    })
  }

  /** Takes down what a statement answers. */
  private observe(
    level: Level,
    kind: Statement["kind"],
    id: number,
    writes: ReadonlyArray<number>,
    f: (rows: Array<number>) => Work
  ): Work {
    return Effect.suspend(() => {
      const statement: Statement = {
        kind,
        id,
        writes,
        rows: [],
        started: ++this.clock.now,
        ended: Infinity,
        outcome: "running",
        tag: ""
      }
      level.statements.push(statement)
      return Effect.onExit(f(statement.rows), (exit) => Effect.sync(() => this.ended(statement, exit)))
    })
  }

  private statement(level: Level, node: Extract<Node, { readonly _tag: "write" | "read" | "violate" }>): Work {
    const { dialect, sql } = this.db
    const { run } = this.trace
    switch (node._tag) {
      case "write": {
        const part = this.partOf(level, node.id)
        return this.observe(level, "write", node.id, [part], () => {
          if (node.millis === 0) {
            return sql`INSERT INTO items (run, part) VALUES (${run}, ${part})`
          }
          return dialect === "postgres"
            ? sql`INSERT INTO items (run, part)
              SELECT ${run}::integer, ${part}::integer FROM pg_sleep(${node.millis / 1_000})`
            : sql`INSERT INTO items (run, part) SELECT ${run}, ${part} FROM (
              WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${node.millis * 5_000})
              SELECT max(n) FROM c)`
        })
      }
      case "violate":
        return this.observe(level, "violate", node.id, [], () => sql`INSERT INTO items (run, part) VALUES (0, 0)`)
      case "read":
        return this.observe(level, "read", node.id, [], (rows) =>
          Effect.map(
            sql<{ readonly part: number }>`SELECT part FROM items WHERE run = ${run} ORDER BY part`,
            (found) => rows.push(...found.map(({ part }) => part))
          ))
    }
  }

  private stream(level: Level, node: Extract<Node, { readonly _tag: "stream" }>): Work {
    const { dialect, sql } = this.db
    const { run } = this.trace
    const base = this.partOf(level, node.id)
    const writes = node.writes ? Array.from({ length: node.rows }, (_, n) => base + n + 1) : []
    const numbers = sql`WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${node.rows})`
    type Row = { readonly part: number }
    const all = dialect === "postgres"
      ? node.writes
        ? sql<Row>`SELECT emit(${run}::integer, ${base}::integer + n) AS part
          FROM generate_series(1, ${node.rows}::integer) n`
        : sql<Row>`SELECT ${base}::integer + n AS part FROM generate_series(1, ${node.rows}::integer) n`
      : node.writes
      ? sql<Row>`INSERT INTO items (run, part) ${numbers} SELECT ${run}, ${base} + n FROM c RETURNING part`
      : sql<Row>`${numbers} SELECT ${base} + n AS part FROM c`
    return this.observe(level, "stream", node.id, writes, (rows) =>
      Stream.runForEach(
        node.take < node.rows ? Stream.take(all.stream, node.take) : all.stream,
        ({ part }) => {
          rows.push(part - base)
          return rows.length % node.every === 0 ? this.run(level, node.each) : Effect.void
        }
      ))
  }
}

/** Runs a program to its end: sessions number `run` and following. */
export const interpret = (
  db: Database.Service,
  program: Program,
  run: number,
  lose: Effect.Effect<unknown>
): Effect.Effect<ReadonlyArray<RootTrace>> => {
  const clock: Clock = { now: 0 }
  const traces = program.roots.map((_, i): RootTrace => ({ run: run + i, attempts: [], outcome: "running", tag: "" }))
  const session = (root: Root, i: number) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkDaemon(new Interpreter(db, clock, traces[i]).root(root))
      if (root.interruptAfter !== undefined) {
        yield* Effect.sleep(root.interruptAfter)
        yield* Fiber.interruptFork(fiber)
      }
      ends(traces[i], yield* Fiber.await(fiber))
    })
  const losing = program.loseAfter === undefined ? Effect.void : Effect.delay(lose, program.loseAfter)
  return Effect.as(
    Effect.all([losing, ...program.roots.map(session)], { concurrency: "unbounded", discard: true }),
    traces
  )
}
