/** Modules of `pg` that `@types/pg` leaves out. */
declare module "pg/lib/crypto/cert-signatures.js" {
  /** The hash of a certificate's signature, such as SHA-256. Throws if it cannot be read. */
  export const signatureAlgorithmHashFromCertificate: (certificate: Buffer) => string
}
