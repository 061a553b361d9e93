/**
 * The errors with which poolers refuse a connection. Their codes say little: PgBouncer's is 08P01, whatever the reason,
 * and Supavisor's and Neon's is XX000. The texts are always in English.
 */
import type { ServerError } from "./protocol/messages.js"

/** What an error at start-up means. */
export interface Refusal {
  readonly tag: "ConnectionFailed" | "AuthenticationFailed"
  /** Whether another attempt may succeed. */
  readonly transient: boolean
  readonly hint?: string
}

const fails: Refusal = { tag: "ConnectionFailed", transient: false }
const rejects: Refusal = { tag: "AuthenticationFailed", transient: false }

const hint =
  "have the pooler take the parameter (PgBouncer: track_extra_parameters; ignore_startup_parameters lets it " +
  "pass without effect), or leave the setting to the role or the database (ALTER ROLE … SET), or connect to the server itself"

const refusesParameter: Refusal = { ...fails, hint }

/**
 * The first that matches applies. An error that matches none may be transient: a limit, a server that is down, a
 * timeout.
 */
const refusals: ReadonlyArray<readonly [text: RegExp, refusal: Refusal]> = [
  [/^unsupported (?:options )?startup parameter\b/i, refusesParameter],
  [/^Feature not supported: RDS Proxy currently\b/i, refusesParameter],
  // PgBouncer
  [/^no such database\b|^database .* (?:does not exist|is disabled)|^database does not allow connections\b/i, fails],
  [/^no such user\b|^(?:"?\w+"? )?authentication failed\b|^auth failed\b|\blogin rejected\b|^not allowed\b/i, rejects],
  [/^(?:SSL|TLS connection|TLS client certificate) required\b|^bouncer config error\b/i, fails],
  // Errors of the server that PgBouncer could not log in to. Others are transient: the server may be starting up.
  [/^server login failed:.*\b(?:password|no pg_hba|role .* does not exist|signature|SASL)/i, rejects],
  [/^server login failed:.*\bdatabase .* does not exist/i, fails],
  [/^password authentication failed\b|^role .* does not exist/i, rejects],
  // Supavisor
  [/^Tenant or user not found\b|^tenant\/user .* not found\b|^user not found\b|^multiple users matched\b/i, rejects],
  [/^Wrong password\b|^Authentication error\b/i, rejects],
  [/^unsupported or invalid secret\b|^no auth_query configured\b|^MD5 secrets are not supported\b/i, rejects],
  [/^address not in tenant allow_list\b|^tenant is banned\b/i, rejects],
  [/^no tenant identifier\b|^SSL connection is required\b/i, fails],
  // RDS Proxy
  [/^This RDS Proxy requires TLS\b/i, fails],
  [/^This RDS Proxy has no credentials\b|^IAM authentication (?:failed|is not allowed)\b/i, rejects],
  [/^The password that was provided\b|^The IAM authentication\b/i, rejects],
  // Neon
  [/^Endpoint ID is not specified\b|^Inconsistent project name\b|^Project ID is not specified\b/i, fails],
  [/\brequested endpoint could not be found\b|\bendpoint has been disabled\b/i, fails],
  [/\bexceeded the .* quota\b|\bconnection is insecure\b/i, fails]
]

/** The codes that poolers give to all of their errors. The server's other codes say what they are. */
const poolerCodes = new Set(["08P01", "XX000", "0A000"])

/** Supavisor's own codes, in front of its texts. */
const ownCode = /^\([A-Z]+\) /

/** Whether a pooler demands TLS of a connection that has none. */
export const demandsTls = ({ message }: Error): boolean =>
  /^(?:SSL|TLS connection) required\b|^This RDS Proxy requires TLS\b|^(?:\(\w+\) )?SSL connection is required\b/i.test(
    message
  )

/** What an error at start-up means, if it is a pooler's. */
export const poolerRefusal = ({ code, message }: ServerError): Refusal | undefined => {
  if (code === undefined || !poolerCodes.has(code)) {
    return undefined
  }
  const text = message.replace(ownCode, "")
  return refusals.find(([pattern]) => pattern.test(text))?.[1]
}
