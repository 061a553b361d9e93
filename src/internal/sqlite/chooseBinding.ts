/**
 * Chooses the SQLite library of the process.
 */
import * as Effect from "effect/Effect"
import type { DatabaseError } from "../../DatabaseError.js"
import { isNotInstalled, packageError } from "../packages.js"
import * as BetterSqlite3 from "./betterSqlite3.js"
import { type Binding, memory } from "./binding.js"
import { builtIn, importBetterSqlite3 } from "./loadBinding.js"

/** The Node-API version that better-sqlite3 13 needs. Node has it from 22.14 on. */
const requiredNodeApi = 10

/** How to run install scripts that the package manager blocks. That of better-sqlite3 12 installs its binary. */
const approval = "allow its install script (npm approve-scripts better-sqlite3 && npm rebuild better-sqlite3; " +
  "pnpm approve-builds better-sqlite3; yarn: dependenciesMeta.better-sqlite3.built in package.json; " +
  "deno install --allow-scripts=npm:better-sqlite3)"

/** A runtime that better-sqlite3 runs on. */
export interface Host {
  /** Its name and version. */
  readonly name: string
  /** The version of Node-API that it has. */
  readonly nodeApi: number
}

const { bun, deno, napi } = process.versions
const host: Host = {
  name: bun !== undefined ? `Bun ${bun}` : deno !== undefined ? `Deno ${deno}` : `Node.js ${process.version}`,
  nodeApi: Number(napi)
}

/**
 * Which version fits, and how to install it. `isBroken`: the package is installed, but has no binary that runs here.
 */
export const remedy = ({ name, nodeApi }: Host, isBroken: boolean): string =>
  nodeApi >= requiredNodeApi
    ? `version 13 fits ${name} and needs no install script: npm install better-sqlite3@13` +
      (isBroken ? `; or with version 12 ${approval}` : "")
    : `version 12 fits ${name}: npm install better-sqlite3@12, and ${approval}`

const unusable = (error: unknown, isBroken: boolean): DatabaseError =>
  packageError("sqlite", "SQLITE_CANTOPEN", "better-sqlite3", error, remedy(host, isBroken))

/** Why better-sqlite3 cannot be used here. */
export const problemOf = (module: BetterSqlite3.Module, { name, nodeApi }: Host): unknown => {
  if (nodeApi < requiredNodeApi && BetterSqlite3.isVersion13(module)) {
    return new Error(`its version 13 would crash ${name}: it needs Node.js 22.14 or later`)
  }
  try {
    // Only the first database loads the binary.
    new module(memory).close()
    return undefined
  } catch (error) {
    return error
  }
}

/**
 * better-sqlite3 if it is installed, otherwise the runtime's own SQLite. Fails with ConnectionFailed if neither can be used,
 * also if better-sqlite3 is installed without a binary that runs here.
 */
export const chooseBinding: Effect.Effect<Binding, DatabaseError> = Effect.flatMap(
  Effect.promise(importBetterSqlite3),
  ({ error, module }) => {
    if (module !== undefined) {
      const problem = problemOf(module, host)
      return problem === undefined
        ? Effect.succeed(BetterSqlite3.makeBinding(module))
        : Effect.fail(unusable(problem, true))
    }
    const isMissing = isNotInstalled(error, "better-sqlite3")
    const own = isMissing ? builtIn() : undefined
    return own === undefined ? Effect.fail(unusable(error, !isMissing)) : Effect.succeed(own)
  }
)
