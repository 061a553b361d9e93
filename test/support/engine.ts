/**
 * Engines that speak PostgreSQL's protocol and lack some of it: a real server behind a relay, which refuses what the engine's
 * documentation says that it does not have, with the codes that it gives, and reports at start-up what the engine reports.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Net from "node:net"
import { message, parameterStatus } from "./hostileServer.js"
import { freshDatabase, query } from "./postgres.js"

/** What becomes of a statement: an error, or another text that the server executes in its place. */
export type Treatment =
  | { readonly code: string; readonly message: string }
  | { readonly text: string }
  | ((statement: string) => string)

export interface EngineOptions {
  /** What is reported at start-up in place of the server's own values. Undefined: it is not reported. */
  readonly parameters: { readonly [name: string]: string | undefined }
  /** The first pattern that matches a statement decides. What none matches is executed as it is. */
  readonly treatments: ReadonlyArray<readonly [pattern: RegExp, treatment: Treatment]>
}

export interface EngineServer {
  readonly url: string
  /** The database behind it, without the relay. */
  readonly database: string
  /** The statements that were sent, in order. */
  readonly statements: Array<string>
}

const unsupported = (message: string): Treatment => ({ code: "0A000", message })
const noFunction = (message: string): Treatment => ({ code: "42883", message })

/** https://www.cockroachlabs.com/docs/stable/postgresql-compatibility */
export const cockroach: EngineOptions = {
  parameters: {
    server_version: "18.0.0",
    crdb_version: "CockroachDB CCL v26.3.0 (x86_64-pc-linux-gnu, built 2026/08/01 00:00:00, go1.25)"
  },
  treatments: [
    [/^\s*UNLISTEN\b/i, { code: "42601", message: "at or near \"unlisten\": syntax error" }],
    [/^\s*LISTEN\b/i, unsupported("unimplemented: this syntax")],
    [/pg_xact_status|pg_current_xact_id|pg_current_wal/, noFunction("unknown function: pg_xact_status()")],
    [/^\s*SET seed\b/i, { code: "42704", message: "unrecognized configuration parameter \"seed\"" }],
    [/^\s*DISCARD TEMP\b/i, unsupported("unimplemented: this syntax")],
    // They answer, and lock nothing.
    [/pg_try_advisory_xact_lock/, { text: "SELECT true AS locked" }]
  ]
}

/** https://docs.yugabyte.com/stable/api/ysql/sql-feature-support */
export const yugabyte: EngineOptions = {
  parameters: { server_version: "15.12-YB-2025.1.0.0-b0", in_hot_standby: "off" },
  treatments: [
    [/^\s*(?:UN)?LISTEN\b/i, unsupported("LISTEN not supported yet")],
    [/advisory/, unsupported("advisory locks are not yet implemented")]
  ]
}

/** https://docs.aws.amazon.com/aurora-dsql/latest/userguide/working-with-postgresql-compatibility.html */
export const dsql: EngineOptions = {
  parameters: { server_version: "16.13", in_hot_standby: undefined },
  treatments: [
    [/^\s*SAVEPOINT\b/i, unsupported("unsupported statement: Savepoint")],
    [/^\s*(?:UN)?LISTEN\b/i, unsupported("unsupported statement: Listen")],
    [/^\s*DISCARD\b/i, unsupported("unsupported statement: Discard")],
    [/^\s*CREATE TEMP/i, unsupported("unsupported table persistence: Temporary")],
    [/advisory/, unsupported("unsupported function: pg_advisory_lock")],
    [/pg_xact_status|pg_current_xact_id|pg_current_wal/, unsupported("unsupported function: pg_current_xact_id")],
    [/^\s*SET seed\b/i, unsupported("setting configuration parameter \"seed\" not supported")]
  ]
}

const refuseSql = `CREATE SCHEMA engine;
CREATE FUNCTION engine.refuse(code text, message text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message; END $$`

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

