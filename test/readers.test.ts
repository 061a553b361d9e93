import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import {
  Database,
  type DatabaseConfig,
  DatabaseError,
  DatabaseHttp,
  type Session,
  Telemetry,
  TestDatabase
} from "sqlayer"
import * as Causality from "./support/causality.js"
import { type Cluster, type Member } from "./support/cluster.js"
import { eventually } from "./support/eventually.js"
import { send, serve } from "./support/http.js"
import { cluster, query } from "./support/postgres.js"
import { proxy } from "./support/proxy.js"
import { newSeed, random } from "./support/random.js"
import { tripsOf } from "./support/roundTrips.js"

class Rig extends Context.Tag("Rig")<Rig, Cluster>() {}

let names = 0

/** Opens a database whose writer is the primary and whose readers are these standbys. */
const open = (rig: Cluster, readers: ReadonlyArray<Member>, options: DatabaseConfig.Options = {}) => {
  const hosts = readers.map(({ port }) => `127.0.0.1:${port}`).join(",")
  return Database.make({
    url: rig.primary().url,
    readerUrl: rig.primary().url.replace(/@[^/]+/, `@${hosts}`),
    name: `readers-${++names}`,
    readerWait: "20 seconds",
    ...options
  })
}

/** The port of the server that runs it. */
const port = (database: Database.Service) =>
  Effect.map(database.sql<{ port: number }>`SELECT inet_server_port() AS port`, ([row]) => row.port)

const read = { readOnly: true } as const

const count = (database: Database.Service, table: string) =>
  Effect.map(
    database.sql<{ n: number }>`SELECT count(*)::int AS n FROM ${database.sql(table)}`,
    ([row]) => row.n
  )

/** How many sessions of a database ran there for this reason. */
const routed = (name: string, target: string, reason: string) =>
  Effect.map(
    Metric.value(Telemetry.readerSessions.pipe(
      Metric.tagged("db.client.connection.pool.name", name),
      Metric.tagged("db.system.name", "postgresql"),
      Metric.tagged("target", target),
      Metric.tagged("reason", reason)
    )),
    ({ count }) => count
  )

/** How far behind a database takes a server to be, in seconds. */
const lagOf = (name: string, { port }: Member) =>
  Effect.map(
    Metric.value(Telemetry.replicaLag.pipe(
      Metric.tagged("db.client.connection.pool.name", name),
      Metric.tagged("db.system.name", "postgresql"),
      Metric.tagged("server.address", "127.0.0.1"),
      Metric.tagged("server.port", String(port))
    )),
    ({ value }) => value
  )

let tables = 0

/** Creates a table, which all standbys have then. */
const freshTable = (rig: Cluster) =>
  Effect.gen(function*() {
    const table = `numbers_${++tables}`
    yield* query(rig.primary().url, `CREATE TABLE ${table} (n int)`)
    yield* Effect.forEach(rig.standbys(), (standby) => rig.replayed(standby))
    return table
  })

