import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import type * as Net from "node:net"
import * as Util from "node:util"
import * as Database from "../src/Database.js"
import { type DatabaseError, isDatabaseError, isRetryable } from "../src/DatabaseError.js"
import { assertHoldsNot } from "./internal/renderings.js"
import { eventually } from "./support/eventually.js"
import { fuzz } from "./support/hostile.js"
import * as Hostile from "./support/hostileServer.js"

type Options = Parameters<typeof Database.make>[0]

const crashes: Array<unknown> = []
process.on("uncaughtExceptionMonitor", (error) => crashes.push(error))
process.on("unhandledRejection", (error) => crashes.push(error))

const silently = Effect.provide(Logger.remove(Logger.defaultLogger))

const open = (server: Hostile.HostileServer, options: Options = {}) =>
  Database.make({ environment: "test", url: server.url, connectTimeout: "400 millis", sslMode: "disable", ...options })

/** What is logged, in every form, and what the effect came to. */
const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make((entry) => {
      lines.push(Logger.stringLogger.log(entry), Logger.jsonLogger.log(entry), Util.inspect(entry.message))
    })
    return effect.pipe(
      Effect.exit,
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Effect.map((exit) => ({ exit, log: lines.join("\n") }))
    )
  })

const failureOf = (exit: Exit.Exit<unknown, unknown>, what: string): DatabaseError => {
  assert(Exit.isFailure(exit), `${what}: it did not fail`)
  assert(exit.cause._tag === "Fail", `${what}: ${Cause.pretty(exit.cause)}`)
  assert(isDatabaseError(exit.cause.error), `${what}: ${Cause.pretty(exit.cause)}`)
  return exit.cause.error
}

/** Milliseconds, far above what any attempt takes on a busy machine, and below the longer timeouts of these tests. */
const promptly = 20_000

/** A database that such a server must not become: why, and that nothing is left of the attempt. */
const refusedBy = (
  what: string,
  script: Hostile.Script,
  options: Options = {},
  raw = false
): Effect.Effect<DatabaseError> =>
  Effect.scoped(Effect.gen(function*() {
    const server = yield* Hostile.hostileServer(script, raw)
    const started = performance.now()
    const { exit, log } = yield* logged(Effect.scoped(open(server, options)))
    const error = failureOf(exit, what)
    assert.isBelow(performance.now() - started, promptly, what)
    assertHoldsNot(error, Hostile.canary)
    assert.notInclude(log, Hostile.canary, what)
    assert.notInclude(log, encodeURIComponent(Hostile.canary), what)
    yield* eventually(Effect.sync(() => server.sockets.size === 0))
    assert.deepStrictEqual(crashes, [], what)
    return error
  }))

const scram = (socket: Net.Socket, piece: Buffer, nth: number, answer: (nonce: string) => Buffer): void => {
  if (nth === 0) {
    socket.write(Hostile.sasl)
  } else if (nth === 1) {
    const nonce = /r=([^,]+)/.exec(piece.toString("latin1"))![1]
    socket.write(answer(nonce))
  }
}

const serverFirst = (nonce: string, iterations = "4096") =>
  Hostile.authentication(11, `r=${nonce}abc,s=${Buffer.from("salt").toString("base64")},i=${iterations}`)

/** What is said up to each stage of the start-up, by the pieces that the client has sent before. */
const stages: ReadonlyArray<readonly [name: string, said: Buffer]> = [
  ["before it says anything", Buffer.alloc(0)],
  ["after it asked for a password", Hostile.cleartext],
  ["after it asked for a hashed password", Hostile.md5],
  ["after it asked for a proof", Hostile.sasl],
  ["after it let the user in", Hostile.authenticationOk],
  ["after a setting", Buffer.concat([Hostile.authenticationOk, Hostile.parameterStatus("server_version", "18.0")])],
  ["before it is ready", Hostile.welcome.subarray(0, Hostile.welcome.length - Hostile.ready().length)],
  ["in the middle of a message", Hostile.welcome.subarray(0, Hostile.welcome.length - 3)],
  ["in the middle of an error", Hostile.problem({ S: "FATAL", C: "28000", M: "no" }).subarray(0, 12)]
]

