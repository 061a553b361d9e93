/**
 * The client's proof in SCRAM-SHA-256 (RFC 7677), in place of `pg`'s own: `pg` normalizes passwords that PostgreSQL takes as
 * they are.
 *
 * `pg` begins the exchange, and checks the server's proof at its end.
 */
// docgen compiles modules one by one, so it has to be told of the declaration.
// oxlint-disable-next-line typescript/triple-slash-reference
/// <reference path="./pgModules.d.ts" />
import * as Crypto from "node:crypto"
import { TLSSocket } from "node:tls"
import { promisify } from "node:util"
import { saslprep } from "./saslprep.js"

const pbkdf2 = promisify(Crypto.pbkdf2)

/** The state of an exchange in `pg`. */
export interface Session {
  message: string
  readonly mechanism: string
  readonly clientNonce: string
  response: string
  serverSignature?: string
}

/** Limits the work that a server can ask for, as pgx does. */
const maxIterations = 10_000_000

const hmac = (key: Buffer, text: string): Buffer => Crypto.createHmac("sha256", key).update(text).digest()

/** Begins with the words that tell a failed authentication from other errors. */
const invalid = (what: string): Error => new Error(`SASL: SCRAM-SERVER-FIRST-MESSAGE: ${what}`)

interface Challenge {
  readonly nonce: string
  readonly salt: string
  readonly iterations: number
}

/** Reads the server's first message: `r=<nonce>,s=<salt>,i=<iterations>`. */
const parseChallenge = (message: string, { clientNonce }: Session): Challenge => {
  const attributes = new Map(message.split(",").map((attribute) => [attribute.slice(0, 2), attribute.slice(2)]))
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
  if (salt === "" || !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(salt)) {
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
const bindingOf = async (socket: unknown): Promise<string> => {
  const certificate = socket instanceof TLSSocket ? socket.getPeerCertificate().raw : undefined
  if (certificate === undefined) {
    throw new Error("SASL: the server's certificate is not known")
  }
  const signed = await signatureHash(certificate)
  const hash = Crypto.createHash(signed === "MD5" || signed === "SHA-1" ? "SHA256" : signed.replace("SHA-", "SHA"))
  const prefix = Buffer.from("p=tls-server-end-point,,")
  return Buffer.concat([prefix, hash.update(certificate).digest()]).toString("base64")
}

/**
 * Answers the server's first message. `binds`: whether the client can bind the exchange to the TLS connection, which it says
 * even where the server cannot.
 */
export const answer = async (
  session: Session,
  password: string,
  message: string,
  socket: unknown,
  binds: boolean
): Promise<void> => {
  if (session.message !== "SASLInitialResponse") {
    throw new Error("SASL: Last message was not SASLInitialResponse")
  }
  const { iterations, nonce, salt } = parseChallenge(message, session)
  const binding = session.mechanism === "SCRAM-SHA-256-PLUS"
    ? await bindingOf(socket)
    : Buffer.from(binds ? "y,," : "n,,").toString("base64")
  const withoutProof = `c=${binding},r=${nonce}`
  const authMessage = `n=*,r=${session.clientNonce},r=${nonce},s=${salt},i=${iterations},${withoutProof}`
  const salted = await pbkdf2(saslprep(password), Buffer.from(salt, "base64"), iterations, 32, "sha256")
  const clientKey = hmac(salted, "Client Key")
  const signature = hmac(Crypto.createHash("sha256").update(clientKey).digest(), authMessage)
  const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]))
  session.message = "SASLResponse"
  session.serverSignature = hmac(hmac(salted, "Server Key"), authMessage).toString("base64")
  session.response = `${withoutProof},p=${proof.toString("base64")}`
}
