/** Garbage collection, when a test asks for it. */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

setFlagsFromString("--expose-gc")

/** Collects all that is garbage. */
export const collect: () => void = runInNewContext("gc")
