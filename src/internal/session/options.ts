/**
 * What a session is asked for, checked when it begins: an option that is none of those that there are would otherwise be
 * ignored, and plain JavaScript has no compiler to say so.
 */
import * as Duration from "effect/Duration"
import type * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Isolation, Options } from "../../Session.js"
import * as Rule from "../config/rule.js"
import { problem } from "../config/text.js"
import { make as makeError } from "../makeError.js"
import { notAgain, tooStrong } from "./errors.js"
import type { Transaction } from "./transaction.js"

/** From the weakest to the strongest. */
const isolations: ReadonlyArray<Isolation> = [
  "read uncommitted",
  "read committed",
  "repeatable read",
  "serializable"
]

interface Check {
  readonly accepts: string
  readonly isAccepted: (given: unknown) => boolean
}

const rule = <A>({ accepts, decode }: Rule.Rule<A>): Check => ({
  accepts,
  isAccepted: (given) => Option.isSome(decode(given))
})

const boolean: Check = { accepts: "true or false", isAccepted: (given) => typeof given === "boolean" }
const duration: Check = {
  accepts: "a duration such as \"5 seconds\"",
  isAccepted: (given) => !Rule.isNegative(given) && Option.isSome(Duration.decodeUnknown(given))
}

const checks: { readonly [Name in keyof Options]-?: Check } = {
  name: { accepts: "text", isAccepted: (given) => typeof given === "string" },
  isolation: rule(Rule.oneOf(isolations)),
  readOnly: boolean,
  deferrable: boolean,
  timeout: duration,
  statementTimeout: duration,
  lockTimeout: duration,
  retry: {
    accepts: "true, false or a schedule",
    isAccepted: (given) => typeof given === "boolean" || Schedule.isSchedule(given)
  },
  commit: rule(Rule.oneOf(["verified"])),
  propagation: rule(Rule.oneOf(["nested", "join", "new"]))
}

const names = Object.keys(checks) as ReadonlyArray<keyof Options>

/** Why a session cannot be what it is asked to be. */
export const unacceptable = (options: Options, dialect: Dialect): DatabaseError | undefined => {
  const refuse = (what: string, accepts: string, given: unknown): DatabaseError =>
    makeError("InvalidData", { dialect, code: "22023", reason: `${what}: ${problem(accepts, Rule.show(given))}` })
  if (!Predicate.isRecord(options)) {
    return refuse("the session's options", "an object", options)
  }
  for (const name of names) {
    const given: unknown = options[name]
    const { accepts, isAccepted } = checks[name]
    if (given !== undefined && !isAccepted(given)) {
      return refuse(`the session's option ${name}`, accepts, given)
    }
  }
  return undefined
}

/** Why a session cannot be within another one, as a fiber asks. */
export const unfitting = (
  { isolation, propagation }: Options,
  surrounding: Transaction,
  fiber: FiberId.FiberId
): DatabaseError | undefined => {
  const refusal = surrounding.refusal()
  if (refusal !== undefined) {
    return refusal
  }
  const around = surrounding.root.options.isolation ?? "read committed"
  if (isolation !== undefined && isolations.indexOf(isolation) > isolations.indexOf(around)) {
    return tooStrong(isolation, around, surrounding.dialect)
  }
  return propagation === "join" ? undefined : surrounding.inVain(fiber)
}

/** Why a session that is acquired cannot be what it is asked to be: it has no effect that could be run again. */
export const unrepeatable = ({ retry }: Options, dialect: Dialect): DatabaseError | undefined =>
  retry === undefined || retry === false ? undefined : notAgain(dialect)