const endings: ReadonlyArray<readonly [name: string, end: (socket: Net.Socket) => void]> = [
  ["closes", (socket) => socket.end()],
  ["breaks off", (socket) => socket.destroySoon()],
  ["resets", (socket) => socket.resetAndDestroy()]
]

const once = (bytes: Buffer): Hostile.Script => (socket, _, nth) => {
  if (nth === 0) {
    socket.write(bytes)
  }
}

describe("a server that is none", () => {
  it.live("closes in each stage of the start-up: a ConnectionFailed that says where", () =>
    Effect.gen(function*() {
      for (const [stage, said] of stages) {
        for (const [ending, end] of endings) {
          const error = yield* refusedBy(`${ending} ${stage}`, (socket) => {
            socket.write(said, () => end(socket))
          })
          assert.strictEqual(error._tag, "ConnectionFailed", `${ending} ${stage}: ${error.message}`)
          assert.include(error.message, "127.0.0.1")
        }
      }
    }))

  it.live("falls silent in each stage of the start-up: costs the connect timeout and no more", () =>
    Effect.forEach(stages, ([stage, said]) =>
      Effect.gen(function*() {
        const before = performance.now()
        const error = yield* refusedBy(stage, once(said))
        assert.strictEqual(error._tag, "ConnectionFailed", error.message)
        assert.strictEqual(error.code, "08001")
        assert.include(error.message, "no answer within the connect timeout")
        assert.isAbove(performance.now() - before, 350, stage)
      }), { concurrency: 4, discard: true }))

  it.live("is silent, or babbles, where TLS was agreed on", () =>
    Effect.gen(function*() {
      for (
        const [what, answer] of [
          ["silence", Buffer.alloc(0)],
          ["silence after a yes", Buffer.from("S")],
          ["an error in place of a yes", Hostile.problem({ S: "FATAL", C: "0A000", M: "no TLS here" })],
          ["another letter", Buffer.from("X")],
          ["a yes and more", Buffer.from("S and more")]
        ] as const
      ) {
        const error = yield* refusedBy(what, once(answer), { sslMode: "require" }, true)
        assert.strictEqual(error._tag, "ConnectionFailed", `${what}: ${error.message}`)
      }
      const babble = yield* refusedBy(
        "nonsense after a yes",
        (socket, _, nth) => socket.write(nth === 0 ? "S" : "this is no TLS record at all"),
        { sslMode: "require" },
        true
      )
      assert.strictEqual(babble._tag, "ConnectionFailed")
      assert.include(babble.message, "TLS")
    }))

  it.live("has no process for a connection: a failure that passes, whose text is shown where no TLS was asked for", () =>
    Effect.gen(function*() {
      const text = "could not fork new process for connection: Resource temporarily unavailable"
      for (
        const [sslMode, shown] of [["disable", text], ["prefer", "cannot start"], ["require", "cannot start"]] as const
      ) {
        const error = yield* refusedBy(sslMode, once(Buffer.from(`E${text}\n\0`)), { sslMode }, true)
        assert.strictEqual(error._tag, "ConnectionFailed", error.message)
        assert.strictEqual(error.code, "57P03", error.message)
        assert.isTrue(isRetryable(error), error.message)
        assert.include(error.message, shown)
        assert.strictEqual(error.message.includes("fork"), sslMode === "disable", error.message)
      }
    }))

  const malformed: ReadonlyArray<readonly [name: string, said: Buffer, code: string]> = [
    ["announces two gigabytes at once", Hostile.message("R", "", 0x7fff_ffff), "08P01"],
    [
      "announces two gigabytes after it let the user in",
      Buffer.concat([Hostile.authenticationOk, Hostile.message("S", "x", 0x7fff_ffff)]),
      "08P01"
    ],
    [
      "announces a row of four gigabytes",
      Buffer.concat([Hostile.authenticationOk, Hostile.message("D", "x", 0xffff_ffff)]),
      "08P01"
    ],
    ["announces less than nothing", Buffer.concat([Hostile.authenticationOk, Hostile.message("S", "x", 0)]), "08P01"],
    [
      "is ready in no state",
      Buffer.concat([Hostile.authenticationOk, Hostile.backendKey, Hostile.ready("X")]),
      "08P01"
    ],
    ["is ready at length", Buffer.concat([Hostile.authenticationOk, Hostile.message("Z", "II")]), "08P01"],
    [
      "sends an error without an end, later",
      Buffer.concat([Hostile.authenticationOk, Hostile.message("E", "SFATAL\0C28000")]),
      "08P01"
    ],
    [
      "sends an error that ends with a field",
      Buffer.concat([Hostile.authenticationOk, Hostile.message("E", "SFATAL\0")]),
      "08P01"
    ],
    ["sends a notice without an end", Hostile.message("N", "SNOTICE\0Mx"), "08P01"],
    ["sends a notice of nothing", Buffer.concat([Hostile.authenticationOk, Hostile.message("N")]), "08P01"],
    ["sends an error behind its end", Hostile.message("E", "SFATAL\0\0more"), "08P01"],
    ["sends a key that is too short", Buffer.concat([Hostile.authenticationOk, Hostile.message("K", "x")]), "08P01"],
    ["asks for an authentication that is not known", Hostile.authentication(99), "08P01"],
    ["asks for Kerberos", Hostile.authentication(7), "08P01"],
    ["is ready without having let anybody in", Buffer.concat([Hostile.cleartext, Hostile.ready()]), "08P01"]
  ]

  it.live("speaks nonsense: a ConnectionFailed at once, that trying again cannot help", () =>
    Effect.gen(function*() {
      for (const [name, said, code] of malformed) {
        const error = yield* refusedBy(name, once(said), { connectTimeout: "1 minute" })
        assert.strictEqual(error._tag, "ConnectionFailed", `${name}: ${error.message}`)
        assert.strictEqual(error.code, code, `${name}: ${error.message}`)
      }
    }))

  it.live("sends errors with fields missing: typed, whatever is left of them", () =>
    Effect.gen(function*() {
      const all = { S: "FATAL", V: "FATAL", C: "28P01", M: "no such user" }
      const letters = Object.keys(all) as ReadonlyArray<keyof typeof all>
      for (let missing = 0; missing < 1 << letters.length; missing++) {
        const fields = Object.fromEntries(letters.filter((_, i) => (missing & (1 << i)) === 0).map((l) => [l, all[l]]))
        const what = JSON.stringify(fields)
        const error = yield* refusedBy(what, once(Hostile.problem(fields)), { connectTimeout: "1 minute" })
        assert.include(["ConnectionFailed", "AuthenticationFailed"], error._tag, what)
        if ("S" in fields && "C" in fields) {
          assert.strictEqual(error._tag, "AuthenticationFailed", what)
        }
      }
    }))

  it.live("refuses and asks for the password in one piece: its refusal counts", () =>
    Effect.gen(function*() {
      const no = Hostile.problem({ S: "FATAL", C: "53300", M: "too many clients" })
      for (const ask of [Hostile.cleartext, Hostile.md5, Hostile.sasl]) {
        const error = yield* refusedBy("refuses and asks", once(Buffer.concat([no, ask])), {
          connectTimeout: "1 minute"
        })
        assert.strictEqual(error.code, "53300")
        const both = yield* refusedBy("asks twice", once(Buffer.concat([ask, no, ask])), {
          connectTimeout: "1 minute"
        })
        assert.strictEqual(both.code, "53300")
      }
      // What would have come of it comes later.
      yield* Effect.sleep("100 millis")
      assert.deepStrictEqual(crashes, [])
    }))

  it.live("proves nothing: is not believed", () =>
    Effect.gen(function*() {
      const proofs: ReadonlyArray<readonly [name: string, answer: (nonce: string) => Buffer]> = [
        ["lets in before the proof", () => Hostile.welcome],
        ["a nonce of its own", () => serverFirst("mine")],
        ["a nonce without an addition", (nonce) => Hostile.authentication(11, `r=${nonce},s=c2FsdA==,i=4096`)],
        ["as many rounds as keep a thread busy for hours", (nonce) => serverFirst(nonce, "2147483647")],
        ["rounds that are no number", (nonce) => serverFirst(nonce, "many")],
        ["nothing to go on with", () => Hostile.authentication(11)],
        ["the end before the beginning", () => Hostile.authentication(12, "v=abcd")],
        ["the wrong proof", (nonce) =>
          Buffer.concat([serverFirst(nonce), Hostile.authentication(12, "v=bm90aGluZw=="), Hostile.welcome])]
      ]
      for (const [name, answer] of proofs) {
        const error = yield* refusedBy(name, (socket, piece, nth) =>
          scram(socket, piece, nth, answer), {
          connectTimeout: "1 minute"
        })
        assert.include(["AuthenticationFailed", "ConnectionFailed"], error._tag, `${name}: ${error.message}`)
      }
      // The right first half, but let in without the second.
      const half = yield* refusedBy("no proof at the end", (socket, piece, nth) => {
        scram(socket, piece, nth, serverFirst)
        if (nth === 2) {
          socket.write(Hostile.welcome)
        }
      }, { connectTimeout: "1 minute" })
      assert.include(half.message, "did not prove that it knows the password")
    }))

  it.live("floods the start-up with notices or settings: bounded in time and memory", () =>
    Effect.gen(function*() {
      const notice = Hostile.problem({ S: "NOTICE", C: "00000", M: "x".repeat(10_000) }, "N")
      let setting = 0
      const settings = () =>
        Buffer.concat(Array.from({ length: 100 }, () => Hostile.parameterStatus(`s${setting++}`, "x".repeat(1_000))))
      for (const [what, flood] of [["notices", () => notice], ["settings", settings]] as const) {
        let written = 0
        let peak = 0
        const before = process.memoryUsage().heapUsed
        const error = yield* refusedBy(what, (socket, _, nth) => {
          if (nth > 0) {
            return
          }
          socket.write(Hostile.authenticationOk)
          const pour = (): void => {
            const bytes = flood()
            if (socket.destroyed) {
              return
            }
            written += bytes.length
            peak = Math.max(peak, process.memoryUsage().heapUsed)
            if (socket.write(bytes)) {
              setImmediate(pour)
            } else {
              socket.once("drain", () => setImmediate(pour))
            }
          }
          pour()
        })
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.isAbove(written, 0, what)
        assert.isBelow(peak - before, 200_000_000, what)
      }
    }))

  it.live("says anything at all: typed, in time, and nothing is left", () =>
    fuzz(
      FastCheck.array(
        FastCheck.oneof(
          FastCheck.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes)),
          FastCheck.constantFrom(
            Hostile.authenticationOk,
            Hostile.cleartext,
            Hostile.md5,
            Hostile.sasl,
            Hostile.backendKey,
            Hostile.commandComplete("SELECT 1"),
            Hostile.rowDescription("a"),
            Hostile.dataRow("x"),
            Hostile.problem({ S: "ERROR", C: "22012", M: "x" }),
            Hostile.problem({ M: "x" }, "N")
          ),
          FastCheck.tuple(
            FastCheck.constantFrom(..."RSKZEN12CDTIGHdcvstAnVW3!".split("")),
            FastCheck.uint8Array({ maxLength: 24 }),
            FastCheck.option(FastCheck.nat(0xffff_ffff))
          ).map(([kind, body, length]) => Hostile.message(kind, Buffer.from(body), length ?? undefined))
        ),
        { maxLength: 8 }
      ),
      120,
      (said) =>
        Effect.asVoid(refusedBy("anything", (socket, _, nth) => {
          if (nth === 0) {
            socket.end(Buffer.concat(said))
          }
        }))
    ), 240_000)
})

