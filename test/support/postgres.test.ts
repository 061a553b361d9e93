import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import { blocked } from "./blocked.js"
import { eventually } from "./eventually.js"
import { connections } from "./observe.js"
import * as Postgres from "./postgres.js"
import { childrenOf, isAlive } from "./serverProcess.js"

const databaseOf = (url: string): string => new URL(url).pathname.slice(1)

const exists = (database: string) =>
  Effect.map(
    Postgres.query(Postgres.url(), "SELECT 1 FROM pg_database WHERE datname = $1", [database]),
    (rows) => rows.length === 1
  )

const userOf = (pid: number): number =>
  Number(spawnSync("ps", ["-o", "uid=", "-p", String(pid)], { encoding: "utf8" }).stdout)

/** Numbers of the shared memory segments there are. */
const sharedMemory = (): ReadonlyArray<string> =>
  Fs.readFileSync("/proc/sysvipc/shm", "utf8").split("\n").slice(1).flatMap((line) => line.trim().split(/\s+/)[1] ?? [])

describe("the shared server", () => {
  it.live("gives databases that are empty, apart from each other, and gone afterwards", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const [one, two] = yield* Effect.all([Postgres.freshDatabase, Postgres.freshDatabase], { concurrency: 2 }).pipe(
        Scope.extend(scope)
      )
      yield* Postgres.query(one, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
      assert.deepStrictEqual(yield* Postgres.query(one, "SELECT n FROM t"), [{ n: 1 }])
      assert.deepStrictEqual(yield* Postgres.query(two, "SELECT to_regclass('t') AS t"), [{ t: null }])
      // Someone still uses it when it is dropped.
      const user = yield* Effect.fork(Effect.exit(Postgres.query(two, "SELECT pg_sleep(60)")))
      yield* eventually(Effect.map(connections(two), ({ total }) => total === 1))
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(yield* exists(databaseOf(one)))
      assert.isFalse(yield* exists(databaseOf(two)))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(user)))
    }))

  it.live("answers the last of several statements, and leaves no connection behind when interrupted", () =>
    Effect.gen(function*() {
      const url = yield* Postgres.freshDatabase
      assert.deepStrictEqual(yield* Postgres.query(url, "SELECT 1 AS a; SELECT 2 AS b"), [{ b: 2 }])
      assert.deepStrictEqual(yield* Postgres.query(url, "SELECT $1::int + 1 AS c", [2]), [{ c: 3 }])
      const { release, sql } = yield* blocked(url)
      const fiber = yield* Effect.fork(Postgres.query(url, sql))
      yield* eventually(Effect.map(connections(url), ({ active }) => active === 1))
      yield* Fiber.interrupt(fiber)
      yield* release
      yield* eventually(Effect.map(connections(url), ({ total }) => total === 0))
    }).pipe(Effect.scoped))
})

