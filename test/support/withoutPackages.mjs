/**
 * Makes sqlayer's own imports of the packages that TEST_MISSING_PACKAGES names fail, as if they were not installed. The
 * names are separated by commas. The tests and their tools still find the packages. It is for processes:
 * `node --import ./test/support/withoutPackages.mjs`. vitest.config.ts does the same for vitest.
 */
import { register } from "node:module"

const missing = new Set((process.env.TEST_MISSING_PACKAGES ?? "").split(",").filter((name) => name !== ""))

const isSource = (importer) => /[\\/](?:src|dist)[\\/]internal[\\/]/.test(importer ?? "")

/** The package of an import: `pg` of `pg/lib/result.js`. */
const packageOf = (specifier) => /^(?:@[^/]+\/)?[^/]+/.exec(specifier)?.[0]

/** A resolve hook of Node's. */
export const resolve = (specifier, context, next) => {
  const name = packageOf(specifier)
  if (missing.has(name) && isSource(context.parentURL)) {
    const message = `Cannot find package '${name}' imported from ${context.parentURL}`
    throw Object.assign(new Error(message), { code: "ERR_MODULE_NOT_FOUND" })
  }
  return next(specifier, context)
}

// Not in the thread of the hooks, where Node loads this file again.
if (missing.size > 0 && !import.meta.url.endsWith("?hooks")) {
  register(`${import.meta.url}?hooks`)
}
