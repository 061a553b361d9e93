/**
 * What URLs of all dialects share: percent-encoding, query parameters, and masking of secrets.
 */
import * as Option from "effect/Option"

/** The result of reading a URL. */
export interface Reading<A> {
  /** What was read; parts that could not be read are absent. */
  readonly value: A
  /** What is wrong: one sentence each, with what was expected and what was given, without secrets. */
  readonly problems: ReadonlyArray<string>
}

/** The wording of every problem. */
export const problem = (expected: string, given: string): string => `expected ${expected}, but was given ${given}`

/** Replaces a part of a URL that is not shown. */
export const mask = "***"

/**
 * Whether text can be sent to a server and be written into a URL: it has no NUL, which ends a string in PostgreSQL's
 * protocol and in SQLite's file names, and no lone surrogate.
 */
export const isClean = (text: string): boolean => !/\0|\p{Surrogate}/u.test(text)

/** Percent-decodes a part of a URL. A malformed escape adds an expectation to `unmet` and yields the empty string. */
export const decode = (text: string, part: string, unmet: Array<string>): string =>
  Option.liftThrowable(decodeURIComponent)(text).pipe(
    Option.filter(isClean),
    Option.getOrElse(() => {
      unmet.push(`${part} to be UTF-8 text with % only before two hexadecimal digits (% itself is %25)`)
      return ""
    })
  )

/** Cuts at the first `separator`. Without one, `after` is undefined. */
export const cut = (text: string, separator: string): readonly [before: string, after: string | undefined] => {
  const index = text.indexOf(separator)
  return index < 0 ? [text, undefined] : [text.slice(0, index), text.slice(index + separator.length)]
}

/** The query of a URL. */
export interface Query<Name extends string> {
  readonly values: { readonly [N in Name]?: string }
  /** The query as error messages show it, with secrets masked. */
  readonly shown: string
}

const secret = "password"

/**
 * Reads `a=1&b=2` as libpq does: `+` is a plus, and an empty value counts as absent. Values of a repeatable parameter
 * are joined with commas. Unknown names are refused. They are shown, except after a password: there they may be a part
 * of it that follows an unescaped `&`.
 */
export const query = <Name extends string>(
  text: string,
  accepted: ReadonlyArray<Name>,
  unmet: Array<string>,
  repeatable: ReadonlyArray<NoInfer<Name>> = []
): Query<Name> => {
  const isAccepted = (name: string): name is Name => (accepted as ReadonlyArray<string>).includes(name)
  const pairs = text.split("&").filter((pair) => pair !== "").map((pair) => cut(pair, "="))
  const secretIndex = pairs.findIndex(([name]) => name === secret)
  const values: { [N in Name]?: string } = {}
  const shown: Array<string> = []
  pairs.forEach(([name, raw], index) => {
    const isPublic = secretIndex < 0 || index < secretIndex
    if (!isAccepted(name)) {
      const named = isPublic && raw !== undefined && /^[A-Za-z][\w.-]{0,40}$/.test(name)
      const remark = named ? ` and not ${name}` : isPublic ? "" : " (an & in the password is %26)"
      unmet.push(`each parameter to be one of ${accepted.join(", ")}${remark}`)
      shown.push(named ? `${name}=${mask}` : mask)
      return
    }
    shown.push(`${name}=${isPublic ? raw ?? "" : mask}`)
    const value = raw === undefined ? "" : decode(raw, `parameter ${name}`, unmet)
    if (raw === undefined) {
      unmet.push(`parameter ${name} to have a value behind =`)
    } else if (values[name] !== undefined && !repeatable.includes(name)) {
      unmet.push(`parameter ${name} once`)
    } else if (value !== "") {
      values[name] = values[name] === undefined ? value : `${values[name]},${value}`
    }
  })
  return { values, shown: shown.length === 0 ? "" : `?${shown.join("&")}` }
}

/** Writes a query from the values that are defined. */
export const formatQuery = (values: { readonly [name: string]: string | undefined }): string => {
  const pairs = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`]
  )
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`
}
