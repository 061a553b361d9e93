/**
 * Asks for values one by one and collects what is wrong with them, so that all of it is reported at once.
 */
import * as Arr from "effect/Array"
import * as ConfigError from "effect/ConfigError"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Rule from "./rule.js"
import { problem } from "./text.js"

export interface Asking<Field extends string> {
  /** The value where it was given and is accepted. */
  readonly ask: <A>(field: Field, rule: Rule.Rule<A>) => A | undefined
  /** The same for a parameter of the URL. */
  readonly parameter: <A>(name: string, given: string | undefined, rule: Rule.Rule<A>) => A | undefined
  /** Says that a value cannot be used. */
  readonly refuse: (field: Field, message: string) => void
  /** Says that a value is needed and was not given. */
  readonly miss: (field: Field, expected: string) => void
  /** The answer, unless something was wrong. */
  readonly conclude: <A>(answer: A) => Either.Either<A, ConfigError.ConfigError>
}

/** `nameOf` is what the user knows a value by. */
export const make = <Field extends string>(
  values: { readonly [F in Field]?: unknown },
  nameOf: (field: Field) => string,
  urlField: NoInfer<Field>
): Asking<Field> => {
  const errors: Array<ConfigError.ConfigError> = []
  const refuse = (field: Field, message: string): void => {
    errors.push(ConfigError.InvalidData([nameOf(field)], message))
  }
  const validate = <A>(field: Field, value: unknown, rule: Rule.Rule<A>, prefix: string): A | undefined => {
    const given = typeof value === "string" ? value.trim() : value
    if (Rule.isAbsent(given)) {
      return undefined
    }
    const accepted = rule.decode(given)
    if (Option.isNone(accepted)) {
      refuse(field, problem(prefix + rule.accepts, Rule.show(given)))
    }
    return Option.getOrUndefined(accepted)
  }
  return {
    ask: (field, rule) => validate(field, values[field], rule, ""),
    parameter: (name, given, rule) => validate(urlField, given, rule, `parameter ${name} to be `),
    refuse,
    miss: (field, expected) => {
      errors.push(ConfigError.MissingData([nameOf(field)], `expected ${expected}`))
    },
    conclude: (answer) =>
      Arr.isNonEmptyReadonlyArray(errors)
        ? Either.left(Arr.reduce(errors.slice(1), errors[0], ConfigError.And))
        : Either.right(answer)
  }
}