describe("a server of one's own", () => {
  it.scopedLive("is as configured, and never runs as root", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server({
        maxConnections: 7,
        config: { work_mem: "5MB", application_name: "it's" }
      })
      const rows = yield* Postgres.query(
        server.url,
        `SELECT current_setting('max_connections') AS max, current_setting('work_mem') AS memory,
                current_setting('fsync') AS fsync, current_setting('port')::int AS port, current_user AS user`
      )
      assert.deepStrictEqual(rows, [{ max: "7", memory: "5MB", fsync: "on", port: server.port, user: "postgres" }])
      const user = userOf(server.pid)
      assert.notStrictEqual(user, 0)
      assert.isTrue(process.getuid?.() === 0 || user === process.getuid?.())
      // Nobody but this run's users gets in.
      assert.isTrue(
        Exit.isFailure(yield* Effect.exit(Postgres.query(server.url.replace(/:[^:@]*@/, ":no@"), "SELECT 1")))
      )
    }))

  it.scopedLive("listens on a Unix socket too", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server()
      const { password } = new URL(server.url)
      const url = `postgres://postgres:${password}@/postgres?host=${server.socketDir}&port=${server.port}`
      assert.deepStrictEqual(yield* Postgres.query(url, "SELECT inet_server_addr() AS address"), [{ address: null }])
    }))

  it.scopedLive("obeys a pg_hba.conf", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server({ hba: "host all all 127.0.0.1/32 trust\n" })
      const url = server.url.replace(/:[^:@]*@/, ":wrong@")
      assert.deepStrictEqual(yield* Postgres.query(url, "SELECT 1 AS n"), [{ n: 1 }])
    }))

  it.scopedLive("comes back from a crash with what was committed", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server()
      yield* Postgres.query(server.url, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
      const first = server.pid
      const family = [first, ...childrenOf(first)]
      assert.isAbove(family.length, 3)
      const hanging = yield* Effect.fork(Effect.exit(Postgres.query(server.url, "SELECT pg_sleep(60)")))
      yield* eventually(Effect.map(connections(server.url), ({ total }) => total === 1))
      yield* server.kill
      assert.deepStrictEqual(family.filter(isAlive), [])
      assert.isTrue(Exit.isFailure(yield* Fiber.join(hanging)))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Postgres.query(server.url, "SELECT 1"))))
      yield* server.start
      assert.notStrictEqual(server.pid, first)
      assert.deepStrictEqual(yield* Postgres.query(server.url, "SELECT count(*)::int AS n FROM t"), [{ n: 1000 }])
    }))

  it.scopedLive("hangs while it is paused, and then goes on", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server()
      const { release, sql } = yield* blocked(server.url)
      const running = yield* Effect.fork(Postgres.query(server.url, sql))
      yield* eventually(Effect.map(connections(server.url), ({ active }) => active === 1))
      yield* server.pause
      const fresh = yield* Effect.fork(Postgres.query(server.url, "SELECT 2 AS n"))
      const releasing = yield* Effect.fork(release)
      yield* Effect.sleep("500 millis")
      assert.isTrue((yield* Fiber.poll(running))._tag === "None")
      assert.isTrue((yield* Fiber.poll(fresh))._tag === "None")
      yield* server.resume
      yield* Fiber.join(releasing)
      assert.strictEqual((yield* Fiber.join(running))[0].n, 1)
      assert.deepStrictEqual(yield* Fiber.join(fresh), [{ n: 2 }])
    }))

  it.scopedLive("stops in each of PostgreSQL's ways, and starts again", () =>
    Effect.gen(function*() {
      const server = yield* Postgres.server()
      const { release, sql } = yield* blocked(server.url)
      const client = yield* Effect.fork(Effect.exit(Postgres.query(server.url, sql)))
      yield* eventually(Effect.map(connections(server.url), ({ active }) => active === 1))
      const stopping = yield* Effect.fork(server.stop("smart"))
      yield* Effect.sleep("100 millis")
      assert.isTrue((yield* Fiber.poll(stopping))._tag === "None")
      yield* release
      yield* Fiber.join(stopping)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(client)))
      for (const mode of ["fast", "immediate"] as const) {
        yield* server.start
        const client = yield* Effect.fork(Effect.exit(Postgres.query(server.url, "SELECT pg_sleep(60)")))
        yield* eventually(Effect.map(connections(server.url), ({ active }) => active === 1))
        yield* server.stop(mode)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(client)))
        assert.isFalse(isAlive(server.pid))
      }
      yield* server.start
      assert.deepStrictEqual(yield* Postgres.query(server.url, "SELECT 1 AS n"), [{ n: 1 }])
    }))

  it.live("leaves nothing behind, in whatever state it is", () =>
    Effect.gen(function*() {
      for (const state of ["running", "paused", "stopped", "killed"] as const) {
        const scope = yield* Scope.make()
        const server = yield* Scope.extend(Postgres.server(), scope)
        const family = [server.pid, ...childrenOf(server.pid)]
        if (state === "paused") {
          yield* server.pause
        }
        if (state === "stopped") {
          yield* server.stop("fast")
        }
        if (state === "killed") {
          yield* server.kill
        }
        assert.isTrue(Fs.existsSync(server.socketDir))
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(family.filter(isAlive), [], state)
        assert.isFalse(Fs.existsSync(server.socketDir), state)
      }
    }))

  it.runIf(Fs.existsSync("/proc/sysvipc/shm"))(
    "gives back its shared memory when it was killed",
    () =>
      Effect.gen(function*() {
        const server = yield* Postgres.server()
        // The seventh line holds the segment's key and its number.
        const file = Fs.readFileSync(`${server.socketDir}/data/postmaster.pid`, "utf8")
        const segment = file.split("\n")[6].trim().split(/\s+/)[1]
        assert.include(sharedMemory(), segment)
        yield* server.kill
        return segment
      }).pipe(
        Effect.scoped,
        Effect.map((segment) => assert.notInclude(sharedMemory(), segment)),
        Effect.runPromise
      )
  )

  it.live("says why it does not start", () =>
    Effect.gen(function*() {
      const cause = yield* Effect.flip(
        Effect.sandbox(Effect.scoped(Postgres.server({ config: { work_mem: "plenty" } })))
      )
      assert.include(Cause.pretty(cause), "invalid value for parameter \"work_mem\"")
    }))
})
