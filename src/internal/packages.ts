/**
 * Packages that an application installs only if it needs them: how an import of one fails.
 */
import * as Predicate from "effect/Predicate"
import type { DatabaseError, Dialect } from "../DatabaseError.js"
import { make } from "./makeError.js"
import { textOf } from "./mask.js"

/** Whether an import failed because the package itself is not installed. Node, Bun, Deno and webpack use these codes. */
export const isNotInstalled = (error: unknown, name: string): boolean =>
  Predicate.hasProperty(error, "code") &&
  (error.code === "ERR_MODULE_NOT_FOUND" || error.code === "MODULE_NOT_FOUND") &&
  // Also one of its modules, which webpack names: 'pg/lib/result.js'. A path to its directory does not match, as then
  // the package is installed and lacks a module.
  new RegExp(String.raw`(?:^|["'\s/])${name}(?:["'\s]|$)|["']${name}/`, "m").test(textOf(error).split("\n", 1)[0])

/** The error of a package that cannot be loaded. It is not transient. `command` installs the right package. */
export const packageError = (
  dialect: Dialect,
  code: string,
  name: string,
  error: unknown,
  command: string
): DatabaseError => {
  // Without the list of the places that were searched.
  const problem = textOf(error).replace(/\s*(?:Tried:|Require stack:)[^]*$/, "").replace(/\s+/g, " ")
  return make("ConnectionFailed", {
    dialect,
    code,
    reason: isNotInstalled(error, name)
      ? `the package ${name} is not installed: ${command}`
      : `the package ${name} could not be loaded (${problem}): ${command}`,
    transient: false,
    cause: error
  })
}
