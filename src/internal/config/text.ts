/**
 * What URLs of every kind share: percent-encoding, query parameters, and how a URL is shown without its secrets.
 */
import * as Option from "effect/Option"

/**
 * What a URL says, as far as it can be read, and what is wrong with it: sentences that say what was expected and what
 * was given, without a secret.
 */
export interface Reading<A> {
  readonly url: A
  readonly problems: ReadonlyArray<string>
}

/** How every problem is told, whatever was expected. */
export const problem = (expected: string, given: string): string => `expected ${expected}, but was given ${given}`

/** Stands for whatever is not shown. */
export const mask = "***"

/**
 * Text that can be sent to a server and written into a URL again: no NUL, which ends a string in PostgreSQL's protocol
 * and in SQLite's file names, and no half of a surrogate pair.
 */
export const isClean = (text: string): boolean => !/\0|\p{Surrogate}/u.test(text)

/**
 * Percent-decodes. Where an escape is malformed, or stands for what is no text, the expectation about this part is
 * added to the unmet ones.
 */
export const decode = (text: string, part: string, unmet: Array<string>): string =>
  Option.liftThrowable(decodeURIComponent)(text).pipe(
    Option.filter(isClean),
    Option.getOrElse(() => {
      unmet.push(`${part} to be UTF-8 text with % only before two hexadecimal digits (% itself is %25)`)
      return ""
    })
  )

/** Cuts at the first `separator`; what follows is undefined where there is none. */
export const cut = (text: string, separator: string): readonly [before: string, after: string | undefined] => {
  const index = text.indexOf(separator)
  return index < 0 ? [text, undefined] : [text.slice(0, index), text.slice(index + separator.length)]
}

/** A query: its parameters, and how it is shown. */
export interface Query<Name extends string> {
  readonly values: { readonly [N in Name]?: string }
  readonly shown: string
}

const secret = "password"

/**
 * Reads `a=1&b=2` as libpq does: `+` is a plus, an empty value is no value. Those that may come again are one, with
 * commas. Other names than the accepted ones are refused and named, but never behind a password: they might be the part
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

/** Writes what `query` reads, leaving out what is undefined. */
export const formatQuery = (values: { readonly [name: string]: string | undefined }): string => {
  const pairs = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`]
  )
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`
}
