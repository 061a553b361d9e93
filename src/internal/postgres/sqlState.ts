/**
 * Classifies the errors of the server, of `pg` and of Node's sockets as a DatabaseError.
 *
 * SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
import * as Predicate from "effect/Predicate"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import { connectionErrorTag, type Context, make, withLocation } from "../makeError.js"
import { MASK, maskCause, maskDetail, maskText, mentions, type Sources, textOf } from "../mask.js"
import { poolerRefusal } from "./poolerErrors.js"
import type { ServerError } from "./protocol/messages.js"

type Tag = DatabaseError["_tag"]

/** Codes whose tag differs from that of their class. */
const byCode: { readonly [code: string]: Tag } = {
  "08001": "ConnectionFailed",
  "08004": "ConnectionFailed",
  "23001": "ForeignKeyViolation",
  "23502": "NotNullViolation",
  "23503": "ForeignKeyViolation",
  "23505": "UniqueViolation",
  "23514": "CheckViolation",
  "23P01": "ExclusionViolation",
  "25006": "ReadOnlyViolation",
  "25P02": "TransactionAborted",
  "25P03": "StatementTimeout",
  "25P04": "StatementTimeout",
  "40001": "SerializationFailure",
  "40002": "SerializationFailure",
  "40P01": "DeadlockDetected",
  "42501": "InsufficientPrivilege",
  "53300": "ConnectionFailed",
  "55P03": "LockTimeout",
  "57014": "StatementCanceled",
  "57P01": "ConnectionLost",
  "57P02": "ConnectionLost",
  "57P03": "ConnectionFailed",
  // database_dropped and idle_session_timeout: the server closes the connection.
  "57P04": "ConnectionLost",
  "57P05": "ConnectionLost",
  // Aurora DSQL's conflicts of data and of the catalog, which it also names in the text of a 40001.
  OC000: "SerializationFailure",
  OC001: "SerializationFailure",
  "XX001": "DatabaseCorrupt",
  "XX002": "DatabaseCorrupt"
}

/** Every class of PostgreSQL. Extensions and applications may define others. */
const byClass: { readonly [prefix: string]: Tag } = {
  "00": "UnknownDatabaseError", // successful completion
  "01": "UnknownDatabaseError", // warning
  "02": "UnknownDatabaseError", // no data
  "03": "UnknownDatabaseError", // statement not yet complete
  "08": "ConnectionLost", // connection exception
  "09": "UnknownDatabaseError", // triggered action exception
  "0A": "InvalidStatement", // feature not supported
  "0B": "UnknownDatabaseError", // invalid transaction initiation
  "0F": "UnknownDatabaseError", // locator exception
  "0L": "UnknownDatabaseError", // invalid grantor
  "0P": "UnknownDatabaseError", // invalid role specification
  "0Z": "UnknownDatabaseError", // diagnostics exception
  "10": "UnknownDatabaseError", // XQuery error
  "20": "UnknownDatabaseError", // case not found
  "21": "UnknownDatabaseError", // cardinality violation
  "22": "InvalidData", // data exception
  "23": "UnknownDatabaseError", // integrity constraint violation
  "24": "UnknownDatabaseError", // invalid cursor state
  "25": "InvalidStatement", // invalid transaction state
  "26": "InvalidStatement", // invalid statement name
  "27": "UnknownDatabaseError", // triggered data change violation
  "28": "AuthenticationFailed", // invalid authorization specification
  "2B": "UnknownDatabaseError", // dependent privilege descriptors still exist
  "2D": "UnknownDatabaseError", // invalid transaction termination
  "2F": "UnknownDatabaseError", // SQL routine exception
  "34": "UnknownDatabaseError", // invalid cursor name
  "38": "UnknownDatabaseError", // external routine exception
  "39": "UnknownDatabaseError", // external routine invocation exception
  "3B": "UnknownDatabaseError", // savepoint exception
  "3D": "ConnectionFailed", // invalid catalog name
  "3F": "InvalidStatement", // invalid schema name
  "40": "UnknownDatabaseError", // transaction rollback
  "42": "InvalidStatement", // syntax error or access rule violation
  "44": "UnknownDatabaseError", // WITH CHECK OPTION violation
  "53": "ResourceExhausted", // insufficient resources
  "54": "ResourceExhausted", // program limit exceeded
  "55": "UnknownDatabaseError", // object not in prerequisite state
  "57": "UnknownDatabaseError", // operator intervention
  "58": "UnknownDatabaseError", // system error
  "F0": "UnknownDatabaseError", // configuration file error
  "HV": "UnknownDatabaseError", // foreign data wrapper error
  "P0": "UnknownDatabaseError", // PL/pgSQL error
  "XX": "UnknownDatabaseError" // internal error
}

