/**
 * The notices that the server sends with its answer to a statement: those of RAISE, and its own notices and warnings.
 */
import * as Effect from "effect/Effect"
import * as LogLevel from "effect/LogLevel"
import type { Notice } from "../../DatabaseConfig.js"
import { maskText } from "../mask.js"
import type { Exchange } from "./exchange.js"
import type { ServerError } from "./protocol/messages.js"

/** How many notices of a statement are reported at most. It may raise any number. */
export const maxNotices = 100

const levels: { readonly [severity: string]: LogLevel.LogLevel } = {
  WARNING: LogLevel.Warning,
  INFO: LogLevel.Info
}

const defined = (fields: Record<string, string | undefined>): Record<string, string> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Record<string, string>

const noticeOf = (
  { code, detail, hint, message, severity, where }: ServerError,
  statement: string | undefined
): Notice => ({
  severity: severity ?? "NOTICE",
  code: code ?? "00000",
  message,
  ...defined({ detail, hint, where, statement })
})

/** Reports the notices of an exchange, in the fiber that has run its statement. No parameter gets into the log. */
export const reportNotices = (
  { notices = [], omittedNotices, options: { params, user }, text }: Exchange,
  onNotice: ((notice: Notice) => Effect.Effect<void>) | undefined
): Effect.Effect<void> => {
  const statement = user ? text : undefined
  if (onNotice !== undefined) {
    return Effect.catchAllCause(
      Effect.suspend(() =>
        Effect.forEach(notices, (notice) => onNotice(noticeOf(notice, statement)), { discard: true })
      ),
      (cause) => Effect.logWarning("onNotice has failed", cause)
    )
  }
  const log = Effect.forEach(notices, ({ code = "00000", message, severity = "NOTICE" }) =>
    Effect.annotateLogs(
      Effect.logWithLevel(
        levels[severity] ?? LogLevel.Debug,
        `${severity}: ${maskText(message, { statement, params })}`
      ),
      { code }
    ), { discard: true })
  return omittedNotices === 0
    ? log
    : Effect.zipRight(log, Effect.logDebug(`the server has sent ${omittedNotices} more notices of the same statement`))
}
