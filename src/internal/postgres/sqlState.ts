/**
 * From what `pg` and Node throw to a DatabaseError.
 *
 * The codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
import * as Predicate from "effect/Predicate"
import { type DatabaseError, isDatabaseError } from "../../DatabaseError.js"
import { type Context, located, lostTag, make } from "../makeError.js"
import { maskCause, maskDetail, maskText, type Sources, textOf } from "../mask.js"

type Tag = DatabaseError["_tag"]

/** The codes that do not share the tag of their class. */
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
  // The database was dropped, and the session idled too long: the server closes the connection in both cases.
  "57P04": "ConnectionLost",
  "57P05": "ConnectionLost",
  "XX001": "DatabaseCorrupt",
  "XX002": "DatabaseCorrupt"
}

/** Every class that PostgreSQL has. A class that it has not is an extension's or the application's own. */
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
  "25": "UnknownDatabaseError", // invalid transaction state
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
  "3F": "UnknownDatabaseError", // invalid schema name
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

/** What `pg` makes of the server's ErrorResponse. */
interface ServerError extends Error {
  readonly code: string
  readonly severity: string
  readonly detail?: string | undefined
  readonly hint?: string | undefined
  readonly position?: string | undefined
  readonly schema?: string | undefined
  readonly table?: string | undefined
  readonly column?: string | undefined
  readonly dataType?: string | undefined
  readonly constraint?: string | undefined
  readonly routine?: string | undefined
}

// Node's own codes look the same (EPIPE has five letters), but nothing of Node has a severity.
const isServerError = (error: unknown): error is ServerError =>
  Predicate.hasProperty(error, "severity") && Predicate.isString(error.severity) &&
  Predicate.hasProperty(error, "code") && Predicate.isString(error.code) && /^[0-9A-Z]{5}$/.test(error.code)

/**
 * 57014 by statement_timeout or by a request? English says it. In another language the driver's word decides: a request
 * of its own, else the likelier timeout. A 57014 that an application raised itself is no timeout.
 */
const canceledTag = (error: ServerError, context: Context): Tag => {
  if (error.message.includes("statement timeout")) {
    return "StatementTimeout"
  }
  const isServers = error.routine === "ProcessInterrupts" && !error.message.startsWith("canceling ")
  return isServers && context.canceled === false ? "StatementTimeout" : "StatementCanceled"
}

/** A statement that was prepared before a table changed its columns: it cannot be run any more, and was not. */
export const isStalePlan = (
  { code, routine }: { readonly code?: string | undefined; readonly routine?: string | undefined }
) => code === "0A000" && routine === "RevalidateCachedQuery"

const serverTag = (error: ServerError, context: Context): Tag => {
  const { code } = error
  const tag = byCode[code] ?? byClass[code.slice(0, 2)] ?? "UnknownDatabaseError"
  // Whatever ends with FATAL closes the connection. The word is in the server's language, so the codes come first.
  const isFatal = error.severity === "FATAL" || error.severity === "PANIC"
  if (tag === "ConnectionLost" && error.routine === "exec_bind_message") {
    // The number of parameters is wrong: a protocol violation by its code, but the connection is well.
    return "InvalidData"
  }
  if (tag === "ConnectionLost" || (tag === "UnknownDatabaseError" && isFatal)) {
    return lostTag(context.phase)
  }
  if (isStalePlan(error)) {
    // A table has changed its columns meanwhile: what runs again sees it as it is now.
    return "SerializationFailure"
  }
  if (code === "57014") {
    // While connecting, it is the server's authentication_timeout.
    return context.phase === "connect" ? "ConnectionFailed" : canceledTag(error, context)
  }
  // Says the same as a connection lost there (statement completion unknown); CockroachDB uses it.
  return code === "40003" && context.phase === "commit" ? "CommitOutcomeUnknown" : tag
}

// The classes whose DETAIL is about the statement or the server; any other may hold a row, and so may all that functions
// raise.
const detailWithoutRows = new Set(["08", "0A", "26", "28", "2B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"])

const detailOf = (error: ServerError, sources: Sources): string | undefined => {
  // DETAIL of an XML error is an excerpt of the document.
  if (error.detail === undefined || /^2200[L-T]$/.test(error.code)) {
    return undefined
  }
  const isRowless = detailWithoutRows.has(error.code.slice(0, 2)) && error.routine !== "exec_stmt_raise"
  return maskDetail(error.detail, sources, isRowless ? "signatures" : undefined)
}

