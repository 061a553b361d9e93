/**
 * The user and the password of a new connection, which may be asked for each time.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Fs from "node:fs/promises"
import type { PostgresTarget } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import { isClean } from "../config/text.js"
import type { Restore } from "../driver.js"
import { make as makeError } from "../makeError.js"
import { raceFirst } from "../raceFirst.js"

export interface Credentials {
  readonly user: string
  readonly password: Redacted.Redacted<string> | undefined
}

/** Whether both have the same user and password. */
export const areSame = (a: Credentials, b: Credentials): boolean => {
  const reveal = ({ password }: Credentials) => password === undefined ? undefined : Redacted.value(password)
  return a.user === b.user && reveal(a) === reveal(b)
}

/** The kind of an error, without its message, which may hold a secret. */
const kindOf = (error: unknown): string => {
  const name = Predicate.hasProperty(error, "_tag") ? error._tag : Predicate.hasProperty(error, "name") && error.name
  const code = Predicate.hasProperty(error, "code") ? error.code : undefined
  const words = [name, code].filter((word) => typeof word === "string" && /^[A-Za-z_][\w./-]{0,60}$/.test(word))
  return words.length === 0 ? "" : ` (${words.join(" ")})`
}

/** A file that is replaced may end with a line break, which is not part of the password. */
const readPassword = (file: string): Effect.Effect<string> =>
  Effect.map(
    // An error of a file is made a defect, which is not transient.
    Effect.orDie(Effect.tryPromise({ try: () => Fs.readFile(file, "utf8"), catch: (error) => error })),
    (text) => text.replace(/[\r\n]+$/, "")
  )

/**
 * The credentials for one connection. Waits until the deadline for an Effect that gives the user or the password.
 *
 * An error does not show what the Effect failed with, nor the name of the file: someone may have written the password there.
 */
export const credentialsOf = (
  target: PostgresTarget,
  description: string,
  deadline: number,
  restore: Restore
): Effect.Effect<Credentials, DatabaseError> => {
  if (target.credentials === undefined) {
    return Effect.succeed({ user: target.username, password: target.password })
  }
  const { password, passwordFile, user } = Redacted.value(target.credentials)
  const failed = (reason: string, transient: boolean) =>
    makeError("ConnectionFailed", {
      dialect: "postgres",
      code: "08001",
      reason: `could not connect to ${description}: ${reason}`,
      transient
    })
  /** A failure of the Effect is transient, and a defect is not. */
  const ask = (what: string, effect: Effect.Effect<unknown, unknown>): Effect.Effect<string, DatabaseError> =>
    Effect.flatMap(restore(exitBefore(effect, deadline)), (exit) => {
      if (exit === undefined) {
        return Effect.fail(failed(`${what} was not available within the connect timeout`, true))
      }
      if (Exit.isFailure(exit)) {
        const isFailure = Option.isSome(Cause.failureOption(exit.cause))
        return Effect.fail(failed(`${what} could not be obtained${kindOf(Cause.squash(exit.cause))}`, isFailure))
      }
      const text = Redacted.isRedacted(exit.value) ? Redacted.value(exit.value) : exit.value
      return typeof text === "string" && isClean(text)
        ? Effect.succeed(text)
        : Effect.fail(failed(`${what} is not valid: text without NUL characters is expected`, false))
    })
  const redacted = (text: string) => text === "" ? undefined : Redacted.make(text)
  const currentPassword = password !== undefined
    ? Effect.map(ask("the password", password), redacted)
    : passwordFile !== undefined
    ? Effect.map(
      ask("the password in the file that DATABASE_PASSWORD_FILE names", readPassword(passwordFile)),
      redacted
    )
    : Effect.succeed(target.password)
  const currentUser = user === undefined ? Effect.succeed(target.username) : ask("the user's name", user)
  return Effect.zipWith(currentUser, currentPassword, (user, password) => ({ user, password }))
}

/**
 * The exit of an effect, or undefined if it has not ended by the deadline. That is in real time, since the effect waits
 * for something outside of the program. The exit is the success of the fiber, since Effect would log a failure of the
 * fiber.
 */
const exitBefore = <A, E>(
  effect: Effect.Effect<A, E>,
  deadline: number
): Effect.Effect<Exit.Exit<A, E> | undefined> =>
  raceFirst(
    Effect.disconnect(Effect.exit(effect)),
    Effect.async<undefined>((resume) => {
      const timer = setTimeout(() => resume(Effect.succeed(undefined)), deadline - performance.now())
      return Effect.sync(() => clearTimeout(timer))
    })
  )
