/**
 * Migrations in a record.
 */
import type * as SqlClient from "@effect/sql/SqlClient"
import * as Effect from "effect/Effect"
import type * as Database from "../../Database.js"
import type { Session } from "../../Session.js"
import { checksum } from "./files.js"
import { type Loader, MigrationError, type Resolved } from "./model.js"
import * as SqlText from "./sqlText.js"

type Services = SqlClient.SqlClient | Database.Database | Session

const named = /^(\d+)_(.+)$/

/** The content of an Effect is not known, so an applied migration that is an Effect is compared by its name only. */
export const fromRecord = (
  migrations: { readonly [name: string]: string | Effect.Effect<unknown, unknown, Services> }
): Loader =>
  Effect.forEach(Object.entries(migrations), ([key, migration]): Effect.Effect<Resolved, MigrationError> => {
    const [, digits, name] = named.exec(key) ?? []
    if (digits === undefined) {
      return new MigrationError({
        kind: "invalid",
        message: `${
          JSON.stringify(key)
        } is not the name of a migration: <number>_<name> is accepted (0001_create_account)`
      })
    }
    const id = Number(digits)
    return Effect.succeed(
      typeof migration === "string"
        ? Object.assign([id, name, SqlText.migration({ id, name }, migration)] as const, {
          checksum: checksum("sql", migration)
        })
        : [id, name, Effect.succeed(migration)] as const
    )
  })
