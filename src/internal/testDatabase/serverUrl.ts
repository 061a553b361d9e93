/**
 * The URL of the PostgreSQL server for tests, and the errors if it cannot be used.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { render, type Settings } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import * as Rule from "../config/rule.js"
import { make as makeError } from "../makeError.js"

/** A URL, and the name of the variable or the option that it is from. */
export interface ServerUrl {
  readonly name: string
  readonly url: Redacted.Redacted<string>
}

const variables = ["TEST_DATABASE_URL", "DATABASE_URL"] as const

const expected = "the URL of a database of a PostgreSQL server, with a user who may create databases, such as " +
  "postgres://postgres:secret@localhost:5432/postgres"

/** The URL of the option, or of the first of the variables that is not empty. */
export const serverUrl = (
  given: string | Redacted.Redacted<string> | undefined
): Effect.Effect<ServerUrl, ConfigError.ConfigError> =>
  Effect.gen(function*() {
    if (!Rule.isAbsent(given, {})) {
      return { name: "url", url: Redacted.isRedacted(given) ? given : Redacted.make(given ?? "") }
    }
    for (const name of variables) {
      const url = yield* Config.option(Config.redacted(name))
      if (Option.isSome(url) && !Rule.isAbsent(url.value, {})) {
        return { name, url: url.value }
      }
    }
    return yield* Effect.fail(
      ConfigError.MissingData(
        [variables[0]],
        `expected ${expected}, here, in ${variables[1]}, or as the option url of TestDatabase.layerPostgres`
      )
    )
  })

/** The error of options that are not valid, which names the URL as the variable or option that it is from. */
export const withName = ({ name }: ServerUrl) => (error: ConfigError.ConfigError): ConfigError.ConfigError => {
  const rename = (error: ConfigError.ConfigError): ConfigError.ConfigError =>
    error._op === "And"
      ? ConfigError.And(rename(error.left), rename(error.right))
      : error._op === "InvalidData" && error.path.length === 1 && error.path[0] === "url"
      ? ConfigError.InvalidData([name], `${error.message}; it has to be ${expected}`)
      : error
  return rename(error)
}

/** The error of a database that is not one of a PostgreSQL server. */
export const noServer = ({ name }: ServerUrl, { target }: Settings): DatabaseError =>
  makeError("ConnectionFailed", {
    dialect: "postgres",
    code: "08001",
    reason: `${render(target)} is not a PostgreSQL server`,
    hint: `${name} has to be ${expected}`,
    transient: false
  })

/** The error of a server that could not be connected to, with a hint that names the variable or option of its URL. */
export const withExpectation = ({ name }: ServerUrl) => (error: DatabaseError): DatabaseError =>
  error._tag === "ConnectionFailed" || error._tag === "AuthenticationFailed"
    ? makeError(error._tag, {
      dialect: error.dialect,
      code: error.code,
      reason: error.reason,
      detail: error.detail,
      hint: [error.hint, `${name} has to be ${expected}`].filter((text) => text !== undefined).join("; "),
      transient: error._tag === "ConnectionFailed" && error.transient,
      cause: error.cause
    })
    : error
