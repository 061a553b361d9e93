/** Modules of `pg` that `@types/pg` leaves out. */
declare module "pg/lib/crypto/cert-signatures.js" {
  /** The hash of a certificate's signature, such as SHA-256. Throws if it cannot be read. */
  export const signatureAlgorithmHashFromCertificate: (certificate: Buffer) => string
}

declare module "pg/lib/defaults.js" {
  import type PgModule from "pg"
  const defaults: typeof PgModule.defaults
  export default defaults
}

declare module "pg/lib/result.js" {
  import type PgModule from "pg"
  const Result: typeof PgModule.Result
  export default Result
}

declare module "pg/lib/type-overrides.js" {
  import type PgModule from "pg"
  const TypeOverrides: new() => { readonly getTypeParser: typeof PgModule.types.getTypeParser }
  export default TypeOverrides
}

declare module "pg/lib/utils.js" {
  const utils: {
    readonly escapeIdentifier: (name: string) => string
    readonly escapeLiteral: (text: string) => string
  }
  export default utils
}
