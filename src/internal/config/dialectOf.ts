/**
 * The configuration and the names of a dialect.
 */
import * as Dialects from "../dialects.js"

/** All dialects by name. */
export const dialects: typeof Dialects = Dialects

export const dialectOf = <Name extends keyof typeof dialects>(name: Name): (typeof dialects)[Name] => dialects[name]