const cancelRequest = 80_877_102

/** A server that lets everybody in, and then answers as told. */
const afterStartUp = (answer: (socket: Net.Socket, piece: Buffer) => void): Hostile.Script => (socket, piece, nth) => {
  if (piece.length === 16 && piece.readInt32BE(4) === cancelRequest) {
    socket.end()
  } else if (nth === 0) {
    socket.write(Hostile.welcome)
  } else {
    answer(socket, piece)
  }
}

const ok = (tag: string) => Buffer.concat([Hostile.commandComplete(tag), Hostile.ready()])

/** A session with a statement over such a server, and that the pool and the server have nothing left of it. */
const session = (
  what: string,
  answer: (socket: Net.Socket, piece: Buffer) => void
): Effect.Effect<Exit.Exit<unknown, unknown>> =>
  Effect.gen(function*() {
    const server = yield* Hostile.hostileServer(afterStartUp(answer))
    const exit = yield* Effect.scoped(Effect.gen(function*() {
      const database = yield* open(server, { connectTimeout: "2 seconds", shutdownTimeout: "100 millis", poolSize: 2 })
      const exit = yield* Effect.exit(
        database.session(database.sql`SELECT ${Hostile.canary}`, { timeout: "200 millis" })
      )
      // A connection that comes back unclean is reset by the pool itself.
      yield* eventually(Effect.map(database.poolStats, ({ used, waiting }) => used === 0 && waiting === 0))
      return exit
    }))
    if (Exit.isFailure(exit)) {
      assertHoldsNot(failureOf(exit, what), Hostile.canary)
    }
    yield* eventually(Effect.sync(() => server.sockets.size === 0))
    assert.deepStrictEqual(crashes, [], what)
    return exit
  }).pipe(Effect.scoped, silently, Effect.orDie)

