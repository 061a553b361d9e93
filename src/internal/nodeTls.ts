/**
 * `node:tls`. An import would read all of its exports, and so copy the texts of all root certificates onto the heap: 0.2 MB.
 */
import type * as Tls from "node:tls"

export const NodeTls: typeof Tls = process.getBuiltinModule("node:tls")
