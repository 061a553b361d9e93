#!/usr/bin/env node
/**
 * The program that `npx sqlayer` runs. The packages that only the command line needs may be missing.
 */
try {
  const { run } = await import("./program.js")
  run()
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") {
    throw error
  }
  const [reason] = message.split(/ imported from |\n/, 1)
  process.stderr.write(
    "sqlayer: the command line needs packages that are not installed: " +
      `npm install @effect/cli@0 @effect/platform-node@0 (${reason})\n`
  )
  process.exitCode = 1
}
