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
  /**
   * The same for a parameter of the URL. Also undefined if `option`, which says the same, was given in code, and the URL was
   * not.
   */
  readonly parameter: <A>(
    name: string,
    given: string | undefined,
    rule: Rule.Rule<A>,
    option?: NoInfer<Field>
  ) => A | undefined
  /** Whether a field was given in code. */
  readonly isInCode: (field: Field) => boolean
  /** Adds the problem that a value cannot be used. */
  readonly refuse: (field: Field, message: string) => void
  /** Adds the problem that a value is needed and absent. */
  readonly missing: (field: Field, expected: string) => void
  /** The same validation for a further URL, whose problems are reported for this field. */
  readonly forUrl: (field: Field) => Validation<Field>
  /** The result, or all problems as one error. */
  readonly conclude: <A>(result: A) => Either.Either<A, ConfigError.ConfigError>
}

/**
 * `nameOf` is the name of a field in errors: the option, or the environment variable. `inCode` has the fields that were given
 * in code: they take precedence over the parameters of a URL that was not.
 */
export const make = <Field extends string>(
  values: { readonly [F in Field]?: unknown },
  nameOf: (field: Field) => string,
  urlField: NoInfer<Field>,
  inCode: ReadonlySet<string>
): Validation<Field> => {
  const errors: Array<ConfigError.ConfigError> = []
  const seen = new Set<string>()
  /** The same problem may be found with two URLs. */
  const add = (field: Field, message: string, make: typeof ConfigError.InvalidData): void => {
    const key = `${nameOf(field)} ${message}`
    if (!seen.has(key)) {
      seen.add(key)
      errors.push(make([nameOf(field)], message))
    }
  }
  const refuse = (field: Field, message: string): void => add(field, message, ConfigError.InvalidData)
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
  const validationOf = (ownUrl: Field): Validation<Field> => {
    const own = (field: Field): Field => field === urlField ? ownUrl : field
    return {
      value: (field, rule) => validate(own(field), values[own(field)], rule, ""),
      parameter: (name, given, rule, option) => {
        const accepted = validate(ownUrl, given, rule, `parameter ${name} to be `)
        return option !== undefined && inCode.has(option) && !inCode.has(ownUrl) ? undefined : accepted
      },
      isInCode: (field) => inCode.has(own(field)),
      refuse: (field, message) => refuse(own(field), message),
      missing: (field, expected) => add(own(field), `expected ${expected}`, ConfigError.MissingData),
      forUrl: validationOf,
      conclude: (result) =>
        Arr.isNonEmptyReadonlyArray(errors)
          ? Either.left(Arr.reduce(errors.slice(1), errors[0], ConfigError.And))
          : Either.right(result)
    }
  }
  return validationOf(urlField)
}
