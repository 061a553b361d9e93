import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Util from "node:util"
import type { PostgresTarget } from "../../../src/DatabaseConfig.js"
import type { DatabaseError } from "../../../src/DatabaseError.js"
import { eventually } from "../../support/eventually.js"
import { Interruptor, modes } from "../../support/interruptor.js"
import { connections } from "../../support/observe.js"
import { freshDatabase, query, server, url } from "../../support/postgres.js"
import { type Decision, proxy } from "../../support/proxy.js"
import { connected, connection, driver, type Overrides, promptly, rows, target } from "./harness.js"

/** A TCP server that is not PostgreSQL. */
const impostor = (onConnection: (socket: Net.Socket) => void) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      const listener = Net.createServer((socket) => {
        sockets.add(socket)
        socket.on("error", () => undefined)
        socket.on("close", () => sockets.delete(socket))
        onConnection(socket)
        // A socket that is not read does not report that the client has closed it.
        socket.resume()
      })
      listener.listen(0, "127.0.0.1")
      await once(listener, "listening")
      const { port } = listener.address() as Net.AddressInfo
      return { listener, sockets, port, url: `postgres://someone:hunter2secret@127.0.0.1:${port}/db` }
    }),
    ({ listener, sockets }) =>
      Effect.sync(() => {
        listener.close()
        sockets.forEach((socket) => socket.destroy())
      })
  )

const refused = (url: string, overrides: Overrides = {}): Effect.Effect<DatabaseError, unknown, Scope.Scope> =>
  Effect.flip(connected(url, overrides))

const quickly: Overrides["settings"] = { connectTimeout: Duration.millis(500) }

const failsToConnect = (error: DatabaseError, transient: boolean) => {
  assert.strictEqual(error._tag, "ConnectionFailed")
  assert.strictEqual(error._tag === "ConnectionFailed" && error.transient, transient, error.message)
  assert.notInclude(Util.inspect(error, { depth: null, showHidden: true }), "hunter2secret")
}

const closedPort = Effect.map(impostor(() => undefined), ({ listener, port }) => {
  listener.close()
  return port
})

