/**
 * The flags of its process that the thread of a connection inherits: all but preloads.
 *
 * A thread runs the preloads of its parent again (`--import`, `--require`, `--loader`, also in NODE_OPTIONS), such as
 * an application's telemetry, and rejects `--input-type`, which is not for files. If there are such flags, the thread
 * is started with all others. It needs these: without the flags of the permission model it would have all permissions.
 */

/** The part of a Worker's options that this makes. */
export interface ThreadOptions {
  readonly execArgv?: Array<string>
  readonly env?: NodeJS.ProcessEnv
}

/** Flags with a value that the thread does not inherit. */
const droppedFlag = /^(?:--import|--require|-r|--(?:experimental-)?loader|--input-type)(?:=([^]*))?$/

/** Yarn's Plug'n'Play, without which no package is found. */
const packageLoader = /(?:^|[\\/])\.pnp\.(?:c?js|loader\.mjs)$/

const typeScriptLoader = /(?:^|[\\/@])(?:tsx|ts-node|swc-node|oxc-node|esbuild-register)(?:[\\/]|$)/

/** The flags without preloads. */
const withoutPreloads = (
  flags: ReadonlyArray<string>,
  isKept: (preload: string) => boolean
): Array<string> => {
  const kept: Array<string> = []
  for (let i = 0; i < flags.length; i++) {
    const match = droppedFlag.exec(flags[i])
    const isSeparate = match !== null && match[1] === undefined
    const end = isSeparate ? i + 1 : i
    if (match === null || isKept(isSeparate ? flags[end] ?? "" : match[1])) {
      kept.push(...flags.slice(i, end + 1))
    }
    i = end
  }
  return kept
}

/** A flag of NODE_OPTIONS: text between spaces, in which quotation marks hold spaces together. */
const quotedFlag = /(?:"(?:\\[^]|[^"\\])*"|[^\s"])+/g

const unquote = (flag: string): string =>
  flag.replace(/"((?:\\[^]|[^"\\])*)"/g, (_, text: string) => text.replace(/\\([^])/g, "$1"))

/**
 * The options of a thread, empty if it can inherit everything. A loader of TypeScript is no preload if the thread loads
 * TypeScript.
 */
export const threadOptions = (
  { env, execArgv, versions }: Pick<NodeJS.Process, "execArgv" | "env"> & { readonly versions: NodeJS.Dict<string> },
  loadsTypeScript: boolean
): ThreadOptions => {
  if (versions.bun !== undefined || versions.deno !== undefined) {
    return {}
  }
  const isKept = (preload: string): boolean =>
    packageLoader.test(preload) || (loadsTypeScript && typeScriptLoader.test(preload))
  const flags = [...(env.NODE_OPTIONS?.match(quotedFlag) ?? []).map(unquote), ...execArgv]
  const kept = withoutPreloads(flags, isKept)
  return kept.length === flags.length ? {} : { execArgv: kept, env: { ...env, NODE_OPTIONS: "" } }
}

/** The options without the flags that an error names as those of a whole process, undefined if it names none. */
export const withoutProcessFlags = (
  { execArgv = [], ...options }: ThreadOptions,
  error: unknown
): ThreadOptions | undefined => {
  const isInvalid = error instanceof Error && "code" in error && error.code === "ERR_WORKER_INVALID_EXEC_ARGV"
  const named = isInvalid ? error.message.slice(error.message.indexOf(": ") + 2).split(", ") : []
  const kept = execArgv.filter((flag) => !named.includes(flag))
  return kept.length === execArgv.length ? undefined : { ...options, execArgv: kept }
}
