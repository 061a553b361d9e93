/**
 * Validates values one by one and collects every problem, so that all of them are reported at once.
 */
import * as Arr from "effect/Array"
import * as ConfigError from "effect/ConfigError"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Rule from "./rule.js"
import { problem } from "./text.js"

export interface Validation<Field extends string> {
  /** The value of a field, or undefined if it is absent or refused. */
  readonly value: <A>(field: Field, rule: Rule.Rule<A>) => A | undefined
  /** The same for a parameter of the URL. */
  readonly parameter: <A>(name: string, given: string | undefined, rule: Rule.Rule<A>) => A | undefined
  /** Adds the problem that a value cannot be used. */
  readonly refuse: (field: Field, message: string) => void
  /** Adds the problem that a value is needed and absent. */
  readonly missing: (field: Field, expected: string) => void
  /** The result, or all problems as one error. */
  readonly conclude: <A>(result: A) => Either.Either<A, ConfigError.ConfigError>
}

/** `nameOf` is the name of a field in errors: the option, or the environment variable. */
export const make = <Field extends string>(
  values: { readonly [F in Field]?: unknown },
  nameOf: (field: Field) => string,
  urlField: NoInfer<Field>
): Validation<Field> => {
  const errors: Array<ConfigError.ConfigError> = []
  const refuse = (field: Field, message: string): void => {
    errors.push(ConfigError.InvalidData([nameOf(field)], message))
  }
  const validate = <A>(field: Field, value: unknown, rule: Rule.Rule<A>, prefix: string): A | undefined => {
    const given = typeof value === "string" ? value.trim() : value
    if (Rule.isAbsent(given, rule)) {
      return undefined
    }
    const accepted = rule.decode(given)
    if (Option.isNone(accepted)) {
      refuse(field, problem(prefix + rule.accepts, Rule.show(given)))
    }
    return Option.getOrUndefined(accepted)
  }
  return {
    value: (field, rule) => validate(field, values[field], rule, ""),
    parameter: (name, given, rule) => validate(urlField, given, rule, `parameter ${name} to be `),
    refuse,
    missing: (field, expected) => {
      errors.push(ConfigError.MissingData([nameOf(field)], `expected ${expected}`))
    },
    conclude: (result) =>
      Arr.isNonEmptyReadonlyArray(errors)
        ? Either.left(Arr.reduce(errors.slice(1), errors[0], ConfigError.And))
        : Either.right(result)
  }
}
