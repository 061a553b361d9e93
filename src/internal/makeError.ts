/**
 * Makes DatabaseErrors: the part of error classification that all dialects share.
 */
import { DatabaseError, type Fields } from "../DatabaseError.js"

/** The operation that failed. */
export interface Context {
  /** `commit`: COMMIT was sent and its reply has not arrived. */
  readonly phase: "connect" | "statement" | "commit"
  /** The target of the connection, without secrets: `host:port/database` or a file. */
  readonly description?: string | undefined
  /** The statement's text with its placeholders. */
  readonly statement?: string | undefined
  /** The statement's parameters, which are masked in the database's messages. The error does not keep them. */
  readonly params?: ReadonlyArray<unknown> | undefined
  /** Whether a server refuses to write although read-only was not asked for, so that it is no longer the primary. */
  readonly isDemoted?: boolean | undefined
  /** The line of the data, or the row, that could not be copied. */
  readonly line?: number | undefined
}

/** The fields of an error. Undefined is the same as absent. */
export type LooseFields = { readonly [Name in keyof Fields]: Fields[Name] | undefined } & {
  readonly dialect: Fields["dialect"]
  readonly code: string
  readonly reason: string
  /** Only for ConnectionFailed and ReadOnlyViolation: whether another attempt may succeed. Default: false. */
  readonly transient?: boolean | undefined
}

type Tag = DatabaseError["_tag"]
type Constructor = new(fields: Record<string, unknown>, options: { readonly disableValidation: true }) => DatabaseError

const constructors = Object.fromEntries(DatabaseError.members.map((member) => [member._tag, member])) as unknown as {
  readonly [T in Tag]: Constructor
}

/** Makes the error with a tag. Its fields come from sqlayer itself, so their schema is not checked. */
export const make = (tag: Tag, fields: LooseFields): DatabaseError => {
  const { transient, ...rest } = fields
  const defined: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(rest)) {
    if (value !== undefined) {
      defined[name] = value
    }
  }
  if (tag === "ConnectionFailed") {
    defined.transient = transient === true
  } else if (tag === "ReadOnlyViolation" && transient === true) {
    defined.transient = true
  }
  return new constructors[tag](defined, { disableValidation: true })
}

/** The tag of a connection error: it was not established, it was lost, or it was lost while COMMIT was in flight. */
export const connectionErrorTag = (
  phase: Context["phase"]
): "ConnectionFailed" | "ConnectionLost" | "CommitOutcomeUnknown" => {
  switch (phase) {
    case "connect":
      return "ConnectionFailed"
    case "statement":
      return "ConnectionLost"
    case "commit":
      return "CommitOutcomeUnknown"
  }
}

/** Prefixes the reason of a connection error with the target of the connection. Leaves the reason of others as it is. */
export const withLocation = (tag: Tag, reason: string, context: Context, verb: "connect to" | "open"): string => {
  const target = context.description ?? "the database"
  if (context.phase === "connect") {
    return `could not ${verb} ${target}: ${reason}`
  }
  switch (tag) {
    case "ConnectionLost":
      return `the connection to ${target} was lost: ${reason}`
    case "CommitOutcomeUnknown":
      return `the connection to ${target} was lost while COMMIT was in flight, ` +
        `and whether it was committed is not known: ${reason}`
    default:
      return reason
  }
}