describe("a server that lets everybody in", () => {
  it.live("and then says things in the wrong order: typed errors, and no connection is used again", () =>
    fuzz(
      FastCheck.array(
        FastCheck.constantFrom(
          Hostile.ready("I"),
          Hostile.ready("T"),
          Hostile.ready("E"),
          Hostile.commandComplete("BEGIN"),
          Hostile.commandComplete("COMMIT"),
          Hostile.commandComplete("ROLLBACK"),
          Hostile.commandComplete("nonsense 1 2 3"),
          Hostile.rowDescription("__proto__"),
          Hostile.dataRow("{\"polluted\":true}"),
          // In quotes, since it may be the answer to BEGIN, which has no parameters to look for.
          Hostile.problem({ S: "ERROR", C: "40001", M: `serialize "${Hostile.canary}"` }),
          Hostile.problem({ S: "ERROR", M: "no code" }),
          Hostile.problem({}),
          Hostile.problem({ S: "FATAL", C: "57P01", M: "bye" }),
          Hostile.problem({ M: "notice" }, "N"),
          Hostile.parameterStatus("TimeZone", "UTC"),
          Hostile.message("A", Buffer.from("\0\0\0\x01channel\0payload\0")),
          Hostile.message("1"),
          Hostile.message("2"),
          Hostile.message("3"),
          Hostile.message("I"),
          Hostile.message("n"),
          Hostile.message("s"),
          Hostile.message("c"),
          Hostile.message("d", "data"),
          Hostile.message("G", Buffer.from([0, 0, 0])),
          Hostile.message("H", Buffer.from([0, 0, 0])),
          Hostile.message("W", Buffer.from([0, 0, 0])),
          Hostile.message("t", Buffer.from([0, 1, 0, 0, 0, 25])),
          Hostile.message("D", Buffer.from([0, 9, 0, 0])),
          Hostile.cleartext,
          Hostile.sasl,
          Hostile.authenticationOk,
          Hostile.backendKey,
          Buffer.from("!?")
        ),
        { maxLength: 6 }
      ),
      40,
      (said) =>
        Effect.map(session("wrong order", (socket) => socket.write(Buffer.concat(said))), () => {
          assert.isUndefined(({} as { readonly polluted?: boolean }).polluted)
        })
    ), 240_000)

  it.live("and answers with a message of two gigabytes, or none: lost at once", () =>
    Effect.gen(function*() {
      for (const [kind, length] of [["D", 0x7fff_ffff], ["C", 40_000], ["Z", 6], ["D", 3], ["E", 4]] as const) {
        const exit = yield* session(
          `${kind} of ${length}`,
          (socket) => socket.write(Hostile.message(kind, "", length))
        )
        const error = failureOf(exit, kind)
        assert.strictEqual(error._tag, "ConnectionLost", error.message)
        assert.strictEqual(error.code, "08P01")
      }
    }))

  it.live("and says why it ends before it talks nonsense: the reason counts", () =>
    Effect.gen(function*() {
      const exit = yield* session("bye", (socket) =>
        socket.write(Buffer.concat([
          Hostile.problem({ S: "FATAL", C: "57P01", M: "terminating connection" }),
          Hostile.message("Z", "nonsense")
        ])))
      assert.strictEqual(failureOf(exit, "bye").code, "57P01")
    }))

  it.live("and never answers again: the session's timeout counts, its rollback is bounded", () =>
    Effect.gen(function*() {
      const started = performance.now()
      const exit = yield* session("silence", () => undefined)
      assert.strictEqual(failureOf(exit, "silence")._tag, "SessionTimeout")
      assert.isBelow(performance.now() - started, promptly)
    }))

  it.live("and answers a commit with nonsense: its outcome is unknown, never a success", () =>
    Effect.gen(function*() {
      for (const nonsense of ["!", "HTTP/1.1 200 OK\r\n\r\n", "\0\0\0\0\0\0\0\0"]) {
        const exit = yield* session("commit", (socket, piece) => {
          const text = piece.toString("latin1")
          if (text.includes("BEGIN")) {
            socket.write(Buffer.concat([Hostile.commandComplete("BEGIN"), Hostile.ready("T")]))
          } else if (text.includes("COMMIT")) {
            socket.end(nonsense)
          } else {
            socket.write(Buffer.concat([Hostile.commandComplete("SELECT 0"), Hostile.ready("T")]))
          }
        })
        assert.strictEqual(failureOf(exit, "commit")._tag, "CommitOutcomeUnknown")
      }
    }))

  it.live("and floods with notices and settings before it answers: bounded memory, and the answer counts", () =>
    Effect.gen(function*() {
      const notice = Hostile.problem({ S: "NOTICE", C: "00000", M: "x".repeat(20_000) }, "N")
      const settings = Buffer.concat(
        Array.from({ length: 200 }, (_, i) => Hostile.parameterStatus(`flood.s${i}`, "x".repeat(500)))
      )
      const server = yield* Hostile.hostileServer(afterStartUp((socket) => {
        let left = 1_000
        const pour = (): void => {
          while (left-- > 0) {
            if (!socket.write(left % 5 === 0 ? settings : notice)) {
              socket.once("drain", pour)
              return
            }
          }
          socket.write(ok("SELECT 0"))
        }
        pour()
      }))
      const database = yield* open(server, { connectTimeout: "2 seconds" })
      const before = process.memoryUsage().heapUsed
      const rows = yield* database.sql`SELECT 1`
      assert.deepStrictEqual(rows, [])
      assert.isBelow(process.memoryUsage().heapUsed - before, 150_000_000)
    }).pipe(Effect.scoped, silently))
})