/** An error with the fields that the server always sends. */
interface ServerResponse extends ServerError {
  readonly code: string
  readonly severity: string
}

/** A code of Node can look like a SQLSTATE (EPIPE), but Node's errors have no severity. */
const isServerResponse = (error: unknown): error is ServerResponse =>
  Predicate.hasProperty(error, "severity") && Predicate.isString(error.severity) &&
  Predicate.hasProperty(error, "code") && Predicate.isString(error.code) && /^[0-9A-Z]{5}$/.test(error.code)

/**
 * 57014 is the code of a statement timeout and of a cancel request, and only the message tells them apart. It is in the
 * server's language, and English is recognized. In another language the error is taken for a timeout, which is more
 * likely: nobody awaits the result of a statement that the driver cancels. A function that raises 57014 is neither.
 */
const canceledTag = (error: ServerResponse): Tag => {
  if (error.message.includes("statement timeout")) {
    return "StatementTimeout"
  }
  const isUnknownLanguage = error.routine === "ProcessInterrupts" && !error.message.startsWith("canceling ")
  return isUnknownLanguage ? "StatementTimeout" : "StatementCanceled"
}

/** Whether a prepared statement was not executed because a table has changed and the result has other columns now. */
export const isStalePlan = (
  { code, routine }: ServerError
) => code === "0A000" && routine === "RevalidateCachedQuery"

const serverTag = (error: ServerResponse, context: Context): Tag => {
  const { code } = error
  const tag = byCode[code] ?? byClass[code.slice(0, 2)] ?? "UnknownDatabaseError"
  // FATAL and PANIC close the connection. The severity is in the server's language, so known codes take precedence.
  const isFatal = error.severity === "FATAL" || error.severity === "PANIC"
  if (tag === "ConnectionLost" && error.routine === "exec_bind_message") {
    // A wrong number of parameters has the code of a protocol violation, but the connection remains usable.
    return "InvalidData"
  }
  if (tag === "ConnectionLost" || (tag === "UnknownDatabaseError" && isFatal)) {
    return connectionErrorTag(context.phase)
  }
  if (isStalePlan(error)) {
    // Executed again, the statement is planned for the table as it is now.
    return "SerializationFailure"
  }
  if (code === "57014") {
    // At start-up this is authentication_timeout.
    return context.phase === "connect" ? "ConnectionFailed" : canceledTag(error)
  }
  // statement_completion_unknown, which CockroachDB sends for a COMMIT.
  return code === "40003" && context.phase === "commit" ? "CommitOutcomeUnknown" : tag
}

/** The classes whose DETAIL never contains values of a row, unless a function raises the error. */
const detailWithoutRows = new Set(["08", "0A", "26", "28", "2B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"])

const detailOf = (error: ServerResponse, sources: Sources): string | undefined => {
  // The DETAIL of an XML error quotes the document.
  if (error.detail === undefined || /^2200[L-T]$/.test(error.code)) {
    return undefined
  }
  const isRowless = detailWithoutRows.has(error.code.slice(0, 2)) && error.routine !== "exec_stmt_raise"
  return maskDetail(error.detail, sources, isRowless ? "signatures" : undefined)
}

