/**
 * Encodes the messages that a client sends before a connection is established.
 *
 * The format: https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** 3.0, which all servers speak. */
const protocolVersion = 196_608
const passwordMessage = 0x70

const text = (value: string): Buffer => Buffer.from(`${value}\0`)

const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

/** The length counts itself. */
const withLength = (body: Buffer): Buffer => Buffer.concat([int32(4 + body.length), body])

const response = (...parts: ReadonlyArray<Buffer>): Buffer =>
  Buffer.concat([Buffer.of(passwordMessage), withLength(Buffer.concat(parts))])

/** StartupMessage. The encoding is UTF-8, whatever the parameters say. */
export const startup = (parameters: Readonly<Record<string, string>>): Buffer =>
  withLength(Buffer.concat([
    int32(protocolVersion),
    ...Object.entries({ ...parameters, client_encoding: "UTF8" }).flat().map(text),
    Buffer.of(0)
  ]))

/** PasswordMessage: the password itself, or its hash. */
export const password = (value: string): Buffer => response(text(value))

/** SASLInitialResponse. */
export const saslInitialResponse = (mechanism: string, message: string): Buffer =>
  response(text(mechanism), int32(Buffer.byteLength(message)), Buffer.from(message))

/** SASLResponse. */
export const saslResponse = (message: string): Buffer => response(Buffer.from(message))
