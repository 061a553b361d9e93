/**
 * The engine of the server: PostgreSQL, or another one that speaks its protocol and lacks some of its features.
 *
 * PostgreSQL is recognized by the parameters that it reports at start-up, and is not probed. An engine that is
 * recognized as another one is probed once, on the first connection. An engine that cannot be recognized is taken for
 * PostgreSQL until it refuses something.
 */
import * as Effect from "effect/Effect"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import type { Exchange } from "./exchange.js"
import type { ReportedParameters } from "./parameters.js"

/** What an engine may lack. */
export type Capability =
  | "savepoints"
  | "advisoryLocks"
  /** `pg_xact_status`, and transaction ids that it can be asked for. */
  | "transactionStatus"
  /** Positions in the write-ahead log. */
  | "lsn"
  | "listen"
  | "temporaryTables"

interface Remedy {
  /** The name of the feature in errors. */
  readonly what: string
  readonly hint: string
}

const remedies: { readonly [C in Capability]: Remedy } = {
  savepoints: {
    what: "savepoints, which nested sessions use",
    hint: "use propagation \"join\" to run in the surrounding transaction, or \"new\" to open a separate one"
  },
  advisoryLocks: {
    what: "advisory locks",
    hint: "lock a row of a table instead: SELECT … FOR UPDATE"
  },
  transactionStatus: {
    what: "pg_xact_status, which tells the outcome of a verified commit",
    hint: "use commit: \"recorded\", whose marker row can be read on every engine"
  },
  lsn: {
    what: "positions in a write-ahead log, which tell whether a reader has replayed a commit",
    hint: "read what was just written with reader: \"primary\""
  },
  listen: {
    what: "LISTEN",
    hint: "poll a table, or use the engine's own change feed"
  },
  temporaryTables: {
    what: "temporary tables",
    hint: "use a table with a column that tells whose rows they are"
  }
}

interface Product {
  readonly name: string
  /** What it lacks by its documentation, even where it accepts the syntax or has a function of that name. */
  readonly lacks: ReadonlyArray<Capability>
}

/** https://www.cockroachlabs.com/docs/stable/postgresql-compatibility. Its advisory locks lock nothing. */
const cockroach: Product = {
  name: "CockroachDB",
  lacks: ["advisoryLocks", "transactionStatus", "lsn", "listen"]
}

/** https://docs.yugabyte.com/stable/api/ysql/sql-feature-support. Its tables are in no write-ahead log of PostgreSQL. */
const yugabyte: Product = { name: "YugabyteDB", lacks: ["transactionStatus", "lsn"] }

/** https://docs.aws.amazon.com/aurora-dsql/latest/userguide/working-with-postgresql-compatibility.html */
const dsql: Product = {
  name: "Aurora DSQL",
  lacks: ["savepoints", "advisoryLocks", "transactionStatus", "lsn", "listen", "temporaryTables"]
}

/** The endpoint of a cluster: https://docs.aws.amazon.com/aurora-dsql/latest/userguide/accessing.html */
const dsqlHost = /\.dsql(?:-[\w-]+)?\.[\w-]+\.on\.aws$/i

/** The product, if its parameters or its host show that it is not PostgreSQL. */
const productOf = (parameters: ReportedParameters, host: string): Product | undefined => {
  if (parameters.get("crdb_version") !== undefined) {
    return cockroach
  }
  return /-YB-/.test(parameters.get("server_version") ?? "") ? yugabyte : dsqlHost.test(host) ? dsql : undefined
}

/** PostgreSQL 14 and later report `in_hot_standby`. Other engines no longer report an earlier version. */
const isPostgres = (parameters: ReportedParameters): boolean =>
  parameters.get("in_hot_standby") !== undefined || Number.parseInt(parameters.get("server_version") ?? "", 10) < 14

/** Codes of what an engine does not know: feature_not_supported, syntax_error, undefined_object, undefined_function. */
const refusalCodes = new Set(["0A000", "42601", "42704", "42883"])

/** Whether an error says that the server does not know a command, a function or a setting. */
export const isRefusal = (error: unknown): boolean =>
  isDatabaseError(error) && error.code !== undefined && refusalCodes.has(error.code)

const waitCommand = "WAIT FOR LSN"

/**
 * The statements of the probe. The documentation, or a refusal of the server, shows whether other capabilities are
 * there.
 */
const probes: ReadonlyArray<readonly [capability: Capability, sql: string]> = [
  ["savepoints", "BEGIN; SAVEPOINT sqlayer_probe; ROLLBACK"],
  ["advisoryLocks", "SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('sqlayer probe', 0))"],
  ["listen", "LISTEN sqlayer_probe; UNLISTEN sqlayer_probe"],
  ["transactionStatus", "SELECT pg_catalog.pg_xact_status(pg_catalog.pg_current_xact_id())"],
  ["lsn", "SELECT pg_catalog.pg_current_wal_lsn()"]
]

