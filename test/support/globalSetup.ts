/**
 * Offers one PostgreSQL server to all tests of the run, the one that TEST_DATABASE_URL names, or else one that is started
 * when the first test needs it; and a directory for the programs that tests run, which the workers inherit.
 */
import type { TestProject } from "vitest/node"
import { makeDirectory } from "./bundledProgram.js"
import { type Address, makeSharedServer } from "./sharedServer.js"

declare module "vitest" {
  interface ProvidedContext {
    readonly sharedServer: Address
  }
}

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const { address, end } = await makeSharedServer(process.env.TEST_DATABASE_URL || undefined)
  project.provide("sharedServer", address)
  const programs = makeDirectory()
  process.env.TEST_PROGRAMS = programs.path
  return () => end().finally(programs.remove)
}
