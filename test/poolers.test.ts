/** What poolers answer to a start-up, by scripted servers; a real PgBouncer is in pgbouncer.test.ts. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Database from "../src/Database.js"
import type * as DatabaseConfig from "../src/DatabaseConfig.js"
import * as Hostile from "./support/hostileServer.js"

const silently = Effect.provide(Logger.remove(Logger.defaultLogger))

/** Names and values of a start-up message. */
const parametersOf = (piece: Buffer): Record<string, string> => {
  const texts = piece.subarray(8).toString("utf8").split("\0")
  return Object.fromEntries(
    Array.from({ length: Math.floor(texts.length / 2) }, (_, i) => [texts[2 * i], texts[2 * i + 1]] as const)
      .filter(([name]) => name !== "")
  )
}

/** A server that answers each start-up; undefined lets in. It keeps the start-up messages. */
const pooler = (answer: (parameters: Record<string, string>, nth: number) => Buffer | undefined) =>
  Effect.gen(function*() {
    const startups: Array<Record<string, string>> = []
    const server = yield* Hostile.hostileServer((socket, piece, nth) => {
      if (nth > 0) {
        return
      }
      const parameters = parametersOf(piece)
      startups.push(parameters)
      const refusal = answer(parameters, startups.length)
      if (refusal === undefined) {
        socket.write(Hostile.welcome)
      } else {
        socket.end(refusal)
      }
    })
    return { startups, url: server.url }
  })

const fatal = (code: string, text: string): Buffer => Hostile.problem({ S: "FATAL", V: "FATAL", C: code, M: text })

const production = (options: DatabaseConfig.Options) =>
  Database.make({ environment: "production", sslMode: "disable", poolSize: 1, poolMaxOverflow: 0, ...options })

const permanent: ReadonlyArray<
  readonly [code: string, text: string, tag: "ConnectionFailed" | "AuthenticationFailed"]
> = [
  ["08P01", "no such database: ledger", "ConnectionFailed"],
  ["08P01", "database \"ledger\" does not exist", "ConnectionFailed"],
  ["08P01", "database does not allow connections: ledger", "ConnectionFailed"],
  ["08P01", "no such user: app", "AuthenticationFailed"],
  ["08P01", "SASL authentication failed", "AuthenticationFailed"],
  ["08P01", "password authentication failed", "AuthenticationFailed"],
  ["08P01", "login rejected", "AuthenticationFailed"],
  ["08P01", "SSL required", "ConnectionFailed"],
  ["08P01", "server login failed: FATAL password authentication failed for user \"app\"", "AuthenticationFailed"],
  ["08P01", "unsupported startup parameter: something_else", "ConnectionFailed"],
  ["XX000", "Tenant or user not found", "AuthenticationFailed"],
  ["XX000", "(ENOTFOUND) tenant/user app.ledger not found", "AuthenticationFailed"],
  ["XX000", "(EADDRNOTALLOWED) address not in tenant allow_list: {127, 0, 0, 1}", "AuthenticationFailed"],
  ["XX000", "(ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname required)", "ConnectionFailed"],
  ["XX000", "(ESSLREQUIRED) SSL connection is required for user: app", "ConnectionFailed"],
  ["XX000", "Authentication error, reason: \"Invalid format for user or db_name\"", "AuthenticationFailed"],
  [
    "28000",
    "This RDS Proxy has no credentials for the role app. Check the credentials for this role",
    "AuthenticationFailed"
  ],
  ["08P01", "This RDS Proxy requires TLS connections", "ConnectionFailed"],
  ["XX000", "The requested endpoint could not be found, or you don't have access to it.", "ConnectionFailed"],
  ["XX000", "The endpoint has been disabled. Enable it using Neon API and retry.", "ConnectionFailed"],
  [
    "08P01",
    "Endpoint ID is not specified. Either please upgrade the postgres client library (libpq) for SNI support",
    "ConnectionFailed"
  ],
  ["XX000", "Your account or project has exceeded the compute time quota. Upgrade your plan", "ConnectionFailed"],
  ["3D000", "database \"ledger\" does not exist", "ConnectionFailed"],
  ["28P01", "password authentication failed for user \"app\"", "AuthenticationFailed"]
]

const transient: ReadonlyArray<readonly [code: string, text: string]> = [
  ["08P01", "no more connections allowed (max_client_conn)"],
  ["08P01", "pgbouncer cannot connect to server"],
  ["08P01", "server login has been failing, try again later (server_login_retry)"],
  ["08P01", "server login failed: FATAL the database system is starting up"],
  ["08P01", "client_login_timeout (server down)"],
  ["XX000", "Max client connections reached"],
  ["XX000", "(EMAXCONN) max client connections reached, limit: 200"],
  ["XX000", "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size"],
  ["XX000", "Control plane request failed"],
  ["XX000", "Couldn't connect to compute node"],
  ["53300", "sorry, too many clients already"],
  ["57P03", "the database system is starting up"]
]

