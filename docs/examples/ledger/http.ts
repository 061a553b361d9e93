/**
 * The handlers of the ledger's API.
 */
import { HttpApiBuilder } from "@effect/platform"
import { Layer } from "effect"
import { DatabaseHttp } from "sqlayer"
import * as Accounts from "./accounts.js"
import { LedgerApi } from "./api.js"

/** One session per request; a transfer runs in its own session instead, which can be retried. */
const AccountsLive = HttpApiBuilder.group(LedgerApi, "accounts", (handlers) =>
  handlers
    .handle("open", ({ payload }) => Accounts.open(payload))
    .handle("list", () => Accounts.list)
    .handle("get", ({ path }) => Accounts.get(path.id))
    .pipe(DatabaseHttp.sessions())
    .handle("transfer", ({ payload }) => Accounts.transfer(payload)))

export const LedgerLive = HttpApiBuilder.api(LedgerApi).pipe(
  Layer.provide([AccountsLive, DatabaseHttp.healthLayer(LedgerApi)]),
  Layer.provideMerge(HttpApiBuilder.middleware(DatabaseHttp.problems))
)