/** What a statement of the application needs, by its text. */
const needs: ReadonlyArray<readonly [text: RegExp, capability: Capability]> = [
  [/^\s*(?:SAVEPOINT|RELEASE|ROLLBACK\s+TO)\b/i, "savepoints"],
  [/^\s*(?:(?:UN)?LISTEN|NOTIFY)\b|\bpg_notify\b/i, "listen"],
  [/\bpg_(?:try_)?advisory_/i, "advisoryLocks"],
  [/\bpg_xact_status\b/i, "transactionStatus"],
  [/\bpg_(?:current|last)_wal_/i, "lsn"],
  [/^\s*CREATE\s+(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\b/i, "temporaryTables"]
]

const needOf = (text: string): Capability | undefined => needs.find(([pattern]) => pattern.test(text))?.[1]

/** The connection that is probed. */
interface ProbedConnection {
  readonly query: (text: string) => Effect.Effect<unknown, DatabaseError>
  readonly rollback: Effect.Effect<void, DatabaseError>
  readonly destroy: () => void
}

/** The engine that a driver connects to. */
export class Engine {
  private product: Product | undefined = undefined
  private isIdentified = false
  private isProbed = false
  private readonly missing = new Set<Capability>()
  /** The commands that are left out, because the server does not know them. */
  readonly unknownCommands = new Set<string>()
  /** Whether it has all of PostgreSQL's commands, as far as is known without asking. */
  isPostgres = true

  /** Recognizes the engine by what a server has reported at start-up. Only the first call counts. */
  identify(parameters: ReportedParameters, host: string): void {
    if (!this.isIdentified) {
      this.isIdentified = true
      this.product = productOf(parameters, host)
      this.isPostgres = this.product === undefined && isPostgres(parameters)
      this.product?.lacks.forEach((capability) => this.missing.add(capability))
    }
  }

  /** Whether the server is known to lack something. */
  lacks(capability: Capability): boolean {
    return this.missing.has(capability)
  }

  /** The error of a command that needs a capability which the engine is known to lack. Undefined if it is not. */
  refusal(capability: Capability): DatabaseError | undefined {
    return this.missing.size > 0 && this.missing.has(capability)
      ? this.refused(capability, `${this.product?.name ?? "the server"} has no ${remedies[capability].what}`)
      : undefined
  }

  /** The error of a rejected exchange, with a hint if the engine lacks what the exchange needs. */
  explain(error: DatabaseError, exchange: Exchange): DatabaseError {
    if (!exchange.isRejected || !isRefusal(error)) {
      return error
    }
    const needed = exchange.rejectedNeed
    const capability = needed ?? (this.isPostgres || !exchange.options.user ? undefined : needOf(exchange.text))
    return capability === undefined ? error : this.explainNeed(error, capability)
  }

  /** The same for a statement that is known to need a capability. */
  explainNeed(error: DatabaseError, capability: Capability): DatabaseError {
    if (!isRefusal(error)) {
      return error
    }
    this.missing.add(capability)
    const name = this.product?.name ?? "the server"
    return this.refused(capability, `${error.reason}: ${name} has no ${remedies[capability].what}`, error.statement)
  }

  /** Whether the server knows WAIT FOR LSN, as PostgreSQL 19 does. */
  waitsForPositions(parameters: ReportedParameters): boolean {
    return this.isPostgres && !this.unknownCommands.has(waitCommand) &&
      Number.parseInt(parameters.get("server_version") ?? "", 10) >= 19
  }

  /** Notes that WAIT FOR LSN has failed. It is not used any more if the server does not know it. */
  waitRejected(error: DatabaseError): void {
    if (isRefusal(error)) {
      this.unknownCommands.add(waitCommand)
    }
  }

  /**
   * Notes that the server has rejected the commands that clean a connection: if it does not know them, it is not
   * PostgreSQL.
   */
  cleaningRejected(code: string | undefined): void {
    if (code !== undefined && refusalCodes.has(code)) {
      this.isPostgres = false
    }
  }

  /** Whether the next connection is to be probed. */
  get needsProbe(): boolean {
    return this.product !== undefined && !this.isProbed
  }

  /**
   * Finds out what the engine lacks. Fails if the connection is lost meanwhile, and destroys it if it is interrupted.
   */
  probe(connection: ProbedConnection, restore: Restore): Effect.Effect<void, DatabaseError> {
    return Effect.suspend(() => {
      this.isProbed = true
      const untested = probes.filter(([capability]) => !this.missing.has(capability))
      const probing = Effect.forEach(untested, ([capability, sql]) =>
        Effect.catchIf(
          Effect.asVoid(connection.query(sql)),
          (error) => error._tag !== "ConnectionLost",
          () => {
            this.missing.add(capability)
            return connection.rollback
          }
        ), { discard: true })
      return Effect.onError(restore(probing), () =>
        Effect.sync(() => {
          this.isProbed = false
          connection.destroy()
        }))
    })
  }

  private refused(capability: Capability, reason: string, statement?: string): DatabaseError {
    const { hint } = remedies[capability]
    return makeError("InvalidStatement", { dialect: "postgres", code: "0A000", reason, hint, statement })
  }
}