layer(Layer.scoped(Rig, cluster({ standbys: 2 })), { excludeTestServices: true, timeout: "60 seconds" })(
  "readers",
  (it) => {
    it.scoped("sessions that only read run on readers, everything else on the primary", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const database = yield* open(rig, rig.standbys())
        const primary = rig.primary().port
        const standbys = rig.standbys().map(({ port }) => port)
        const portIn = (options: Session.Options) => database.session(port(database), options)
        assert.strictEqual(yield* port(database), primary)
        assert.strictEqual(yield* portIn({}), primary)
        assert.strictEqual(yield* portIn({ readOnly: false }), primary)
        assert.strictEqual(yield* portIn({ readOnly: true, reader: "primary" }), primary)
        assert.strictEqual(yield* portIn({ readOnly: true, isolation: "serializable" }), primary)
        const ports = new Set<number>()
        for (let i = 0; i < 10; i++) {
          ports.add(yield* portIn(read))
          ports.add(yield* portIn({ readOnly: true, reader: "replica", isolation: "repeatable read" }))
        }
        assert.deepStrictEqual(ports, new Set(standbys))
        const auto = yield* Database.make({ url: rig.url, readers: "auto" })
        assert.strictEqual(yield* port(auto), primary)
        assert.include(standbys, yield* auto.session(port(auto), read))
        // Nested and joining sessions are where the session around them is, a new one is where its own options say.
        const nested = database.session(
          Effect.all([
            portIn(read),
            portIn({ propagation: "join", reader: "primary" }),
            portIn({ propagation: "new" }),
            Stream.runHead(
              Stream.map(database.sql<{ port: number }>`SELECT inet_server_port() AS port`.stream, (row) => row.port)
            )
          ]),
          read
        )
        const [inner, joined, separate, streamed] = yield* nested
        assert.include(standbys, inner)
        assert.strictEqual(joined, inner)
        assert.strictEqual(Option.getOrThrow(streamed), inner)
        assert.strictEqual(separate, primary)
        const handle = yield* database.acquireSession(read)
        assert.include(standbys, yield* handle.run(port(database)))
        yield* handle.commit
        assert.strictEqual(
          yield* Effect.scoped(Effect.flatMap(database.sql.reserve, (connection) =>
            Effect.map(
              connection.execute("SELECT inet_server_port() AS port", [], undefined),
              ([row]) => (row as { port: number }).port
            ))),
          primary
        )
      }))

    it.scoped("a session that insists on a replica is refused where none can run it", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const database = yield* open(rig, rig.standbys())
        const plain = yield* Database.make({ url: rig.primary().url })
        const tagOf = (database: Database.Service, options: Session.Options) =>
          Effect.map(Effect.flip(database.session(port(database), options)), (error) => error._tag)
        assert.strictEqual(yield* tagOf(database, { reader: "replica" }), "InvalidStatement")
        assert.strictEqual(
          yield* tagOf(database, { reader: "replica", readOnly: true, isolation: "serializable" }),
          "InvalidStatement"
        )
        assert.strictEqual(yield* tagOf(plain, { reader: "replica", readOnly: true }), "InvalidStatement")
        assert.strictEqual(yield* plain.session(port(plain), { readOnly: true, reader: "auto" }), rig.primary().port)
      }))

    it.scoped("a session sees its own writes, waits for them, and runs on the primary if that takes too long", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const database = yield* open(rig, [standby])
        const insert = (n: number) => database.sql`INSERT INTO ${database.sql(table)} VALUES (${n})`
        yield* database.session(insert(1))
        const [n, where] = yield* database.session(Effect.all([count(database, table), port(database)]), read)
        assert.deepStrictEqual([n, where], [1, standby.port])

        yield* rig.pauseReplay(standby)
        yield* database.session(insert(2))
        const waiting = yield* Effect.fork(
          database.session(Effect.all([count(database, table), port(database)]), {
            ...read,
            isolation: "repeatable read"
          })
        )
        yield* Effect.sleep("50 millis")
        yield* rig.resumeReplay(standby)
        assert.deepStrictEqual(yield* Fiber.join(waiting), [2, standby.port])

        const hasty = yield* open(rig, [standby], { readerWait: "30 millis", name: "hasty" })
        yield* rig.pauseReplay(standby)
        // Statements outside of sessions count too.
        yield* hasty.sql`INSERT INTO ${hasty.sql(table)} VALUES (3)`
        assert.deepStrictEqual(
          yield* hasty.session(Effect.all([count(hasty, table), port(hasty)]), read),
          [3, rig.primary().port]
        )
        assert.strictEqual(yield* routed("hasty", "primary", "behind"), 1)
        // Code that has written nothing does not wait.
        assert.deepStrictEqual(
          yield* Database.causal(hasty.session(Effect.all([count(hasty, table), port(hasty)]), read)),
          [2, standby.port]
        )
        const insisting = yield* Effect.flip(hasty.session(count(hasty, table), { ...read, reader: "replica" }))
        assert.strictEqual(insisting._tag, "ConnectionFailed")
        assert.isTrue(DatabaseError.isRetryable(insisting))
        yield* rig.resumeReplay(standby)
        assert.strictEqual(
          yield* hasty.session(count(hasty, table), { ...read, reader: "replica", retry: true }).pipe(
            Effect.retry({ times: 200 })
          ),
          3
        )
      }))

    it.scoped("a token lets another process see a write", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const writer = yield* Database.make({ url: rig.primary().url })
        const reader = yield* open(rig, [standby])
        assert.isTrue(Option.isNone(yield* writer.token))
        yield* rig.pauseReplay(standby)
        const token = yield* Database.causal(Effect.zipRight(
          writer.session(writer.sql`INSERT INTO ${writer.sql(table)} VALUES (1)`),
          writer.token
        ))
        assert.isTrue(Option.isSome(token))
        assert.strictEqual(yield* reader.session(count(reader, table), read), 0)
        const waiting = yield* Effect.fork(reader.after(token)(reader.session(count(reader, table), read)))
        yield* Effect.sleep("50 millis")
        yield* rig.resumeReplay(standby)
        assert.strictEqual(yield* Fiber.join(waiting), 1)
        const [system, timeline, offset] = Option.getOrThrow(token).split(".")
        for (const foreign of [`1.${timeline}.${offset}`, `${system}.7.${offset}`]) {
          assert.strictEqual(
            yield* reader.after(foreign as Database.Token)(reader.session(port(reader), read)),
            rig.primary().port
          )
        }
      }))

    it.scoped("a reader that lags is not read from", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [lagging, other] = rig.standbys()
        const database = yield* open(rig, [lagging, other], { readerMaxLag: "300 millis" })
        yield* rig.pauseReplay(lagging)
        yield* query(rig.primary().url, `INSERT INTO ${table} VALUES (1)`)
        yield* rig.replayed(other)
        yield* Effect.sleep("400 millis")
        for (let i = 0; i < 10; i++) {
          assert.strictEqual(yield* database.session(port(database), read), other.port)
        }
        yield* rig.resumeReplay(lagging)
        yield* rig.replayed(lagging)
        const again = Effect.map(database.session(port(database), read), (at) => at === lagging.port)
        yield* eventually(again)
      }))

    it.scoped("a session that has seen nothing moves when its reader fails, and fails when it has", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const database = yield* open(rig, [standby], { name: "failing" })
        const terminate = (pid: number) => query(standby.url, "SELECT pg_terminate_backend($1)", [pid])
        const pid = Effect.map(database.sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`, ([row]) => row.pid)
        const warm = yield* database.session(pid, read)
        const moved = yield* Effect.fork(
          database.session(database.sql`SELECT pg_sleep(1)`.pipe(Effect.zipRight(port(database))), read)
        )
        yield* eventually(Effect.map(
          query(
            standby.url,
            "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%pg_sleep%' AND state = 'active'",
            [warm]
          ),
          (rows) => rows.length > 0
        ))
        yield* terminate(warm)
        assert.strictEqual(yield* Fiber.join(moved), rig.primary().port)
        assert.strictEqual(yield* routed("failing", "primary", "failed"), 1)

        const seen = yield* Deferred.make<number>()
        const killed = yield* Deferred.make<void>()
        const failing = yield* Effect.fork(Effect.exit(database.session(
          Effect.flatMap(pid, (own) =>
            Deferred.succeed(seen, own).pipe(
              Effect.zipRight(Deferred.await(killed)),
              Effect.zipRight(port(database))
            )),
          read
        )))
        yield* terminate(yield* Deferred.await(seen))
        yield* Deferred.succeed(killed, undefined)
        const exit = yield* Fiber.join(failing)
        assert.isTrue(Exit.isFailure(exit))
      }))

    it.scoped("whatever comes first in a session moves with it: statements at once, streams, copies, nested sessions", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const database = yield* open(rig, [standby], { readerWait: 0 })
        const { sql } = database
        const numbers = sql<{ n: number }>`SELECT n FROM ${sql(table)} ORDER BY n`
        const streamed = Stream.runCollect(numbers.stream).pipe(Effect.map((rows) => Array.from(rows)))
        const copied = Stream.runFold(
          Stream.decodeText(database.copyTo(`SELECT n FROM ${table} ORDER BY n`)),
          "",
          (text, part) => text + part
        ).pipe(Effect.map((text) => text.trim().split("\n").map((n) => ({ n: Number(n) }))))
        yield* database.session(port(database), read)
        yield* rig.pauseReplay(standby)
        yield* Effect.addFinalizer(() => rig.resumeReplay(standby))
        const expected: Array<{ readonly n: number }> = []
        const firsts: Record<string, Effect.Effect<ReadonlyArray<unknown>, unknown>> = {
          statements: Effect.all([numbers, numbers, numbers], { concurrency: "unbounded" }),
          streams: Effect.all([streamed, streamed], { concurrency: "unbounded" }),
          copy: Effect.all([copied]),
          nested: Effect.all([
            database.session(database.session(numbers)),
            numbers,
            Effect.exit(database.session(Effect.zipRight(numbers, Effect.fail("no")))).pipe(Effect.zipRight(numbers))
          ]),
          mixed: Effect.all([streamed, database.session(numbers), numbers], { concurrency: "unbounded" })
        }
        for (const [name, first] of Object.entries(firsts)) {
          for (const isolation of ["read committed", "repeatable read"] as const) {
            expected.push({ n: expected.length })
            yield* database.session(sql`INSERT INTO ${sql(table)} VALUES (${expected.length - 1})`)
            const results = yield* database.session(first, { ...read, isolation })
            results.forEach((result) => assert.deepStrictEqual(result, expected, name))
          }
        }
        const handle = yield* database.acquireSession(read)
        assert.deepStrictEqual(yield* handle.run(numbers), expected)
        yield* handle.commit
      }))

    it.scoped("everything that commits is seen, however it was written", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const database = yield* open(rig, [standby], { readerWait: 0 })
        const { sql } = database
        const into = sql(table)
        yield* database.session(port(database), read)
        yield* rig.pauseReplay(standby)
        yield* Effect.addFinalizer(() => rig.resumeReplay(standby))
        const reserved = (texts: ReadonlyArray<string>) =>
          Effect.scoped(
            Effect.flatMap(
              sql.reserve,
              (connection) => Effect.forEach(texts, (text) => connection.executeRaw(text, []))
            )
          )
        const writes: Record<string, Effect.Effect<unknown, unknown>> = {
          statement: sql`INSERT INTO ${into} VALUES (1)`,
          "several statements": sql.unsafe(`INSERT INTO ${table} VALUES (1); SELECT 1`),
          "rows by a helper": sql`INSERT INTO ${into} ${sql.insert([{ n: 1 }])}`,
          transaction: sql.withTransaction(sql`INSERT INTO ${into} VALUES (1)`),
          copy: database.copyFrom(table, ["n"])(Stream.make([1])),
          stream: Stream.runDrain(sql`INSERT INTO ${into} VALUES (1) RETURNING n`.stream),
          handle: Effect.scoped(Effect.flatMap(
            database.acquireSession(),
            (handle) => Effect.zipRight(handle.run(sql`INSERT INTO ${into} VALUES (1)`), handle.commit)
          )),
          reserved: reserved([`INSERT INTO ${table} VALUES (1)`]),
          "by hand": reserved(["BEGIN", `INSERT INTO ${table} VALUES (1)`, "COMMIT"]),
          new: database.session(
            database.session(sql`INSERT INTO ${into} VALUES (1)`, { propagation: "new" }),
            read
          )
        }
        let expected = 0
        for (const [name, write] of Object.entries(writes)) {
          yield* write
          expected++
          assert.strictEqual(yield* database.session(count(database, table), read), expected, name)
          // Now the position is known.
          assert.isTrue(Option.isSome(yield* database.token), name)
        }
      }))

    it.scoped("readers and positions cost no round trip", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const toPrimary = yield* proxy(rig.primary().url)
        const toStandby = yield* proxy(standby.url)
        const database = yield* Database.make({
          url: toPrimary.url,
          readerUrl: toStandby.url,
          poolSize: 1,
          poolMaxOverflow: 0,
          readerWait: "20 seconds"
        })
        const { sql } = database
        const onPrimary = yield* tripsOf(toPrimary)
        const onStandby = yield* tripsOf(toStandby)
        const insert = sql`INSERT INTO ${sql(table)} VALUES (1)`
        const select = count(database, table)
        const during = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
          Effect.gen(function*() {
            const before = [onPrimary(), onStandby()]
            yield* effect
            return [onPrimary() - before[0], onStandby() - before[1]]
          })
        for (let i = 0; i < 5; i++) {
          yield* database.session(Effect.zipRight(insert, insert))
          yield* insert
          yield* rig.replayed(standby)
          yield* database.session(select, read)
        }
        for (let i = 0; i < 5; i++) {
          assert.deepStrictEqual(yield* during(database.session(insert)), [2, 0])
          assert.deepStrictEqual(yield* during(insert), [1, 0])
          yield* rig.replayed(standby)
          assert.deepStrictEqual(yield* during(database.session(select, read)), [0, 2])
          assert.deepStrictEqual(
            yield* during(database.session(Effect.zipRight(select, select), { ...read, isolation: "repeatable read" })),
            [0, 3]
          )
        }
      }))

    it.scoped("a session that was canceled for a conflict with recovery, and has seen nothing, runs again on the primary", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        yield* standby.configure({ max_standby_streaming_delay: "0" })
        yield* Effect.addFinalizer(() => standby.configure({ max_standby_streaming_delay: "30s" }))
        yield* query(rig.primary().url, `INSERT INTO ${table} SELECT generate_series(1, 10)`)
        yield* rig.replayed(standby)
        const database = yield* open(rig, [standby], { name: "conflict" })
        const long = database.sql<{ n: number }>`SELECT n, pg_sleep(1) FROM ${database.sql(table)}`
        const running = yield* Effect.fork(
          database.session(Effect.zip(long, port(database)), { ...read, isolation: "repeatable read" })
        )
        yield* eventually(Effect.map(
          query(
            standby.url,
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT n, pg_sleep%' AND state = 'active'"
          ),
          (rows) => rows.length > 0
        ))
        yield* query(rig.primary().url, `DELETE FROM ${table} WHERE n > 1`)
        yield* query(rig.primary().url, `VACUUM ${table}`)
        const [rows, at] = yield* Fiber.join(running)
        assert.strictEqual(rows.length, 1)
        assert.strictEqual(at, rig.primary().port)
        assert.strictEqual(yield* routed("conflict", "primary", "failed"), 1)
      }))

    it.scoped("a sandbox never reads from a reader", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const database = yield* open(rig, rig.standbys())
        yield* Effect.gen(function*() {
          const sandbox = yield* Database.Database
          yield* sandbox.sql`INSERT INTO ${sandbox.sql(table)} VALUES (1)`
          assert.strictEqual(yield* sandbox.session(count(sandbox, table), read), 1)
        }).pipe(
          Effect.provide(TestDatabase.sandbox),
          Effect.provideService(Database.Database, database),
          Effect.provide(database.context)
        )
        assert.strictEqual(yield* count(database, table), 0)
      }))

    it.scoped("a user who wrote reads his write at the next request, on another instance", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const table = yield* freshTable(rig)
        const [standby] = rig.standbys()
        const causality = DatabaseHttp.causality({ key: Redacted.make("k".repeat(32)) })
        const app = HttpRouter.empty.pipe(
          HttpRouter.post(
            "/",
            Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO ${sql(table)} VALUES (1)`).pipe(
              Effect.as(HttpServerResponse.empty())
            )
          ),
          HttpRouter.get(
            "/",
            Effect.flatMap(
              SqlClient.SqlClient,
              (sql) => sql<{ n: number }>`SELECT count(*)::int AS n FROM ${sql(table)}`
            )
              .pipe(Effect.map(([{ n }]) => HttpServerResponse.text(String(n))))
          ),
          HttpRouter.use(DatabaseHttp.middleware()),
          HttpRouter.use(DatabaseHttp.problems),
          causality
        )
        const instance = Effect.flatMap(
          open(rig, [standby], { readerWait: 0 }),
          (database) =>
            serve(app.pipe(Effect.provideService(Database.Database, database), Effect.provide(database.context)))
        )
        const one = yield* instance
        const other = yield* instance
        assert.strictEqual((yield* send(other, "GET", "/")).headers["set-cookie"], undefined)
        yield* rig.pauseReplay(standby)
        yield* Effect.addFinalizer(() => rig.resumeReplay(standby))
        const written = yield* send(one, "POST", "/")
        const [cookie] = written.headers["set-cookie"]!
        assert.match(cookie, /^sqlayer-token=[^;]+; Max-Age=3600; Path=\/; HttpOnly; Secure; SameSite=Lax$/)
        const value = cookie.split(";")[0]
        const read = (headers: Record<string, string>) =>
          Effect.map(send(other, "GET", "/", { headers }), ({ body }) => body)
        assert.strictEqual(yield* read({}), "0")
        assert.strictEqual(yield* read({ cookie: value }), "1")
        assert.strictEqual(yield* read({ "x-sqlayer-token": String(written.headers["x-sqlayer-token"]) }), "1")
        for (const forged of [`${value}x`, value.replace("=", "=1"), "sqlayer-token=", value.replace(/[^.]+$/, "")]) {
          assert.strictEqual(yield* read({ cookie: forged }), "0", forged)
        }
        assert.throws(() => DatabaseHttp.causality({ key: Redacted.make("short") }))
      }))

    it.scoped("no read behind a write is stale while standbys lag", () =>
      Effect.gen(function*() {
        const outcome = yield* Causality.run(yield* Rig, { reads: 500, workers: 6, chance: random(newSeed()) })
        assert.isAtLeast(outcome.onStandbys, 20)
        assert.deepStrictEqual([outcome.staleWithToken, outcome.staleInProcess], [0, 0])
      }))

    it.scoped("readers that cannot be connected to are replaced by others, and by the primary", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const nowhere = { ...standby, port: 1 }
        const partly = yield* open(rig, [nowhere, standby], { name: "partly" })
        for (let i = 0; i < 5; i++) {
          assert.strictEqual(yield* partly.session(port(partly), read), standby.port)
        }
        const none = yield* open(rig, [nowhere], { name: "none" })
        assert.strictEqual(yield* none.session(port(none), read), rig.primary().port)
        assert.strictEqual(yield* routed("none", "primary", "unavailable"), 1)
        const error = yield* Effect.flip(none.session(port(none), { ...read, reader: "replica" }))
        assert.strictEqual(error._tag, "ConnectionFailed")
      }))

    it.scoped("a reader that was refused is looked at in the background, and read from again when it is back", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const between = yield* proxy(standby.url)
        const database = yield* open(rig, [{ ...standby, port: between.port }], { hostRecheck: "100 millis" })
        const state = Effect.map(
          database.report,
          ({ servers }) => servers.find((server) => server.port === between.port)?.state
        )
        assert.strictEqual(yield* database.session(port(database), read), standby.port)
        yield* between.refuse
        yield* between.cutAll
        yield* eventually(Effect.map(state, (state) => state === "down"))
        for (let i = 0; i < 5; i++) {
          assert.strictEqual(yield* database.session(port(database), read), rig.primary().port)
        }
        yield* between.accept
        // Sessions on the primary are use, so the reader is looked at.
        yield* eventually(Effect.map(database.session(port(database), read), (at) => at === standby.port))
        assert.strictEqual(yield* state, "up")
      }))

    it.scoped("a reader that does not accept the user is left alone for a while", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const between = yield* proxy(standby.url)
        const database = yield* Database.make({
          url: rig.primary().url,
          readerUrl: between.url.replace(/\/\/[^:]+/, "//nobody"),
          hostRecheck: "1 hour"
        })
        yield* database.session(port(database), read)
        let connections = 0
        yield* between.onClientData((_chunk, { id }) => {
          connections = Math.max(connections, id)
          return "pass"
        })
        const before = connections
        for (let i = 0; i < 5; i++) {
          assert.strictEqual(yield* database.session(port(database), read), rig.primary().port)
        }
        assert.strictEqual(connections, before)
      }))

    it.scoped("a session that only reads and loses the answer to its COMMIT has left nothing in doubt", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const between = yield* proxy(standby.url)
        const database = yield* open(rig, [{ ...standby, port: between.port }])
        let cuts = 0
        yield* between.onClientData((chunk) => {
          const isCut = cuts === 0 && chunk.includes("COMMIT") && !chunk.includes("BEGIN")
          cuts += isCut ? 1 : 0
          return isCut ? "cut" : "pass"
        })
        const reading = database.session(port(database), read)
        const error = yield* Effect.flip(reading)
        assert.strictEqual(error._tag, "ConnectionLost")
        assert.isTrue(DatabaseError.isRetryable(error))
        cuts = 0
        assert.strictEqual(yield* database.session(port(database), { ...read, retry: true }), standby.port)
        assert.strictEqual(cuts, 1)
      }))

    it.scoped("connections that prefer standbys leave the primary when there is one again", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [standby] = rig.standbys()
        const between = yield* proxy(standby.url)
        yield* between.refuse
        const { password, username } = new URL(rig.primary().url)
        const database = yield* Database.make({
          url: `postgres://${username}:${password}@127.0.0.1:${between.port},127.0.0.1:${rig.primary().port}/postgres` +
            "?target_session_attrs=prefer-standby",
          hostRecheck: "100 millis",
          poolSize: 3,
          poolMaxOverflow: 0
        })
        const ports = Effect.forEach([1, 2, 3], () =>
          database.session(
            Effect.zipLeft(port(database), database.sql`SELECT pg_sleep(0.05)`)
          ), { concurrency: "unbounded" })
        const created = Effect.map(database.poolStats, ({ created }) => created)
        yield* eventually(Effect.zipRight(ports, Effect.map(created, (count) => count === 3)))
        // While there is none, they stay.
        yield* eventually(Effect.map(database.report, ({ servers }) => servers.some(({ state }) => state === "down")))
        assert.deepStrictEqual(yield* ports, Array(3).fill(rig.primary().port))
        assert.strictEqual(yield* created, 3)
        yield* between.accept
        yield* eventually(Effect.map(ports, (at) => at.every((port) => port === standby.port)))
        // Each was replaced once.
        yield* ports
        assert.isAtMost(yield* created, 6)
      }))

    it.scoped("while a reader is frozen sessions go on with the others, and its lag grows", () =>
      Effect.gen(function*() {
        const rig = yield* Rig
        const [frozen, other] = rig.standbys()
        const name = "frozen"
        const database = yield* open(rig, [frozen, other], {
          name,
          hostRecheck: "100 millis",
          silence: "500 millis",
          connectTimeout: "1 second",
          readerWait: "100 millis"
        })
        const workers = Array.from({ length: 6 }, () => ({ answers: 0, ports: new Set<number>() }))
        const failures: Array<DatabaseError.DatabaseError> = []
        for (const worker of workers) {
          const once = Effect.match(database.session(port(database), read), {
            onSuccess: (at) => {
              worker.answers++
              worker.ports.add(at)
            },
            onFailure: (error) => void failures.push(error)
          })
          yield* Effect.forkScoped(Effect.forever(Effect.zipRight(once, Effect.sleep("5 millis"))))
        }
        const all = (more: number) =>
          Effect.suspend(() => {
            const from = workers.map(({ answers, ports }) => {
              ports.clear()
              return answers
            })
            return eventually(Effect.sync(() => workers.every(({ answers }, i) => answers >= from[i] + more)), {
              timeout: "1 minute"
            })
          })
        const usesFrozen = Effect.sync(() => workers.some(({ ports }) => ports.has(frozen.port)))
        yield* all(3)
        yield* eventually(usesFrozen)
        const state = Effect.map(
          database.report,
          ({ servers }) => servers.find((server) => server.port === frozen.port)?.state
        )

        yield* frozen.pause
        yield* Effect.addFinalizer(() => frozen.resume)
        yield* eventually(Effect.map(state, (state) => state === "silent"), { timeout: "1 minute" })
        const lag = yield* lagOf(name, frozen)
        // Those that waited for the frozen one go on, and nobody begins to wait for it.
        yield* all(20)
        assert.isFalse(yield* usesFrozen)
        yield* eventually(Effect.map(lagOf(name, frozen), (now) => now > lag + 0.2))
        assert.isBelow(yield* lagOf(name, other), yield* lagOf(name, frozen))
        assert.deepStrictEqual(failures.filter((error) => !DatabaseError.isRetryable(error)), [])

        yield* frozen.resume
        yield* eventually(usesFrozen, { timeout: "1 minute" })
        yield* eventually(Effect.map(lagOf(name, frozen), (now) => now < lag + 0.2))
      }))
  }
)
