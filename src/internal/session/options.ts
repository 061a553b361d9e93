/**
 * The validation of a session's options. In plain JavaScript no compiler rejects a value of the wrong type, and it
 * would be ignored without an error.
 */
import * as Duration from "effect/Duration"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { DefaultOptions, Isolation, Options } from "../../Session.js"
import * as Rule from "../config/rule.js"
import { problem } from "../config/text.js"
import type { BeginOptions } from "../driver.js"
import { make as makeError } from "../makeError.js"
import {
  handleCannotRetry,
  isolationTooStrong,
  noReplica,
  readOnlyWithinWriting,
  settingsDiffer,
  settingsUnsupported
} from "./errors.js"
import type { Transaction } from "./transaction.js"

/** From the weakest to the strongest. */
const isolations: ReadonlyArray<Isolation> = [
  "read uncommitted",
  "read committed",
  "repeatable read",
  "serializable"
]

interface Check {
  /** What is accepted, as errors describe it. */
  readonly accepts: string
  readonly isAccepted: (value: unknown) => boolean
}

const rule = <A>({ accepts, decode }: Rule.Rule<A>): Check => ({
  accepts,
  isAccepted: (value) => Option.isSome(decode(value))
})

const boolean: Check = { accepts: "true or false", isAccepted: (value) => typeof value === "boolean" }
const duration: Check = {
  accepts: "a duration such as \"5 seconds\"",
  isAccepted: (value) => !Rule.isNegative(value) && Option.isSome(Duration.decodeUnknown(value))
}

/** An option without a check does not compile. */
const checks: { readonly [Name in keyof Options]-?: Check } = {
  name: { accepts: "text", isAccepted: (value) => typeof value === "string" },
  isolation: rule(Rule.oneOf(isolations)),
  readOnly: boolean,
  deferrable: boolean,
  timeout: duration,
  statementTimeout: duration,
  lockTimeout: duration,
  retry: {
    accepts: "true, false or a schedule",
    isAccepted: (value) => typeof value === "boolean" || Schedule.isSchedule(value)
  },
  commit: rule(Rule.oneOf(["verified", "recorded"])),
  reader: rule(Rule.oneOf(["auto", "primary", "replica"])),
  propagation: rule(Rule.oneOf(["nested", "join", "new"])),
  settings: {
    accepts: "an object of strings",
    isAccepted: (value) =>
      Predicate.isRecord(value) && Object.values(value).every((setting) => typeof setting === "string")
  },
  role: { accepts: "text", isAccepted: (value) => typeof value === "string" && value !== "" }
}

const names = Object.keys(checks) as ReadonlyArray<keyof Options>

/** The options, which take precedence over the defaults. The `settings` of both are merged. */
export const withDefaults = (options: Options, defaults: DefaultOptions | undefined): Options => {
  if (defaults === undefined) {
    return options
  }
  const settings = { ...defaults.settings, ...options.settings }
  return { ...defaults, ...options, ...(Object.keys(settings).length === 0 ? {} : { settings }) }
}

/**
 * InvalidData for the first option whose value is not accepted; InvalidStatement for options that the database lacks.
 */
export const validateOptions = (
  options: Options,
  dialect: Dialect,
  supportsSettings: boolean
): DatabaseError | undefined => {
  const invalid = (what: string, accepts: string, value: unknown): DatabaseError =>
    makeError("InvalidData", { dialect, code: "22023", reason: `${what}: ${problem(accepts, Rule.show(value))}` })
  if (!Predicate.isRecord(options)) {
    return invalid("the session's options", "an object", options)
  }
  for (const name of names) {
    const value: unknown = options[name]
    const { accepts, isAccepted } = checks[name]
    if (value !== undefined && !isAccepted(value)) {
      return invalid(`the session's option ${name}`, accepts, value)
    }
  }
  return supportsSettings || (options.settings === undefined && options.role === undefined)
    ? undefined
    : settingsUnsupported(dialect)
}

/**
 * The error of a session that cannot be nested in another one or join it: because that one has ended, because the
 * session asks for an option that the outermost session does not have, or because its fiber would wait for itself.
 */
export const validateNesting = (
  { isolation, propagation, readOnly, role, settings }: Options,
  surrounding: Transaction,
  fiber: FiberId.FiberId
): DatabaseError | undefined => {
  const refusal = surrounding.refusal()
  if (refusal !== undefined) {
    return refusal
  }
  const { dialect, outermost } = surrounding
  const outermostIsolation = outermost.options.isolation ?? "read committed"
  if (isolation !== undefined && isolations.indexOf(isolation) > isolations.indexOf(outermostIsolation)) {
    return isolationTooStrong(isolation, outermostIsolation, dialect)
  }
  if (readOnly === true && outermost.options.readOnly !== true) {
    return readOnlyWithinWriting(dialect)
  }
  const other = Object.entries(settings ?? {}).find(([name, value]) => outermost.options.settings?.[name] !== value)
  if (other !== undefined) {
    return settingsDiffer(`setting ${other[0]}`, dialect)
  }
  if (role !== undefined && role !== outermost.options.role) {
    return settingsDiffer("role", dialect)
  }
  return propagation === "join" ? undefined : surrounding.selfDeadlock(fiber)
}

/** InvalidStatement for an outermost session with `reader: "replica"` that no replica can run. */
export const validateReader = (
  { isolation, reader, readOnly }: Options,
  dialect: Dialect,
  hasReplicas: boolean
): DatabaseError | undefined =>
  reader !== "replica"
    ? undefined
    : !hasReplicas
    ? noReplica(dialect, "no readers are configured, by DATABASE_READER_URL or DATABASE_READERS")
    : readOnly !== true
    ? noReplica(dialect, "only a session that is readOnly can run on a replica")
    : isolation === "serializable"
    ? noReplica(dialect, "a serializable session cannot run on a replica")
    : undefined

/** InvalidStatement for options that a handle cannot have: it has no effect that could be run again. */
export const validateHandleOptions = ({ retry }: Options, dialect: Dialect): DatabaseError | undefined =>
  retry === undefined || retry === false ? undefined : handleCannotRetry(dialect)

const toDuration = (input: Duration.DurationInput | undefined): Duration.Duration | undefined =>
  input === undefined ? undefined : Duration.decode(input)

const defaultBeginOptions: BeginOptions = { outcome: undefined }

/** The options that the session itself implements. */
type SessionOption = "name" | "propagation" | "reader" | "retry" | "timeout"

/**
 * The options that the driver implements, when the transaction begins. An option of Session.Options that is neither passed
 * on here nor a SessionOption does not compile, nor does a driver's option that is given no value.
 */
export const beginOptions = (options: Options): BeginOptions => {
  if (Object.keys(options).length === 0) {
    return defaultBeginOptions
  }
  const { commit, deferrable, isolation, lockTimeout, readOnly, role, settings, statementTimeout, ...others } = options
  others satisfies { readonly [Name in keyof typeof others]: Name extends SessionOption ? unknown : never }
  return {
    isolation,
    readOnly,
    deferrable,
    statementTimeout: toDuration(statementTimeout),
    lockTimeout: toDuration(lockTimeout),
    settings,
    role,
    outcome: commit
  } satisfies Record<Exclude<keyof BeginOptions, "isEnclosed">, unknown>
}