/** The contexts that are understood, and those in which only quotations may be values. */
const knownContext = /^(?:PL\/|SQL |COPY |JSON |while |unnamed portal |portal )/
const quotingContext = /^(?:(?:PL\/\w+|SQL) function |while )/

/**
 * The CONTEXT, line by line. It quotes statements and data, which may have several lines. What is not understood, such as the
 * contexts of another language, is masked.
 */
const whereOf = ({ where }: ServerResponse, sources: Sources): string | undefined => {
  if (where === undefined) {
    return undefined
  }
  const lines = where.split("\n").map((line) =>
    quotingContext.test(line)
      ? maskText(line, sources)
      : knownContext.test(line)
      ? line.replace(/["']|: | = /, (mark) => `${mark.length === 1 ? "" : mark}${MASK}\n`).split("\n", 1)[0]
      : MASK
  )
  return lines.filter((line, i) => line !== MASK || lines[i - 1] !== MASK).join("\n")
}

/** The number in a field of an error; undefined if there is none. */
const numberOf = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined

/** Where in the data of a COPY FROM an error has occurred: `COPY t, line 3, column a: "…"`, in the server's language. */
const copyContext = /^COPY .+?, [^\d,\n]*(\d+)[^\d,\n:]*(?:, [^\s,]+ ([^\n:]+?))?(?=:|$)/m

const copyPositionOf = (
  { where }: ServerResponse,
  { statement }: Context
): { readonly line: number; readonly column: string | undefined } | undefined => {
  const found = statement?.startsWith("COPY ") === true && where !== undefined ? copyContext.exec(where) : null
  return found === null ? undefined : { line: Number(found[1]), column: found[2] }
}

/** The codes of the errors that end with a name without quotes: syntax_error and feature_not_supported. */
const nameAtEnd = new Set(["42601", "0A000"])

/**
 * The message. A name with too many parts is shown without quotes at its end
 * (`cross-database references are not implemented: a.b.c`), which is a value unless the statement holds it.
 */
const messageOf = ({ code, message }: ServerResponse, sources: Sources): string => {
  const name = /: (?!"[^"]*"$)(?=.*\..*\.).+$/s.exec(message)
  return name !== null && nameAtEnd.has(code) && !mentions(sources.statement, name[0].slice(2))
    ? `${maskText(message.slice(0, name.index), sources)}: ${MASK}`
    : maskText(message, sources)
}

const fromServer = (error: ServerResponse, context: Context): DatabaseError => {
  const { code, constraint, dataType, schema, table } = error
  const copyPosition = copyPositionOf(error, context)
  // On JavaScriptCore each Error has a number of this name, the place in the source.
  const column = Predicate.isString(error.column) ? error.column : copyPosition?.column
  const refusal = context.phase === "connect" ? poolerRefusal(error) : undefined
  const tag = refusal?.tag ?? serverTag(error, context)
  const sources: Sources = {
    statement: context.statement,
    params: context.params,
    names: [schema, table, column, constraint, dataType],
    quotesStatement: tag === "InvalidStatement"
  }
  // These contain no values: at start-up names of users, databases and settings, and for a failed Bind two numbers.
  const hasNoValues = context.phase === "connect" || error.routine === "exec_bind_message"
  const message = hasNoValues ? error.message : messageOf(error, sources)
  const reason = tag === "InvalidStatement" && error.position !== undefined
    ? `${message} at character ${error.position}`
    : copyPosition !== undefined
    ? `${message} at line ${copyPosition.line}`
    : message
  return make(tag, {
    dialect: "postgres",
    code,
    reason: withLocation(tag, reason, context, "connect to"),
    detail: detailOf(error, sources),
    hint: error.hint === undefined ? refusal?.hint : maskText(error.hint, sources),
    schema,
    table,
    column,
    constraint,
    line: copyPosition?.line,
    severity: error.severity,
    position: numberOf(error.position),
    where: whereOf(error, sources),
    routine: error.routine,
    statement: context.statement,
    transient: tag === "ReadOnlyViolation" ? context.isDemoted === true : refusal?.transient ?? code !== "3D000"
  })
}

/** Node's codes for errors of sockets and name lookups: a description, and whether the error is transient. */
const bySystemCode: { readonly [code: string]: readonly [description: string, transient: boolean] } = {
  EACCES: ["permission denied", false],
  EADDRINUSE: ["no local address is free", true],
  EADDRNOTAVAIL: ["no local address is free", true],
  EAGAIN: ["the server's queue of connections is full", true],
  EAI_AGAIN: ["the host name could not be looked up now", true],
  EAI_FAIL: ["the host name could not be looked up", true],
  EAI_NODATA: ["the host name has no address", true],
  EAI_NONAME: ["unknown host name", true],
  ECANCELED: ["canceled", true],
  ECONNABORTED: ["connection aborted", true],
  ECONNREFUSED: ["connection refused", true],
  ECONNRESET: ["connection reset", true],
  EHOSTDOWN: ["the host is down", true],
  EHOSTUNREACH: ["no route to the host", true],
  EINVAL: ["invalid address", false],
  EMFILE: ["too many open files", true],
  ENAMETOOLONG: ["the socket's path is too long", false],
  ENETDOWN: ["the network is down", true],
  ENETRESET: ["connection reset by the network", true],
  ENETUNREACH: ["the network is unreachable", true],
  ENFILE: ["too many open files on this machine", true],
  ENOBUFS: ["no buffers left", true],
  ENOENT: ["no such file or directory", true],
  ENOTCONN: ["not connected", true],
  ENOTDIR: ["not a directory", false],
  ENOTFOUND: ["unknown host name", true],
  EPERM: ["not permitted", false],
  EPIPE: ["connection closed by the server", true],
  EPROTONOSUPPORT: ["protocol not supported", false],
  EPROTOTYPE: ["not a socket of the right kind", false],
  ETIMEDOUT: ["timed out", true],
  ERR_SOCKET_BAD_PORT: ["invalid port", false],
  ERR_SOCKET_CLOSED: ["the socket is closed", true],
  ERR_SOCKET_CLOSED_BEFORE_CONNECTION: ["the socket is closed", true],
  ERR_SOCKET_CONNECTION_TIMEOUT: ["timed out", true],
  ERR_STREAM_DESTROYED: ["the socket is closed", true],
  ERR_STREAM_PREMATURE_CLOSE: ["connection closed by the server", true],
  ERR_STREAM_WRITE_AFTER_END: ["the socket is closed", true],
  ERR_TLS_HANDSHAKE_TIMEOUT: ["TLS handshake timed out", true]
}

/** The codes of Node and OpenSSL for rejected certificates and failed handshakes. */
const isTlsCode = (code: string): boolean =>
  /^(?:ERR_TLS_|ERR_SSL_|ERR_OSSL_|ERR_CRYPTO_|CERT_|CRL_|UNABLE_TO_|ERROR_IN_C)/.test(code) ||
  /^(?:DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|HOSTNAME_MISMATCH|EPROTO)$/.test(code) ||
  /^(?:INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED)$/.test(code)

/** The classification of an error that did not come from the server. */
interface ClientFailure {
  /** `connection`: the tag depends on the phase. */
  readonly tag: Tag | "connection"
  readonly code: string
  readonly reason: string
  readonly transient?: boolean
}

const connection = (reason: string, transient: boolean, code = "08006"): ClientFailure => ({
  tag: "connection",
  code,
  reason,
  transient
})

/** Errors without a code: those of `pg` at start-up, of sockets, and of encoding parameters, by their message. */
const byText: ReadonlyArray<readonly [RegExp, (text: string) => ClientFailure]> = [
  [/^timeout expired$/, () => connection("no answer within the connect timeout", true)],
  [/^Connection terminated/, () => connection("connection closed by the server", true)],
  [/^The server does not support SSL connections$/, (text) => connection(`TLS: ${text}`, false)],
  [
    /^Received unexpected |^received invalid response|^Unknown authenticationOk/,
    (text) => connection(`protocol error: ${text}`, false, "08P01")
  ],
  // A password is missing or wrong, or the server does not follow SCRAM.
  [/^SASL/, (text) => ({ tag: "AuthenticationFailed", code: "28P01", reason: text })],
  // These messages contain parts of the value.
  [/circular (?:structure|reference)/, () => ({
    tag: "InvalidData",
    code: "22023",
    reason: "a parameter that contains itself cannot be sent"
  })],
  [/serialize a BigInt/, () => ({
    tag: "InvalidData",
    code: "22023",
    reason: "a parameter that contains a bigint cannot be sent as JSON"
  })]
]

const systemCode = (error: unknown): string | undefined =>
  Predicate.hasProperty(error, "code") && Predicate.isString(error.code) ? error.code : undefined

const classifyClient = (error: unknown): ClientFailure | undefined => {
  // Node has tried several addresses of one name. The error is transient if one of them is.
  if (error instanceof AggregateError && error.errors.length > 0) {
    const all = error.errors.map(classifyClient).filter(Predicate.isNotUndefined)
    return all.length === 0 ? undefined : connection(
      Array.from(new Set(all.map((one) => one.reason))).join("; "),
      all.some((one) => one.transient === true)
    )
  }
  const code = systemCode(error)
  const text = textOf(error).trim()
  if (code !== undefined) {
    const known = bySystemCode[code]
    if (known !== undefined) {
      // The missing file of a Unix socket is transient, and that of a certificate is not.
      const isFile = Predicate.hasProperty(error, "syscall") && error.syscall === "open"
      return connection(`${known[0]} (${text})`, known[1] && !isFile)
    }
    if (isTlsCode(code)) {
      return connection(`TLS: ${text} (${code})`, false)
    }
  }
  for (const [pattern, failure] of byText) {
    if (pattern.test(text)) {
      return failure(text)
    }
  }
  return code !== undefined && Predicate.hasProperty(error, "syscall") ? connection(text, true) : undefined
}

const fromClient = (error: unknown, context: Context): DatabaseError => {
  const sources: Sources = { statement: context.statement, params: context.params }
  const failure = classifyClient(error)
  if (failure === undefined) {
    // Whatever has happened to a COMMIT, its outcome is unknown.
    const tag = context.phase === "statement" ? "UnknownDatabaseError" : connectionErrorTag(context.phase)
    return make(tag, {
      dialect: "postgres",
      code: context.phase === "statement" ? "XX000" : context.phase === "connect" ? "08001" : "08007",
      reason: withLocation(tag, maskText(textOf(error), sources), context, "connect to"),
      statement: context.statement,
      cause: maskCause(error, sources)
    })
  }
  const tag = failure.tag === "connection" ? connectionErrorTag(context.phase) : failure.tag
  const code = tag === "CommitOutcomeUnknown"
    ? "08007"
    : tag === "ConnectionFailed" && failure.code === "08006"
    ? "08001"
    : failure.code
  return make(tag, {
    dialect: "postgres",
    code,
    reason: withLocation(tag, failure.reason, context, "connect to"),
    statement: context.statement,
    transient: failure.transient
  })
}

/**
 * Classifies an error of the server, of `pg` or of a socket. The result contains no parameter and no value of a row. A
 * DatabaseError is returned as it is.
 */
export const fromPostgres = (error: unknown, context: Context): DatabaseError =>
  isDatabaseError(error) ? error : isServerResponse(error) ? fromServer(error, context) : fromClient(error, context)
