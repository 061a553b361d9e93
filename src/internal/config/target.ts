/**
 * What a dialect says about its configuration: the URLs that name its databases, and the target that a URL and the
 * options make together.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Reading } from "./text.js"
import type { Validation } from "./validation.js"

/** libpq's sslmodes, from the weakest to the strongest. */
export const sslModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const

export type SslMode = (typeof sslModes)[number]

/** The journal modes that survive a crash, of a database that is a file. */
export const journalModes = ["wal", "delete", "truncate", "persist"] as const

export type JournalMode = (typeof journalModes)[number]

/** A file's name, or the text of a file in PEM format. */
export type FileOrPem = string | Redacted.Redacted<string>

/** Validated options that decide where and how to connect. A dialect ignores those that mean nothing to it. */
export interface TargetOptions {
  readonly applicationName: string | undefined
  readonly sslMode: SslMode | undefined
  readonly sslRootCert: FileOrPem | undefined
  readonly sslCert: FileOrPem | undefined
  readonly sslKey: FileOrPem | undefined
  readonly user: string | Effect.Effect<unknown, unknown> | undefined
  readonly password: Redacted.Redacted<string> | Effect.Effect<unknown, unknown> | undefined
  readonly passwordFile: string | undefined
  readonly thread: "worker" | "main" | undefined
  readonly journalMode: JournalMode | undefined
  /** As they were given: the dialect validates them. */
  readonly pragmas: unknown
  /** As they were given: the dialect validates them. */
  readonly functions: unknown
}

/** The pool settings and timeouts that a dialect, or its URL, may override. */
export interface PoolOptions {
  readonly poolSize: number
  readonly poolMaxOverflow: number
  readonly poolTimeout: Duration.Duration
  readonly poolMin: number
  readonly poolRecycle: Duration.Duration
  readonly connectTimeout: Duration.Duration
  readonly lockTimeout: Duration.Duration | undefined
}

/** What a URL and the options result in. */
export interface Resolved<Target> {
  readonly target: Target
  /** The default of `name`. */
  readonly name: string
  /** The default of `preparedStatements`, if the URL says one. */
  readonly preparedStatements?: "off" | undefined
  readonly pool: PoolOptions
  /** How readers are found. Undefined if the dialect has none. */
  readonly readers?: ResolvedReaders<Target> | undefined
}

/** The targets of connections that only read. */
export interface ResolvedReaders<Target> {
  /** The standbys among the hosts of this URL; undefined if it has a single host. */
  readonly standbys: Target | undefined
  /** This URL, if it is that of the readers. */
  readonly own: Target
}

/** Combines a URL that was read, or a target, with the options. Problems are added to the validation. */
export type Resolve<Target> = (
  options: TargetOptions,
  pool: PoolOptions,
  validation: Validation<"url" | keyof TargetOptions | keyof PoolOptions>
) => Resolved<Target>

/**
 * The part of a dialect that needs no driver: its names and its URLs. The file `dialect.ts` of a dialect's folder
 * exports it.
 */
export interface Dialect<Target> {
  /** OpenTelemetry's `db.system.name`. */
  readonly systemName: string
  /** For each error a code under which the database reports it, for errors that a test injects. */
  readonly errorCodes: { readonly [Tag in DatabaseError["_tag"]]: string }
  /** The URL schemes of its databases, in lower case. */
  readonly schemes: ReadonlyArray<string>
  /** Reads what follows the scheme and its colon. */
  readonly readUrl: (scheme: string, rest: string) => Reading<Resolve<Target>>
  /** Reads a target that was resolved. The options then take precedence over what it says. */
  readTarget(target: Target): Reading<Resolve<Target>>
  /** Writes the URL of a target, with or without its password. */
  formatUrl(target: Target, withPassword: boolean): string
}
