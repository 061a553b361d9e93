/**
 * What the dialects share when they turn what a database or its client library threw into a DatabaseError.
 */
import { DatabaseError, type Fields } from "../DatabaseError.js"

/** What was being done when it failed. */
export interface Context {
  /** `commit` means that COMMIT was sent and not yet answered. */
  readonly phase: "connect" | "statement" | "commit"
  /** Where it connects to, as it may be shown: `host:port/database` or a file. Never a secret. */
  readonly description?: string | undefined
  /** The statement's text with its placeholders. */
  readonly statement?: string | undefined
  /** The statement's parameters. They are looked for in what the database said, to be masked, and never kept. */
  readonly params?: ReadonlyArray<unknown> | undefined
  /**
   * Whether a cancel request was sent for this statement. PostgreSQL has one code for a statement that was cancelled
   * and for one that ran into its timeout, and tells them apart by a message in the server's language.
   */
  readonly canceled?: boolean | undefined
}

/** The fields of an error, where undefined is the same as absent. */
export type LooseFields = { readonly [Name in keyof Fields]: Fields[Name] | undefined } & {
  readonly dialect: Fields["dialect"]
  readonly code: string
  readonly reason: string
  /** Of ConnectionFailed only. */
  readonly transient?: boolean | undefined
}

type Tag = DatabaseError["_tag"]
type Constructor = new(fields: Record<string, unknown>, options: { readonly disableValidation: true }) => DatabaseError

const constructors = Object.fromEntries(DatabaseError.members.map((member) => [member._tag, member])) as unknown as {
  readonly [T in Tag]: Constructor
}

/** Makes the error of a tag. The fields are ours, so they are not validated again. */
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
  }
  return new constructors[tag](defined, { disableValidation: true })
}

/** The name of the failure of a connection: there was none yet, it broke, or it broke while COMMIT was in flight. */
export const lostTag = (phase: Context["phase"]): "ConnectionFailed" | "ConnectionLost" | "CommitOutcomeUnknown" => {
  switch (phase) {
    case "connect":
      return "ConnectionFailed"
    case "statement":
      return "ConnectionLost"
    case "commit":
      return "CommitOutcomeUnknown"
  }
}

/** What happened, preceded by where, for the errors that are about the way to the database. */
export const located = (tag: Tag, reason: string, context: Context, doing: "connect to" | "open"): string => {
  const where = context.description ?? "the database"
  if (context.phase === "connect") {
    return `could not ${doing} ${where}: ${reason}`
  }
  switch (tag) {
    case "ConnectionLost":
      return `the connection to ${where} was lost: ${reason}`
    case "CommitOutcomeUnknown":
      return `the connection to ${where} was lost while COMMIT was in flight, ` +
        `and whether it was committed is not known: ${reason}`
    default:
      return reason
  }
}
