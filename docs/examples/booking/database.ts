/**
 * The database of the booking service: the options that are not in the environment, and the types of its tables for
 * Kysely.
 */
import { Context, Layer } from "effect"
import type * as K from "kysely"
import { type DatabaseConfig, DatabaseTypes } from "sqlayer"
import * as Kysely from "sqlayer/Kysely"

/** PostgreSQL's types are read as SQLite has them, so that rows are the same on both: numbers, and times as texts. */
export const options: DatabaseConfig.Options = {
  name: "booking",
  types: { bigint: { parse: Number }, timestamptz: DatabaseTypes.microseconds }
}

export interface Tables {
  readonly account: { readonly tenant: string; readonly balance: number }
  readonly room: {
    readonly id: string
    readonly tenant: string
    readonly name: string
    readonly cents_per_hour: number
  }
  readonly booking: {
    readonly id: string
    readonly tenant: string
    readonly room: string
    readonly starts: string
    readonly ends: string
    readonly cents: number
  }
  readonly usage: {
    readonly tenant: string
    readonly day: string
    readonly bookings: number
    readonly minutes: number
  }
}

/** Builds the queries that read. */
export class Db extends Context.Tag("booking/Db")<Db, K.Kysely<Tables>>() {}

export const DbLive = Layer.effect(Db, Kysely.make<Tables>())
