/**
 * The tag of @effect/sql-pg's PgClient, without its module: that loads a client of its own.
 */
import type * as PgClientModule from "@effect/sql-pg/PgClient"
import * as Statement from "@effect/sql/Statement"
import * as Context from "effect/Context"

/** @effect/sql-pg's tag: a tag is its key. */
export const PgClient = Context.GenericTag<PgClientModule.PgClient>("@effect/sql-pg/PgClient")

export const TypeId: PgClientModule.TypeId = "~@effect/sql-pg/PgClient"

export const json = Statement.custom<PgClientModule.PgCustom>("PgJson")