/** The text with what is done in its place. A text of several statements is taken apart. */
const treated = (text: string, { treatments }: EngineOptions, onStatement: (statement: string) => void): string =>
  text.split(";").map((statement) => {
    onStatement(statement.trim())
    const treatment = treatments.find(([pattern]) => pattern.test(statement))?.[1]
    if (treatment === undefined) {
      return statement
    }
    const parameters = Array.from(new Set(statement.match(/\$\d+/g) ?? []), (name) => `, ${name}::text`).join("")
    return typeof treatment === "function"
      ? treatment(statement)
      : "text" in treatment
      ? `${treatment.text}${parameters}`
      : `SELECT engine.refuse(${literal(treatment.code)}, ${literal(treatment.message)})${parameters}`
  }).join(";")

/** Calls back with each message, and gives what is left. Start-up messages have no letter. */
const eachMessage = (data: Buffer, onMessage: (kind: string, bytes: Buffer) => void): Buffer => {
  let rest = data
  while (rest.length >= 5 && rest.length > rest.readUInt32BE(1)) {
    const length = rest.readUInt32BE(1) + 1
    onMessage(String.fromCharCode(rest[0]), rest.subarray(0, length))
    rest = rest.subarray(length)
  }
  return rest
}

const relayClient = (client: Net.Socket, to: URL, options: EngineOptions, statements: Array<string>): void => {
  const server = Net.connect(Number(to.port), to.hostname)
  let isStarted = false
  let isReady = false
  let fromClient = Buffer.alloc(0)
  let fromServer = Buffer.alloc(0)
  const onStatement = (statement: string) => void statements.push(statement)
  const onClientMessage = (kind: string, bytes: Buffer): void => {
    if (kind === "Q") {
      const text = bytes.subarray(5, -1).toString()
      server.write(message("Q", `${treated(text, options, onStatement)}\0`))
    } else if (kind === "P") {
      const nameEnd = bytes.indexOf(0, 5)
      const textEnd = bytes.indexOf(0, nameEnd + 1)
      const text = treated(bytes.subarray(nameEnd + 1, textEnd).toString(), options, onStatement)
      server.write(message(
        "P",
        Buffer.concat([
          bytes.subarray(5, nameEnd + 1),
          Buffer.from(text),
          bytes.subarray(textEnd)
        ])
      ))
    } else {
      server.write(bytes)
    }
  }
  const onServerMessage = (kind: string, bytes: Buffer): void => {
    const name = kind === "S" ? bytes.subarray(5, bytes.indexOf(0, 5)).toString() : ""
    if (isReady || !(name in options.parameters)) {
      if (kind === "Z" && !isReady) {
        isReady = true
        for (const [name, value] of Object.entries(options.parameters)) {
          client.write(value === undefined ? "" : parameterStatus(name, value))
        }
      }
      client.write(bytes)
    }
  }
  client.on("data", (data) => {
    fromClient = Buffer.concat([fromClient, data])
    if (!isStarted) {
      if (fromClient.length === 8 && fromClient.readUInt32BE(4) === 80877103) {
        fromClient = Buffer.alloc(0)
        return void client.write("N")
      }
      const length = fromClient.readUInt32BE(0)
      isStarted = true
      server.write(fromClient.subarray(0, length))
      fromClient = fromClient.subarray(length)
    }
    fromClient = Buffer.from(eachMessage(fromClient, onClientMessage))
  })
  server.on("data", (data) => {
    fromServer = Buffer.from(eachMessage(Buffer.concat([fromServer, data]), onServerMessage))
  })
  for (const [one, other] of [[client, server], [server, client]]) {
    one.on("error", () => other.destroy())
    one.on("close", () => other.destroy())
  }
}

/** A database of such an engine. It listens on 127.0.0.1 until the scope closes. */
export const engineServer = (options: EngineOptions): Effect.Effect<EngineServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const database = yield* freshDatabase
    yield* query(database, refuseSql)
    const to = new URL(database)
    const statements: Array<string> = []
    const sockets = new Set<Net.Socket>()
    const listener = Net.createServer((socket) => {
      sockets.add(socket)
      relayClient(socket, to, options, statements)
    })
    yield* Effect.acquireRelease(
      Effect.promise(() => once(listener.listen(0, "127.0.0.1"), "listening")),
      () =>
        Effect.sync(() => {
          listener.close()
          sockets.forEach((socket) => socket.destroy())
        })
    )
    const url = new URL(database)
    url.hostname = "127.0.0.1"
    url.port = String((listener.address() as Net.AddressInfo).port)
    return { url: url.toString(), database, statements }
  })
