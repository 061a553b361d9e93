/**
 * The client's side of SCRAM-SHA-256 (RFC 7677, RFC 5802): `begin`, then `answer` to the server's first message, then `verify`
 * its last one, which proves that the server knows the password too. Passwords are prepared as PostgreSQL does it.
 */
// docgen compiles modules one by one, so it needs this reference to the declaration.
// oxlint-disable-next-line typescript/triple-slash-reference
/// <reference path="./pgModules.d.ts" />
import * as Crypto from "node:crypto"
import { promisify } from "node:util"
import { NodeTls } from "../nodeTls.js"

const pbkdf2 = promisify(Crypto.pbkdf2)

/** One exchange. */
export interface Session {
  readonly mechanism: "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS"
  /** The GS2 header, ahead of the name and the nonce: whether the exchange is bound to the TLS connection. */
  readonly header: string
  readonly clientNonce: string
  isAnswered: boolean
  /** The signature that the server's last message must have; undefined until `answer`. */
  serverSignature: string | undefined
}

/** Limits the work that a server can ask for, as pgx does. */
const maxIterations = 10_000_000

const nonceLength = 18

/**
 * Begins an exchange with one of the mechanisms that the server offers. `binds`: whether the client can bind it to the
 * TLS connection. It says so even if the server does not offer that, so that the server notices if its offer was
 * changed on the way.
 */
export const begin = (mechanisms: ReadonlyArray<string>, binds: boolean): Session => {
  const isBound = binds && mechanisms.includes("SCRAM-SHA-256-PLUS")
  if (!isBound && !mechanisms.includes("SCRAM-SHA-256")) {
    throw new Error(
      `SASL: Only mechanism(s) ${binds ? "SCRAM-SHA-256-PLUS and " : ""}SCRAM-SHA-256 are supported`
    )
  }
  return {
    mechanism: isBound ? "SCRAM-SHA-256-PLUS" : "SCRAM-SHA-256",
    header: `${isBound ? "p=tls-server-end-point" : binds ? "y" : "n"},,`,
    clientNonce: Crypto.randomBytes(nonceLength).toString("base64"),
    isAnswered: false,
    serverSignature: undefined
  }
}

/** PostgreSQL takes the user from the start-up message, and ignores the name. */
const bareMessage = ({ clientNonce }: Session): string => `n=*,r=${clientNonce}`

/** The client's first message. */
export const firstMessage = (session: Session): string => session.header + bareMessage(session)

/** The attributes of a message, by their letters. */
const attributesOf = (message: string): ReadonlyMap<string, string> =>
  new Map(message.split(",").map((attribute) => [attribute.slice(0, 2), attribute.slice(2)]))

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

const hmac = (key: Buffer, text: string): Buffer => Crypto.createHmac("sha256", key).update(text).digest()

/** The message begins with SASL, by which a failed authentication is recognized. */
const invalid = (what: string): Error => new Error(`SASL: SCRAM-SERVER-FIRST-MESSAGE: ${what}`)

interface Challenge {
  readonly nonce: string
  readonly salt: string
  readonly iterations: number
}

/** Reads the server's first message: `r=<nonce>,s=<salt>,i=<iterations>`. */
const parseChallenge = (message: string, { clientNonce }: Session): Challenge => {
  const attributes = attributesOf(message)
  const nonce = attributes.get("r=") ?? ""
  const salt = attributes.get("s=") ?? ""
  const iterations = attributes.get("i=") ?? ""
  if (!/^[\x21-\x2b\x2d-\x7e]+$/.test(nonce)) {
    throw invalid("nonce missing, or not printable")
  }
  if (!nonce.startsWith(clientNonce)) {
    throw invalid("server nonce does not start with client nonce")
  }
  if (nonce.length === clientNonce.length) {
    throw invalid("server nonce is too short")
  }
  if (salt === "" || !base64.test(salt)) {
    throw invalid("salt missing, or not base64")
  }
  if (!/^[1-9][0-9]{0,9}$/.test(iterations) || Number(iterations) > maxIterations) {
    throw invalid(`iteration count missing, invalid, or more than ${maxIterations}`)
  }
  return { nonce, salt, iterations: Number(iterations) }
}

/** The hash of a certificate's signature, such as SHA-256. A bundler accepts an import in a `try` if the package is missing. */
const signatureHash = async (certificate: Buffer): Promise<string> => {
  try {
    const { signatureAlgorithmHashFromCertificate } = await import("pg/lib/crypto/cert-signatures.js")
    return signatureAlgorithmHashFromCertificate(certificate)
  } catch (cause) {
    throw new Error("SASL: the signature of the server's certificate cannot be read", { cause })
  }
}

/** Binds the exchange to the TLS connection with the certificate's hash (tls-server-end-point, RFC 5929). */
const bindingOf = async (header: string, socket: unknown): Promise<string> => {
  const certificate = socket instanceof NodeTls.TLSSocket ? socket.getPeerCertificate().raw : undefined
  if (certificate === undefined) {
    throw new Error("SASL: the server's certificate is not known")
  }
  const signed = await signatureHash(certificate)
  const hash = Crypto.createHash(signed === "MD5" || signed === "SHA-1" ? "SHA256" : signed.replace("SHA-", "SHA"))
  return Buffer.concat([Buffer.from(header), hash.update(certificate).digest()]).toString("base64")
}

/** Prepares a password. The tables that this needs are loaded only for one that is not ASCII. */
const prepare = async (password: string): Promise<string> =>
  // oxlint-disable-next-line no-control-regex -- ASCII has control characters.
  /^[\x00-\x7f]*$/.test(password) ? password : (await import("./saslprep.js")).saslprep(password)

/** The client's answer to the server's first message. */
export const answer = async (
  session: Session,
  password: string,
  message: string,
  socket: unknown
): Promise<string> => {
  if (session.isAnswered) {
    throw invalid("it was sent twice")
  }
  session.isAnswered = true
  const { header, mechanism } = session
  const { iterations, nonce, salt } = parseChallenge(message, session)
  const binding = mechanism === "SCRAM-SHA-256-PLUS"
    ? await bindingOf(header, socket)
    : Buffer.from(header).toString("base64")
  const withoutProof = `c=${binding},r=${nonce}`
  const authMessage = `${bareMessage(session)},r=${nonce},s=${salt},i=${iterations},${withoutProof}`
  const salted = await pbkdf2(await prepare(password), Buffer.from(salt, "base64"), iterations, 32, "sha256")
  const clientKey = hmac(salted, "Client Key")
  const signature = hmac(Crypto.createHash("sha256").update(clientKey).digest(), authMessage)
  const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]))
  session.serverSignature = hmac(hmac(salted, "Server Key"), authMessage).toString("base64")
  return `${withoutProof},p=${proof.toString("base64")}`
}

/** Checks the server's signature in its last message. */
export const verify = ({ serverSignature }: Session, message: string): void => {
  const attributes = attributesOf(message)
  const error = attributes.get("e=")
  if (error !== undefined) {
    throw new Error(`SASL: SCRAM-SERVER-FINAL-MESSAGE: server returned error: "${error}"`)
  }
  if (serverSignature === undefined || attributes.get("v=") !== serverSignature) {
    throw new Error("SASL: SCRAM-SERVER-FINAL-MESSAGE: server signature does not match")
  }
}