describe("postgres connect", () => {
  it.scoped("uses the settings that it is given, and none of the environment", () =>
    Effect.gen(function*() {
      const directory = Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-pgpass-"))
      Fs.writeFileSync(Path.join(directory, "pgpass"), "*:*:*:*:fromfile\n", { mode: 0o600 })
      const environment = {
        PGHOST: "nowhere.invalid",
        PGPORT: "1",
        PGUSER: "nobody",
        PGDATABASE: "nothing",
        PGPASSWORD: "wrong",
        PGPASSFILE: Path.join(directory, "pgpass"),
        PGOPTIONS: "-c work_mem=7MB",
        PGAPPNAME: "from the environment",
        PGSSLMODE: "verify-full",
        PGSSLNEGOTIATION: "direct",
        PGCLIENT_ENCODING: "latin1",
        PGREPLICATION: "database",
        PGBINARY: "1",
        PGCONNECT_TIMEOUT: "1"
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          const before = Object.keys(environment).map((name) => [name, process.env[name]] as const)
          Object.assign(process.env, environment)
          return before
        }),
        (before) =>
          Effect.sync(() => {
            for (const [name, value] of before) {
              if (value === undefined) {
                delete process.env[name]
              } else {
                process.env[name] = value
              }
            }
            Fs.rmSync(directory, { recursive: true })
          })
      )
      const c = yield* connection(url(), { target: { applicationName: "" } })
      assert.deepStrictEqual(
        yield* rows(
          c,
          "SELECT current_user AS user, current_setting('application_name') AS app, " +
            "current_setting('client_encoding') AS encoding, current_setting('work_mem') AS mem"
        ),
        [{ user: target(url()).username, app: "", encoding: "UTF8", mem: "4MB" }]
      )
      // Neither PGPASSWORD nor the password file is used for a missing password.
      const error = yield* refused(url(), { target: { password: undefined } })
      assert.strictEqual(error._tag, "AuthenticationFailed")
      assert.include(error.message, "password")
    }))

  it.scoped("start-up parameters need no round trip", () =>
    Effect.gen(function*() {
      const between = yield* proxy(url())
      let ready = 0
      yield* between.onServerData((chunk) => {
        ready += chunk.includes("Z\0\0\0\x05I") ? 1 : 0
        return "pass"
      })
      const c = yield* connection(between.url, {
        settings: {
          statementTimeout: Duration.seconds(11),
          lockTimeout: Duration.seconds(12),
          idleInTransactionTimeout: Duration.seconds(13)
        },
        target: { applicationName: "it's \"me\"", serverOptions: "-c search_path=app,public -c work_mem=8MB" }
      })
      assert.strictEqual(ready, 1)
      const [settings] = yield* rows(
        c,
        "SELECT " + [
          "application_name",
          "statement_timeout",
          "lock_timeout",
          "idle_in_transaction_session_timeout",
          "search_path",
          "work_mem"
        ].map((name) => `current_setting('${name}') AS ${name}`).join(", ")
      )
      assert.deepStrictEqual(settings, {
        application_name: "it's \"me\"",
        statement_timeout: "11s",
        lock_timeout: "12s",
        idle_in_transaction_session_timeout: "13s",
        search_path: "app,public",
        work_mem: "8MB"
      })
      assert.strictEqual(c.status(), "idle")
    }))

  it.scoped("rejections by the server are typed errors", () =>
    Effect.gen(function*() {
      const wrong = yield* refused(url(), { target: { password: Redacted.make("hunter2secret") } })
      assert.strictEqual(wrong._tag, "AuthenticationFailed")
      assert.strictEqual(wrong.code, "28P01")
      assert.notInclude(Util.inspect(wrong, { depth: null, showHidden: true }), "hunter2secret")
      const empty = yield* refused(url(), { target: { password: Redacted.make("") } })
      assert.strictEqual(empty._tag, "AuthenticationFailed")
      const database = yield* refused(url(), { target: { database: "no_such_database" } })
      failsToConnect(database, false)
      assert.strictEqual(database.code, "3D000")
      const option = yield* refused(url(), { target: { serverOptions: "-c nonsense=1" } })
      assert.strictEqual(option.code, "42704")
    }))

  it.live("authenticates with MD5, with a plain password and with SCRAM", () =>
    Effect.scoped(Effect.gen(function*() {
      const own = yield* server({
        hba: "host all md5user all md5\nhost all plainuser all password\nhost all all all scram-sha-256\n" +
          "local all all trust\n"
      })
      yield* query(
        own.url,
        "SET password_encryption = 'md5'; CREATE ROLE md5user LOGIN PASSWORD 'pässword'; " +
          "SET password_encryption = 'scram-sha-256'; CREATE ROLE plainuser LOGIN PASSWORD 'pässword'; " +
          "CREATE ROLE scramuser LOGIN PASSWORD 'pässword'"
      )
      for (const username of ["md5user", "plainuser", "scramuser"]) {
        const c = yield* connection(own.url, { target: { username, password: Redacted.make("pässword") } })
        assert.deepStrictEqual(yield* rows(c, "SELECT current_user AS u"), [{ u: username }])
        const wrong = yield* refused(own.url, { target: { username, password: Redacted.make("other") } })
        assert.strictEqual(wrong._tag, "AuthenticationFailed")
        // Concurrent connections authenticate independently.
        yield* Effect.forEach(
          Array.from({ length: 20 }),
          () => connection(own.url, { target: { username, password: Redacted.make("pässword") } }),
          { concurrency: "unbounded", discard: true }
        )
      }
      const trusted = yield* connection(own.url, {
        target: { hosts: [{ host: own.socketDir, port: own.port }], password: undefined }
      })
      yield* trusted.ping
    })))

  it.scoped("neither the driver nor a connection shows the password", () =>
    Effect.gen(function*() {
      const database = target(url())
      const password = Redacted.value(database.password!)
      const secret = password.length > 3 ? password : "no password to look for"
      const made = driver(url())
      const c = yield* connection(url())
      for (const each of [made, c, made.connect, made.spanAttributes, made.description]) {
        assert.notInclude(Util.inspect(each, { depth: 30, showHidden: true }), secret)
      }
    }))

  describe("to something that is not PostgreSQL", () => {
    it.scoped("a closed port", () =>
      Effect.gen(function*() {
        const port = yield* closedPort
        const error = yield* refused(`postgres://a:hunter2secret@127.0.0.1:${port}/db`)
        failsToConnect(error, true)
        assert.include(error.message, `127.0.0.1:${port}`)
      }))

    it.scoped("an unknown host name", () =>
      Effect.gen(function*() {
        const error = yield* refused("postgres://a:hunter2secret@nowhere.invalid:5432/db")
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.include(error.message, "nowhere.invalid")
      }))

    it.scoped("an invalid address", () =>
      Effect.gen(function*() {
        const port = yield* refused(url(), { target: { hosts: [{ host: "127.0.0.1", port: 70_000 }] } })
        assert.strictEqual(port._tag, "ConnectionFailed")
        const socket = yield* refused(url(), { target: { hosts: [{ host: "/no/such/directory", port: 5432 }] } })
        failsToConnect(socket, true)
        assert.include(socket.message, "/no/such/directory")
        const long = yield* refused(url(), { target: { hosts: [{ host: `/${"x".repeat(200)}`, port: 5432 }] } })
        assert.strictEqual(long._tag, "ConnectionFailed")
      }))

    const handshakes: ReadonlyArray<readonly [name: string, onConnection: (socket: Net.Socket) => void]> = [
      ["closes at once", (socket) => socket.destroy()],
      ["closes after the first message", (socket) => void socket.once("data", () => socket.end())],
      ["resets after the first message", (socket) => void socket.once("data", () => socket.resetAndDestroy())],
      ["speaks HTTP", (socket) => void socket.once("data", () => socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"))],
      ["speaks first", (socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n")],
      ["speaks another protocol with a similar first byte", (socket) => socket.write("RFB 003.008\n")],
      ["sends one byte", (socket) => socket.end("R")],
      [
        "sends an error without an end",
        (socket) => void socket.once("data", () => socket.write(Buffer.from("E\0\0\0\x0aSFATAL")))
      ],
      [
        "sends an unknown message",
        (socket) => void socket.once("data", () => socket.write(Buffer.from("!\0\0\0\x08abcd")))
      ],
      [
        "asks for an unknown authentication method",
        (socket) => void socket.once("data", () => socket.write(Buffer.from("R\0\0\0\x08\0\0\0\x63")))
      ],
      [
        "asks for an unknown SASL mechanism",
        (socket) =>
          void socket.once("data", () => socket.write(Buffer.from("R\0\0\0\x0d\0\0\0\x0aNOPE\0\0").fill(0, 13)))
      ]
    ]
    for (const [name, onConnection] of handshakes) {
      for (const sslMode of ["disable", "prefer"] as const) {
        it.live(`a server that ${name}, with sslmode ${sslMode}`, () =>
          Effect.scoped(Effect.gen(function*() {
            const other = yield* impostor(onConnection)
            const error = yield* promptly(refused(other.url, {
              settings: { connectTimeout: Duration.minutes(10) },
              target: { sslMode }
            }))
            assert.include(["ConnectionFailed", "AuthenticationFailed"], error._tag, error.message)
            assert.notInclude(Util.inspect(error, { depth: null, showHidden: true }), "hunter2secret")
            yield* eventually(Effect.sync(() => other.sockets.size === 0))
          })))
      }
    }

    it.live("fails after the connect timeout if the server is silent", () =>
      Effect.scoped(Effect.gen(function*() {
        const other = yield* impostor(() => undefined)
        for (const sslMode of ["disable", "require"] as const) {
          const before = performance.now()
          failsToConnect(yield* promptly(refused(other.url, { settings: quickly, target: { sslMode } })), true)
          assert.isAbove(performance.now() - before, 400)
        }
        yield* eventually(Effect.sync(() => other.sockets.size === 0))
      })))

    it.live("an interrupted attempt ends at once and closes its socket", () =>
      Effect.scoped(Effect.gen(function*() {
        const other = yield* impostor(() => undefined)
        for (const sslMode of ["disable", "require"] as const) {
          const settings = { connectTimeout: Duration.minutes(10) }
          const fiber = yield* Effect.fork(refused(other.url, { settings, target: { sslMode } }))
          yield* eventually(Effect.sync(() => other.sockets.size === 1))
          yield* Effect.sleep("20 millis")
          yield* promptly(Fiber.interrupt(fiber))
          yield* eventually(Effect.sync(() => other.sockets.size === 0))
        }
      })))

    it.live("a server that is starting up is a transient failure", () =>
      Effect.scoped(Effect.gen(function*() {
        const fields = Buffer.from("SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0")
        const header = Buffer.from("E\0\0\0\0")
        header.writeInt32BE(fields.length + 4, 1)
        const other = yield* impostor((socket) =>
          void socket.once("data", () => socket.end(Buffer.concat([header, fields])))
        )
        const error = yield* refused(other.url)
        failsToConnect(error, true)
        assert.strictEqual(error.code, "57P03")
      })))

    it.live("interrupted in the very tick in which it succeeds it leaves no connection behind", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        for (const mode of modes) {
          for (let at = 1;; at++) {
            const interruptor = new Interruptor(mode, at)
            yield* interruptor.victim(Effect.scoped(connection(database)))
            if (!interruptor.hit) {
              break
            }
          }
        }
        yield* eventually(Effect.map(connections(database), ({ total }) => total === 0))
      })))

    it.live("interrupted at any moment it leaves no connection behind", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        for (let i = 0; i < 60; i++) {
          const fiber = yield* Effect.fork(Effect.scoped(connection(database)))
          yield* Effect.sleep(Duration.millis(i / 2))
          yield* Fiber.interrupt(fiber)
        }
        const name = new URL(database).pathname.slice(1)
        yield* eventually(Effect.map(
          query(url(), `SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = '${name}'`),
          (r) => r[0].n === 0
        ))
      })))
  })

  describe("several hosts", () => {
    const here = () => target(url()).hosts[0]

    it.live("are tried in order, and the next does not wait for a silent one to run into the timeout", () =>
      Effect.scoped(Effect.gen(function*() {
        const silent = yield* impostor(() => undefined)
        const port = yield* closedPort
        const c = yield* promptly(connection(url(), {
          settings: { connectTimeout: Duration.minutes(10) },
          target: { hosts: [{ host: "127.0.0.1", port }, { host: "127.0.0.1", port: silent.port }, here()] }
        }))
        yield* c.ping
        yield* eventually(Effect.sync(() => silent.sockets.size === 0))
      })))

    it.live("a slow one is not given up before another has succeeded", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const slow = yield* proxy(database)
        yield* slow.delay(300)
        const silent = yield* impostor(() => undefined)
        const c = yield* connection(database, {
          target: { hosts: [{ host: "127.0.0.1", port: slow.port }, { host: "127.0.0.1", port: silent.port }] }
        })
        assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS one"), [{ one: 1 }])
        yield* eventually(Effect.sync(() => silent.sockets.size === 0))
      })))

    it.live("leave one connection behind, whichever are established", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const slow = yield* Effect.all([proxy(database), proxy(database)])
        const hosts: PostgresTarget["hosts"] = [
          target(slow[0].url).hosts[0],
          target(slow[1].url).hosts[0],
          target(database).hosts[0]
        ]
        for (let delay = 0; delay < 150; delay += 10) {
          yield* Effect.forEach(slow, (each) => each.delay(delay))
          yield* Effect.scoped(Effect.gen(function*() {
            const c = yield* connection(database, { target: { hosts } })
            yield* eventually(Effect.map(connections(database), ({ total }) => total === 1))
            assert.deepStrictEqual(yield* rows(c, "SELECT 1 AS one"), [{ one: 1 }])
          }))
          yield* eventually(Effect.map(connections(database), ({ total }) => total === 0))
        }
      })), 240_000)

    it.live("interrupted at any moment leave no connection behind", () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* freshDatabase
        const silent = yield* impostor(() => undefined)
        const hosts = [{ host: "127.0.0.1", port: silent.port }, target(database).hosts[0]] as const
        for (let i = 0; i < 60; i++) {
          const fiber = yield* Effect.fork(Effect.scoped(connection(database, { target: { hosts } })))
          yield* Effect.sleep(Duration.millis(i < 20 ? i * 12 : 240 + i))
          yield* promptly(Fiber.interrupt(fiber))
        }
        yield* eventually(Effect.map(connections(database), ({ total }) => total === 0 && silent.sockets.size === 0))
        for (const mode of modes) {
          for (let at = 1;; at++) {
            const interruptor = new Interruptor(mode, at)
            const options = { target: { hosts: [hosts[1], hosts[1]] as const } }
            yield* interruptor.victim(Effect.scoped(connection(database, options)))
            if (!interruptor.hit) {
              break
            }
          }
        }
        yield* eventually(Effect.map(connections(database), ({ total }) => total === 0))
      })), 240_000)

    it.live("share the connect timeout, and the error says what became of each", () =>
      Effect.scoped(Effect.gen(function*() {
        const silent = yield* Effect.all([impostor(() => undefined), impostor(() => undefined)])
        const port = yield* closedPort
        const attempt = Effect.timed(promptly(refused(url(), {
          settings: { connectTimeout: Duration.millis(900) },
          target: {
            hosts: [silent[0].port, port, silent[1].port].map((port) => ({ host: "127.0.0.1", port })) as never
          }
        })))
        const check = Effect.map(attempt, ([duration, error]) => {
          failsToConnect(error, true)
          assert.isAbove(Duration.toMillis(duration), 850)
          for (const each of [silent[0].port, port, silent[1].port]) {
            assert.include(error.message, `127.0.0.1:${each}`)
          }
          assert.include(error.message, "connection refused")
          assert.include(error.message, "no answer within the connect timeout")
          return Duration.toMillis(duration)
        })
        // Twice as long if each had its own; a busy machine may need that now and then.
        yield* eventually(Effect.map(check, (millis) => millis < 1_800), { timeout: "1 minute" })
        yield* eventually(Effect.sync(() => silent.every(({ sockets }) => sockets.size === 0)))
      })))

    it.scoped("that all fail are all in the message", () =>
      Effect.gen(function*() {
        const port = yield* closedPort
        const error = yield* refused(url(), {
          target: { hosts: [{ host: "127.0.0.1", port }, { host: "nowhere.invalid", port: 5432 }] }
        })
        failsToConnect(error, true)
        assert.include(error.message, `127.0.0.1:${port}`)
        assert.include(error.message, "nowhere.invalid")
      }))

    it.live("are not tried any further when one rejects the user", () =>
      Effect.scoped(Effect.gen(function*() {
        const silent = yield* impostor(() => undefined)
        const between = yield* proxy(url())
        // So that the attempt on the next host has begun when the user is rejected.
        yield* between.delay(300)
        const error = yield* promptly(refused(url(), {
          settings: { connectTimeout: Duration.minutes(10) },
          target: {
            password: Redacted.make("wrong"),
            hosts: [{ host: "127.0.0.1", port: between.port }, { host: "127.0.0.1", port: silent.port }]
          }
        }))
        assert.strictEqual(error._tag, "AuthenticationFailed")
        yield* eventually(Effect.sync(() => silent.sockets.size === 0))
      })))

    it.live("are chosen by target_session_attrs", () =>
      Effect.scoped(Effect.gen(function*() {
        const standby = yield* server()
        yield* standby.stop("fast")
        Fs.writeFileSync(Path.join(standby.socketDir, "data", "standby.signal"), "")
        yield* standby.start
        const primary = yield* server()
        const [s, p] = [{ host: "127.0.0.1", port: standby.port }, { host: "127.0.0.1", port: primary.port }] as const
        const role = (
          targetSessionAttrs: PostgresTarget["targetSessionAttrs"],
          hosts: PostgresTarget["hosts"],
          overrides: Partial<PostgresTarget> = {},
          connectTimeout = Duration.seconds(10)
        ) =>
          Effect.gen(function*() {
            const options = { settings: { connectTimeout }, target: { targetSessionAttrs, hosts, ...overrides } }
            const c = yield* connection(primary.url, options)
            return (yield* driver(primary.url, options).serverInfo(c)).role
          })
        assert.strictEqual(yield* role("any", [s, p]), "standby")
        assert.strictEqual(yield* role("primary", [s, p]), "primary")
        assert.strictEqual(yield* role("read-write", [s, p]), "primary")
        assert.strictEqual(yield* role("standby", [p, s]), "standby")
        assert.strictEqual(yield* role("read-only", [p, s]), "standby")
        assert.strictEqual(yield* role("prefer-standby", [p, s]), "standby")
        assert.strictEqual(yield* role("prefer-standby", [p]), "primary")
        // The second round begins when the first has failed, and a silent host leaves it half of the time.
        const silent = yield* impostor(() => undefined)
        assert.strictEqual(
          yield* role("prefer-standby", [{ host: "127.0.0.1", port: silent.port }, p], {}, Duration.seconds(4)),
          "primary"
        )
        const serverOptions = "-c default_transaction_read_only=on"
        assert.strictEqual(yield* role("read-only", [p], { serverOptions }), "primary")
        const error = yield* Effect.flip(role("read-write", [p, s], { serverOptions }))
        failsToConnect(error, true)
        assert.include(error.message, "read-write")
        failsToConnect(yield* Effect.flip(role("standby", [p])), true)

        // Servers before version 14 do not report it.
        const renamed = (chunk: Buffer): Decision => {
          const text = chunk.toString("latin1")
          return Buffer.from(text.replace("in_hot_standby", "in_old_standby"), "latin1")
        }
        const between = yield* proxy(standby.url)
        yield* between.onServerData(renamed)
        const old = { host: "127.0.0.1", port: between.port }
        assert.strictEqual(yield* role("standby", [p, old]), "standby")
        assert.strictEqual(yield* role("primary", [old, p]), "primary")
        // The server may fall silent when its role is queried.
        yield* between.onClientData((chunk) => chunk.includes("pg_is_in_recovery") ? "silence" : "pass")
        failsToConnect(
          yield* promptly(refused(between.url, { settings: quickly, target: { targetSessionAttrs: "standby" } })),
          true
        )
        const settings = { connectTimeout: Duration.minutes(10) }
        const fiber = yield* Effect.fork(
          connection(between.url, { settings, target: { targetSessionAttrs: "standby" } })
        )
        yield* Effect.sleep("200 millis")
        yield* promptly(Fiber.interrupt(fiber))
      })), 240_000)
  })
})
