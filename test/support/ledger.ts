/**
 * The example application of docs/examples/ledger, running.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as ExampleProcess from "./exampleProcess.js"

export { post, request } from "./exampleProcess.js"

export type Ledger = ExampleProcess.Example

/** Starts the example on the database of a URL, and completes when it listens. */
export const start = (url: string, more?: NodeJS.ProcessEnv): Effect.Effect<Ledger, never, Scope.Scope> =>
  ExampleProcess.start("docs/examples/ledger/main.ts", "/transfers", url, more)
