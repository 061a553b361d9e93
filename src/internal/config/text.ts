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

/**
 * Whether text may contain a secret that does not belong there: it names a password, a key or a token, as in
 * `db;password=…`, or it is a key in PEM format.
 */
export const mayHoldSecret = (text: string): boolean =>
  /(?:pass|pwd|secret|token|credential|(?:api|access|private)_?key)\w*\s*(?:[=:]|%3[ad])|-----BEGIN/i.test(text)

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

const decodeLeniently = (text: string): string =>
  Option.getOrElse(Option.liftThrowable(decodeURIComponent)(text), () => text)

/** Whether a parameter is a password, or contains one that was written after a wrong separator. */
const isSecret = (name: string, value: string): boolean =>
  mayHoldSecret(`${decodeLeniently(name)}=`) || mayHoldSecret(decodeLeniently(value)) || hasParameter(value)

/** Whether text goes on with a parameter that should have begun with `&` or `?`. */
export const hasParameter = (text: string): boolean => /[&;#]\s*[A-Za-z_][\w.%-]*=/.test(text)

/** The parameters of a URL. */
export interface Parameters<Name extends string> {
  readonly accepted: ReadonlyArray<Name>
  /** Their values are joined with commas if they are given several times. */
  readonly repeatable?: ReadonlyArray<NoInfer<Name>>
  /** What to write instead of parameters of other programs. */
  readonly replacements?: { readonly [name: string]: string }
}

/**
 * Reads `a=1&b=2` as libpq does: `+` is a plus, and an empty value counts as absent. Unknown names are refused. They are
 * shown, except after a password: there they may be a part of it that follows an unescaped `&`.
 */
export const query = <Name extends string>(
  text: string,
  { accepted, repeatable = [], replacements = {} }: Parameters<Name>,
  unmet: Array<string>
): Query<Name> => {
  const isAccepted = (name: string): name is Name => (accepted as ReadonlyArray<string>).includes(name)
  const pairs = text.split("&").filter((pair) => pair !== "").map((pair) => cut(pair, "="))
  const secretIndex = pairs.findIndex(([name, raw = ""]) => isSecret(name, raw))
  const values: { [N in Name]?: string } = {}
  const shown: Array<string> = []
  pairs.forEach(([name, raw], index) => {
    const isPublic = secretIndex < 0 || index < secretIndex
    if (!isAccepted(name)) {
      const isName = raw !== undefined && /^[A-Za-z][\w.-]{0,40}$/.test(name)
      const replacement = isName && Object.hasOwn(replacements, name) ? replacements[name] : undefined
      const named = isName && (isPublic || index === secretIndex)
      const remark = named ? ` and not ${name}` : isPublic ? "" : " (an & in the password is %26)"
      unmet.push(
        replacement === undefined
          ? `each parameter to be one of ${accepted.join(", ")}${remark}`
          : `${replacement} in place of the parameter ${name}`
      )
      shown.push(named || replacement !== undefined ? `${name}=${mask}` : mask)
      return
    }
    shown.push(`${name}=${isPublic ? raw ?? "" : mask}`)
    if (raw !== undefined && hasParameter(raw)) {
      unmet.push(`& between parameters (in parameter ${name}, ; is %3B and # is %23)`)
      return
    }
    const value = raw === undefined ? "" : decode(raw, `parameter ${name}`, unmet)
    if (raw === undefined) {
      unmet.push(`parameter ${name} to have a value after =`)
    } else if (values[name] !== undefined && !(repeatable as ReadonlyArray<string>).includes(name)) {
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
