/**
 * Certificates, made on the spot.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as SelfSigned from "selfsigned"

/** PEM texts. */
export interface KeyPair {
  readonly cert: string
  readonly key: string
}

/** PEM texts of two authorities, and of what they have signed. */
export interface Certificates {
  /** Signed `server`, `wrongHost`, `expired` and `client`. */
  readonly ca: string
  /** Signed nothing of these. */
  readonly otherCa: string
  /** For localhost, 127.0.0.1 and ::1. */
  readonly server: KeyPair
  /** For elsewhere.example. */
  readonly wrongHost: KeyPair
  /** For the same hosts as `server`, until yesterday. */
  readonly expired: KeyPair
  /** Of the user postgres. */
  readonly client: KeyPair
}

const day = 86_400_000

const generate = async (
  commonName: string,
  extensions: NonNullable<NonNullable<Parameters<typeof SelfSigned.generate>[1]>["extensions"]>,
  options?: { readonly ca?: KeyPair; readonly notAfter?: number }
): Promise<KeyPair> => {
  const pems = await SelfSigned.generate([{ name: "commonName", value: commonName }], {
    keyType: "ec",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - 7 * day),
    notAfterDate: new Date(options?.notAfter ?? Date.now() + 30 * day),
    extensions,
    ...(options?.ca && { ca: { ...options.ca } })
  })
  return { cert: pems.cert, key: pems.private }
}

const authority = (commonName: string): Promise<KeyPair> =>
  generate(commonName, [
    { name: "basicConstraints", cA: true, critical: true },
    { name: "keyUsage", keyCertSign: true, cRLSign: true, critical: true }
  ])

const local = [
  { type: 2, value: "localhost" },
  { type: 7, ip: "127.0.0.1" },
  { type: 7, ip: "::1" }
] as const

const server = (
  ca: KeyPair,
  altNames: ReadonlyArray<{ readonly type: 2 | 7; readonly value?: string; readonly ip?: string }>,
  notAfter?: number
): Promise<KeyPair> =>
  generate(
    "server",
    [
      { name: "basicConstraints", cA: false, critical: true },
      { name: "extKeyUsage", serverAuth: true },
      { name: "subjectAltName", altNames: [...altNames] }
    ],
    { ca, ...(notAfter !== undefined && { notAfter }) }
  )

/** A new set, in about a tenth of a second. */
export const certificates = (): Effect.Effect<Certificates> =>
  Effect.promise(async () => {
    const ca = await authority("ca of the tests")
    return {
      ca: ca.cert,
      otherCa: (await authority("another ca")).cert,
      server: await server(ca, local),
      wrongHost: await server(ca, [{ type: 2, value: "elsewhere.example" }]),
      expired: await server(ca, local, Date.now() - day),
      client: await generate(
        "postgres",
        [{ name: "basicConstraints", cA: false, critical: true }, { name: "extKeyUsage", clientAuth: true }],
        { ca }
      )
    }
  })

/** The paths of what a client needs, as sslrootcert, sslcert and sslkey name them. */
export interface CertificateFiles {
  readonly ca: string
  readonly otherCa: string
  readonly clientCert: string
  readonly clientKey: string
}

/** Writes them where they stay until the scope closes. */
export const certificateFiles = (
  certificates: Certificates
): Effect.Effect<CertificateFiles, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "sqlayer-tls-"))),
    (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
  ).pipe(Effect.map((directory) => {
    const file = (name: string, content: string): string => {
      const path = Path.join(directory, name)
      Fs.writeFileSync(path, content, { mode: 0o600 })
      return path
    }
    return {
      ca: file("ca.crt", certificates.ca),
      otherCa: file("otherCa.crt", certificates.otherCa),
      clientCert: file("client.crt", certificates.client.cert),
      clientKey: file("client.key", certificates.client.key)
    }
  }))
