/**
 * Runs the tests of bundled applications, and reports each.
 */
import { spawnSync } from "node:child_process"
import { root } from "./documented.js"
import type { Row } from "./table.js"

interface Report {
  readonly testResults: ReadonlyArray<{
    readonly assertionResults: ReadonlyArray<{
      readonly title: string
      readonly status: string
      readonly failureMessages: ReadonlyArray<string>
    }>
  }>
}

/** The test of each bundler is named `of esbuild, esm runs on both databases`. */
const title = /^of '?(.+?)'? runs on both databases$/

export const bundlerRows = (
  report: (what: string, passed: boolean, output: string) => boolean
): ReadonlyArray<Row> => {
  const { stderr, stdout } = spawnSync("npx", ["vitest", "run", "test/bundles.test.ts", "--reporter=json"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 2 ** 26
  })
  const text = stdout.slice(stdout.indexOf("{\"numTotal"), stdout.lastIndexOf("}") + 1)
  if (text === "") {
    throw new Error(`test/bundles.test.ts did not run: ${stderr}${stdout}`)
  }
  const { testResults }: Report = JSON.parse(text)
  return testResults.flatMap(({ assertionResults }) => assertionResults).flatMap((result) => {
    const [, bundler] = title.exec(result.title) ?? []
    return bundler === undefined
      ? []
      : [[bundler, report(bundler, result.status === "passed", result.failureMessages.join("\n")) ? "yes" : "no"]]
  })
}
