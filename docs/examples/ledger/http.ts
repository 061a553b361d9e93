/**
 * The ledger's answers.
 */
import { HttpApiBuilder } from "@effect/platform"
import { Effect, Layer } from "effect"
import { Database, DatabaseError } from "sqlayer"
import * as Accounts from "./accounts.js"
import { LedgerApi, Unavailable } from "./api.js"

/** What may pass is the client's to try again (503). Any other error of the database is a bug here, answered with 500. */
const answerable = <A, E, R>(effect: Effect.Effect<A, E | DatabaseError.DatabaseError, R>) =>
  Effect.catchIf(
    effect,
    DatabaseError.isDatabaseError,
    (error) => DatabaseError.isRetryable(error) ? new Unavailable() : Effect.die(error)
  )

const AccountsLive = HttpApiBuilder.group(LedgerApi, "accounts", (handlers) =>
  handlers
    .handle("open", ({ payload }) => answerable(Accounts.open(payload)))
    .handle("list", () => answerable(Accounts.list))
    .handle("get", ({ path }) => answerable(Accounts.get(path.id)))
    .handle("transfer", ({ payload }) => answerable(Accounts.transfer(payload))))

const HealthLive = HttpApiBuilder.group(LedgerApi, "health", (handlers) =>
  handlers
    .handle("live", () => Effect.succeed({ status: "live" as const }))
    .handle("ready", () =>
      Effect.flatMap(
        Database.health,
        (healthy) => healthy ? Effect.succeed({ status: "ready" as const }) : new Unavailable()
      )))

export const LedgerLive = HttpApiBuilder.api(LedgerApi).pipe(Layer.provide([AccountsLive, HealthLive]))
