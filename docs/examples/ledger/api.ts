/**
 * The ledger's HTTP API.
 */
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "@effect/platform"
import { Schema } from "effect"
import { DatabaseHttp } from "sqlayer"

const Id = Schema.Int.pipe(Schema.between(1, 2 ** 31 - 1))

/** Money, in minor units (cents). */
const Money = Schema.Int.pipe(Schema.between(0, 10 ** 12))

const Owner = Schema.NonEmptyTrimmedString.pipe(Schema.maxLength(100), Schema.pattern(/^[^\p{Cc}\p{Cs}]+$/u))

export const Account = Schema.Struct({ id: Schema.Int, owner: Schema.String, balance: Schema.Int })
export type Account = typeof Account.Type

export const AccountOpening = Schema.Struct({
  owner: Owner,
  balance: Schema.optionalWith(Money, { default: () => 0 })
})
export type AccountOpening = typeof AccountOpening.Type

export const Transfer = Schema.Struct({ id: Schema.Int, from: Schema.Int, to: Schema.Int, amount: Schema.Int })
export type Transfer = typeof Transfer.Type

export const TransferOrder = Schema.Struct({ from: Id, to: Id, amount: Money.pipe(Schema.positive()) }).pipe(
  Schema.filter(({ from, to }) => from !== to || "expected two different accounts")
)
export type TransferOrder = typeof TransferOrder.Type

export class AccountNotFound extends Schema.TaggedError<AccountNotFound>()(
  "AccountNotFound",
  { account: Schema.Int },
  HttpApiSchema.annotations({ status: 404 })
) {}

export class OwnerTaken extends Schema.TaggedError<OwnerTaken>()(
  "OwnerTaken",
  { owner: Schema.String },
  HttpApiSchema.annotations({ status: 409 })
) {}

export class InsufficientFunds extends Schema.TaggedError<InsufficientFunds>()(
  "InsufficientFunds",
  { account: Schema.Int, missing: Schema.Int },
  HttpApiSchema.annotations({ status: 409 })
) {}

const accounts = HttpApiGroup.make("accounts")
  .add(
    HttpApiEndpoint.post("open", "/accounts")
      .setPayload(AccountOpening)
      .addSuccess(Account, { status: 201 })
      .addError(OwnerTaken)
  )
  .add(HttpApiEndpoint.get("list", "/accounts").addSuccess(Schema.Array(Account)))
  .add(
    HttpApiEndpoint.get("get", "/accounts/:id")
      .setPath(Schema.Struct({ id: Schema.compose(Schema.NumberFromString, Id) }))
      .addSuccess(Account)
      .addError(AccountNotFound)
  )
  .add(
    HttpApiEndpoint.post("transfer", "/transfers")
      .setPayload(TransferOrder)
      .addSuccess(Transfer, { status: 201 })
      .addError(AccountNotFound)
      .addError(InsufficientFunds)
  )
  .addError(DatabaseHttp.errors)

export const LedgerApi = HttpApi.make("ledger").add(accounts).add(DatabaseHttp.HealthApi)
