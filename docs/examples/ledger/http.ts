/**
 * The ledger's answers.
 */
import { HttpApiBuilder } from "@effect/platform"
import { Layer } from "effect"
import { DatabaseHttp } from "sqlayer"
import * as Accounts from "./accounts.js"
import { LedgerApi } from "./api.js"

/** Each request is one session; a transfer has its own, since it may have to be run again. */
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
