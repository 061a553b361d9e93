/**
 * Carries the token of a user's last write from one request to the next, signed, in a cookie or a header.
 */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { createHmac, timingSafeEqual } from "node:crypto"
import { causal, Database, type Token } from "../../Database.js"

/** See DatabaseHttp.CausalityOptions. */
export interface CausalityOptions {
  /** Signs the tokens: at least 32 characters, the same on all instances. */
  readonly key: Redacted.Redacted<string>
  /** The cookie's name, or false for no cookie. Default: `sqlayer-token`. */
  readonly cookie?: string | false | undefined
  /** The header's name, of requests and of responses, or false for no header. Default: `x-sqlayer-token`. */
  readonly header?: string | false | undefined
  /** Whether the cookie is sent by HTTPS only. Default: true. */
  readonly secure?: boolean | undefined
  /** How long the browser keeps the cookie. Default: 1 hour, since readers that are much farther behind are not read from. */
  readonly maxAge?: Duration.DurationInput | undefined
}

const minKeyLength = 32

const signatureOf = (token: string, key: Redacted.Redacted<string>): Buffer =>
  createHmac("sha256", Redacted.value(key)).update(`sqlayer token ${token}`).digest()

const sign = (token: string, key: Redacted.Redacted<string>): string =>
  `${token}.${signatureOf(token, key).toString("base64url")}`

/** The token without its signature. Undefined if it was not signed with this key. */
const verify = (signed: string | undefined, key: Redacted.Redacted<string>): string | undefined => {
  const end = signed?.lastIndexOf(".") ?? -1
  if (signed === undefined || end < 0) {
    return undefined
  }
  const token = signed.slice(0, end)
  const given = Buffer.from(signed.slice(end + 1), "base64url")
  const expected = signatureOf(token, key)
  return given.length === expected.length && timingSafeEqual(given, expected) ? token : undefined
}

/** See DatabaseHttp.causality. */
export const causality = (
  { cookie = "sqlayer-token", header = "x-sqlayer-token", key, maxAge = "1 hour", secure = true }: CausalityOptions
) => {
  if (Redacted.value(key).length < minKeyLength) {
    throw new Error(`DatabaseHttp.causality needs a key of at least ${minKeyLength} characters`)
  }
  return <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R | Database> =>
    causal(Effect.gen(function*() {
      const request = yield* HttpServerRequest.HttpServerRequest
      const database = yield* Database
      const given = (header === false ? undefined : verify(request.headers[header.toLowerCase()], key)) ??
        (cookie === false ? undefined : verify(request.cookies[cookie], key))
      const respond = Effect.gen(function*() {
        const response = yield* app
        const token = yield* Effect.catchAll(
          database.token,
          (error) =>
            Effect.as(Effect.logWarning("the position of a request's writes is not known", error), Option.none())
        )
        return Option.match(token, {
          onNone: () => response,
          onSome: (token) => token === given ? response : carry(response, sign(token, key))
        })
      })
      return yield* given === undefined ? respond : database.after(given as Token)(respond)
    }))

  function carry(response: HttpServerResponse.HttpServerResponse, signed: string) {
    const withHeader = header === false ? response : HttpServerResponse.setHeader(response, header, signed)
    return cookie === false ? withHeader : HttpServerResponse.unsafeSetCookie(withHeader, cookie, signed, {
      httpOnly: true,
      maxAge,
      path: "/",
      sameSite: "lax",
      secure
    })
  }
}