describe("a pooler refuses", () => {
  it.live(
    "what cannot pass: it fails at once, in production too",
    () =>
      Effect.forEach(permanent, ([code, text, tag]) =>
        Effect.scoped(Effect.gen(function*() {
          const { startups, url } = yield* pooler(() => fatal(code, text))
          const error = yield* silently(Effect.flip(production({ url })))
          assert.strictEqual(error._tag, tag, `${text}: ${error.message}`)
          assert.isFalse(error._tag === "ConnectionFailed" && error.transient, error.message)
          assert.include(error.message, text)
          assert.strictEqual(startups.length, 1, text)
        })), { discard: true }),
    240_000
  )

  it.live(
    "what may pass: it is tried again",
    () =>
      Effect.forEach(transient, ([code, text]) =>
        Effect.scoped(Effect.gen(function*() {
          const { startups, url } = yield* pooler((_, nth) => nth === 1 ? fatal(code, text) : undefined)
          yield* silently(Effect.scoped(production({ url })))
          assert.strictEqual(startups.length, 2, text)
        })), { concurrency: 4, discard: true }),
    240_000
  )

  const timeouts = {
    statementTimeout: "5 seconds",
    lockTimeout: "2 seconds",
    idleInTransactionTimeout: "3 seconds"
  } as const

  const parameters = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]

  it.live("a timeout as a start-up parameter: it is left out at once, and by later connections", () =>
    Effect.forEach([
      (name: string) => fatal("08P01", `unsupported startup parameter: ${name}`),
      (name: string) =>
        fatal("0A000", `Feature not supported: RDS Proxy currently doesn\u2019t support the option ${name}.`)
    ], (refusal) =>
      Effect.scoped(Effect.gen(function*() {
        const { startups, url } = yield* pooler((given) => {
          const name = parameters.find((name) => given[name] !== undefined)
          return name === undefined ? undefined : refusal(name)
        })
        const lines: Array<string> = []
        const logger = Logger.make(({ logLevel, message }) => {
          lines.push(`${logLevel.label} ${String(message)}`)
        })
        yield* Effect.scoped(production({ url, ...timeouts })).pipe(
          Effect.provide(Logger.replace(Logger.defaultLogger, logger))
        )
        assert.strictEqual(startups.length, 4)
        assert.strictEqual(startups[0].statement_timeout, "5000")
        assert.deepStrictEqual(parameters.filter((name) => startups[3][name] !== undefined), [])
        assert.deepStrictEqual(lines.map((line) => parameters.filter((name) => line.includes(` ${name}:`))), [
          ["statement_timeout"],
          ["lock_timeout"],
          ["idle_in_transaction_session_timeout"]
        ])
      })), { discard: true }))

  it.live("what statements rely on: it fails at once, and says which variable and what to do", () =>
    Effect.forEach([
      ["?options=-c%20search_path%3Dapp", "unsupported startup parameter: options", "08P01", "parameter options"],
      [
        "?options=-c%20search_path%3Dapp",
        "unsupported startup parameter in options: search_path",
        "08P01",
        "parameter options"
      ],
      [
        "?options=-c%20search_path%3Dapp",
        "Feature not supported: RDS Proxy currently doesn\u2019t support command-line options.",
        "0A000",
        "parameter options"
      ],
      ["?schema=app", "unsupported startup parameter: search_path", "08P01", "parameter schema"]
    ], ([search, text, code, origin]) =>
      Effect.scoped(Effect.gen(function*() {
        const { startups, url } = yield* pooler(() => fatal(code, text))
        const error = yield* silently(Effect.flip(production({ url: url + search })))
        assert.strictEqual(error._tag, "ConnectionFailed")
        assert.isFalse(error._tag === "ConnectionFailed" && error.transient)
        assert.include(error.message, text.replace(/\.$/, ""))
        assert.include(error.message, `${origin} of DATABASE_URL`)
        assert.include(error.message, "ignore_startup_parameters")
        assert.strictEqual(startups.length, 1)
      })), { discard: true }))

  it.live("the same parameter for ever: it is left out once", () =>
    Effect.scoped(Effect.gen(function*() {
      const { startups, url } = yield* pooler(() => fatal("08P01", "unsupported startup parameter: statement_timeout"))
      const error = yield* silently(Effect.flip(production({ url, ...timeouts })))
      assert.strictEqual(error._tag, "ConnectionFailed")
      assert.strictEqual(startups.length, 2)
    })))

  it.live("Prisma's schema is the only one of the search path", () =>
    Effect.scoped(Effect.gen(function*() {
      const { startups, url } = yield* pooler(() => undefined)
      yield* silently(Effect.scoped(production({ url: `${url}?schema=my%20%22schema%22` })))
      assert.strictEqual(startups[0].search_path, "\"my \"\"schema\"\"\"")
    })))
})
