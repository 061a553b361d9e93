/**
 * The plan of a statement that the dashboard shows, made without its values.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import type { Service } from "../../../Database.js"
import { type DatabaseError, isDatabaseError } from "../../../DatabaseError.js"
import type { OpenDatabase } from "../../database/opened.js"
import { make as makeError } from "../../makeError.js"
import { make as makeExaminer } from "./examiner.js"

/** Names a statement to the page, which never sends a text. */
export const statementId = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 16)

/** A plan, or why there is none. */
export type Plan = { readonly lines: ReadonlyArray<string> } | { readonly error: string }

/** The text of a statement that is shown now. */
const textOf = ({ activity }: Service, id: string): Effect.Effect<string | undefined> =>
  Effect.map(
    activity,
    ({ ownStatements, statements }) =>
      [...statements, ...ownStatements].find(({ text }) => statementId(text) === id)?.text
  )

const refusal = ({ dialect }: Service, reason: string): DatabaseError =>
  makeError("InvalidStatement", { dialect, code: "0A000", reason })

/** Plans one statement at a time, with the text that is shown for this id. */
export const makePlanner = (
  database: Service,
  open: OpenDatabase
): (id: string) => Effect.Effect<Plan> => {
  const turn = Effect.unsafeMakeSemaphore(1)
  const explain = (text: string) =>
    Effect.scoped(Effect.flatMap(makeExaminer(open), (examine) =>
      examine((connection) =>
        // Planning calls functions of the application, which may leave something on the connection.
        Effect.ensuring(
          open.driver.monitoring.explain(connection, text),
          Effect.sync(() => connection.markDirty())
        )
      )))
  return (id) =>
    textOf(database, id).pipe(
      Effect.flatMap((text) =>
        text === undefined
          ? Effect.fail(refusal(database, "this statement is no longer one of the slowest"))
          : text.endsWith("…")
          ? Effect.fail(refusal(database, "the statement is longer than the part of its text that is kept"))
          : explain(text)
      ),
      turn.withPermits(1),
      Effect.map((lines): Plan => ({ lines })),
      Effect.catchAll((error) => Effect.succeed<Plan>({ error: describe(error) }))
    )
}

/** The tag and the message of an error, in which values are masked. */
export const describe = (error: { readonly _tag: string; readonly message: string }): string =>
  isDatabaseError(error) && error.hint !== undefined && !error.message.includes(error.hint)
    ? `${error._tag}: ${error.message}; ${error.hint}`
    : `${error._tag}: ${error.message}`