const fromServer = (error: ServerError, context: Context): DatabaseError => {
  const { code, column, constraint, dataType, schema, table } = error
  const tag = serverTag(error, context)
  const sources: Sources = {
    statement: context.statement,
    params: context.params,
    names: [schema, table, column, constraint, dataType],
    quotesStatement: tag === "InvalidStatement"
  }
  // No values there: while connecting, names of users, databases and settings; of a wrong bind, the two counts.
  const isPlain = context.phase === "connect" || error.routine === "exec_bind_message"
  const message = isPlain ? error.message : maskText(error.message, sources)
  const reason = tag === "InvalidStatement" && error.position !== undefined
    ? `${message} at character ${error.position}`
    : message
  return make(tag, {
    dialect: "postgres",
    code,
    reason: located(tag, reason, context, "connect to"),
    detail: detailOf(error, sources),
    hint: error.hint === undefined ? undefined : maskText(error.hint, sources),
    schema,
    table,
    column,
    constraint,
    statement: context.statement,
    transient: code !== "3D000"
  })
}

/** Node's codes for what happens to sockets and names: in words, and whether it can pass. */
const bySystemCode: { readonly [code: string]: readonly [words: string, transient: boolean] } = {
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

/** Node's and OpenSSL's names for certificates that are not accepted and for handshakes that fail. */
const isTlsCode = (code: string): boolean =>
  /^(?:ERR_TLS_|ERR_SSL_|ERR_OSSL_|ERR_CRYPTO_|CERT_|CRL_|UNABLE_TO_|ERROR_IN_C)/.test(code) ||
  /^(?:DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|HOSTNAME_MISMATCH|EPROTO)$/.test(code) ||
  /^(?:INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED)$/.test(code)

/** How a client-side failure is classified, whatever the phase. */
interface ClientFailure {
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

/** The texts of `pg`, which have no codes. The reason is the text itself where none is given. */
const byText: ReadonlyArray<readonly [RegExp, (text: string) => ClientFailure]> = [
  [/^timeout expired$/, () => connection("no answer within the time to connect", true)],
  [/^Connection terminated/, () => connection("connection closed by the server", true)],
  [/^Client was closed|^Client has encountered a connection error/, () => connection("it is closed already", true)],
  [/^The server does not support SSL connections$/, (text) => connection(`TLS: ${text}`, false)],
  [/^There was an error establishing an SSL connection$/, (text) => connection(`TLS: ${text}`, false)],
  [
    /^Received unexpected |^received invalid response|^Unknown authenticationOk|^Binary mode not supported/,
    (text) => connection(`protocol error: ${text}`, false, "08P01")
  ],
  [/^Attempt to access memory outside buffer bounds/, (text) => connection(`protocol error: ${text}`, false, "08P01")],
  // No password was given but one is needed, or the two sides disagree about it.
  [/^SASL|[Pp]assword must be a/, (text) => ({ tag: "AuthenticationFailed", code: "28P01", reason: text })],
  [/^Query read timeout$/, (text) => ({ tag: "StatementTimeout", code: "57014", reason: text })],
  [/^Prepared statements must be unique/, (text) => ({ tag: "InvalidStatement", code: "42P05", reason: text })],
  [/^A query must have either text or a name|^Query values must be an array|null or undefined query$/, (text) => ({
    tag: "InvalidStatement",
    code: "42601",
    reason: text
  })],
  // These texts name the parts of the value, so they are not repeated.
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
  // Several addresses of one name were tried ("happy eyeballs"): it can pass if one of the failures can.
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
      // A socket's file may come yet; a certificate's does not.
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
    // Nobody knows what happened: what is safe to say of a COMMIT is that its outcome is unknown.
    const tag = context.phase === "statement" ? "UnknownDatabaseError" : lostTag(context.phase)
    return make(tag, {
      dialect: "postgres",
      code: context.phase === "statement" ? "XX000" : context.phase === "connect" ? "08001" : "08007",
      reason: located(tag, maskText(textOf(error), sources), context, "connect to"),
      statement: context.statement,
      cause: maskCause(error, sources)
    })
  }
  const tag = failure.tag === "connection" ? lostTag(context.phase) : failure.tag
  const code = tag === "CommitOutcomeUnknown"
    ? "08007"
    : tag === "ConnectionFailed" && failure.code === "08006"
    ? "08001"
    : failure.code
  return make(tag, {
    dialect: "postgres",
    code,
    reason: located(tag, failure.reason, context, "connect to"),
    statement: context.statement,
    transient: failure.transient
  })
}

/**
 * Classifies what `pg` (the server's answer, its own errors, or those of Node's sockets) failed with. What comes out
 * holds no parameter and no value of a row.
 */
export const fromPostgres = (error: unknown, context: Context): DatabaseError =>
  isDatabaseError(error) ? error : isServerError(error) ? fromServer(error, context) : fromClient(error, context)
