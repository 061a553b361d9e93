/**
 * Guards of statements that run on behalf of another one.
 */
import type { StatementGuard } from "./driver.js"

/** The guard of a statement without effect: refused when `guard` refuses, but not counted as sent there. */
export const withoutEffect = (guard: StatementGuard | undefined): StatementGuard | undefined =>
  guard === undefined ? undefined : { refusal: () => guard.refusal(), isSent: false, mayWrite: false }
