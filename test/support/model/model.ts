/**
 * What a program may have done, by the rules of sessions: which rows are there afterwards, what each statement may have
 * answered, which errors there may be, and which hooks ran.
 */
import type { Node, Program, Root } from "./program.js"
import { type Level, levelsOf, type RootTrace, type Statement } from "./trace.js"

/** Rows that must be there, and rows of which the first ones may be: those of streams that were left. */
interface Rows {
  readonly must: ReadonlySet<number>
  readonly may: ReadonlySet<number>
}

const none: Rows = { must: new Set(), may: new Set() }

const isKept = (level: Level): boolean => level.outcome === "success" && !level.rollbackOnly

/** What the statements of a level, and of the levels in it that were kept, have written. */
const written = (level: Level): Rows => {
  const must = new Set<number>()
  const may = new Set<number>()
  for (const { kind, outcome, rows, writes } of level.statements) {
    // A stream that was left has written the rows that it answered, and perhaps those of a batch that it fetched.
    const least = kind === "stream" ? Math.min(rows.length, writes.length) : outcome === "success" ? writes.length : 0
    const most = kind === "stream" && rows.length < writes.length ? writes.length : least
    writes.slice(0, least).forEach((part) => must.add(part))
    writes.slice(least, most).forEach((part) => may.add(part))
  }
  for (const inner of level.levels.filter(isKept)) {
    const { may: innerMay, must: innerMust } = written(inner)
    innerMust.forEach((part) => must.add(part))
    innerMay.forEach((part) => may.add(part))
  }
  return { must, may }
}

const fits = ({ may, must }: Rows, found: ReadonlyArray<number>): boolean =>
  found.every((part) => must.has(part) || may.has(part)) && Array.from(must).every((part) => found.includes(part))

/** The rows of a session that may be there, each possibility. */
const possible = (trace: RootTrace): ReadonlyArray<Rows> => {
  const last = trace.attempts.at(-1)
  if (last === undefined || !last.finished || last.rollbackOnly) {
    return [none]
  }
  if (trace.outcome === "success") {
    return [written(last)]
  }
  return trace.outcome === "interrupted" || trace.tag === "CommitOutcomeUnknown" ? [written(last), none] : [none]
}

const list = (parts: Iterable<number>): string => {
  const all = Array.from(parts)
  return `[${all.slice(0, 8).join()}${all.length > 8 ? `, ${all.length} in all` : ""}]`
}

const showRows = ({ may, must }: Rows): string => list(must) + (may.size > 0 ? ` and perhaps of ${list(may)}` : "")

const nodesOf = (node: Node): ReadonlyArray<Node> => {
  switch (node._tag) {
    case "sequence":
    case "together":
    case "race":
      return [node, ...node.nodes.flatMap(nodesOf)]
    case "timeout":
    case "swallow":
    case "orDie":
    case "nested":
    case "handle":
      return [node, ...nodesOf(node.node)]
    case "stream":
      return [node, ...nodesOf(node.each)]
    default:
      return [node]
  }
}

/** SQLite's connection is given up if a statement that was interrupted runs for this much longer, in milliseconds. */
const cancelTimeout = 200

/** The errors that a program may end with by what it consists of. */
const errorsOf = (program: Program, root: Root, isEmbedded: boolean): ReadonlySet<string> => {
  const nodes = nodesOf(root.node)
  const allowed = new Set<string>()
  if (nodes.some((node) => node._tag === "violate")) {
    allowed.add("UniqueViolation")
  }
  if (nodes.some((node) => node._tag === "fail" && !node.retryable)) {
    allowed.add("boom")
  }
  if (nodes.some((node) => node._tag === "fail" && node.retryable)) {
    allowed.add("SerializationFailure")
  }
  if (root.timeout > 0 || nodes.some((node) => node._tag === "nested" && node.millis > 0)) {
    allowed.add("SessionTimeout")
  }
  if (isEmbedded && nodes.some((node) => node._tag === "write" && node.millis > cancelTimeout)) {
    allowed.add("ConnectionLost")
  }
  if (program.loseAfter !== undefined) {
    // One at a time may be lost while it is opened.
    ;["ConnectionLost", "CommitOutcomeUnknown", "ConnectionFailed"].forEach((tag) => allowed.add(tag))
  }
  return allowed
}

const ofStatement = (
  path: ReadonlyArray<Level>,
  statement: Statement,
  allowed: ReadonlySet<string>
): ReadonlyArray<string> => {
  const problems: Array<string> = []
  const { id, kind, outcome, rows, started, tag } = statement
  const name = `${kind}#${id}`
  const level = path[path.length - 1]
  // What a session's end leaves behind: a statement that failed or was interrupted before this one began.
  const before = level.statements.filter((other) => other.ended < started)
  const doomed = before.find((other) => other.kind === "violate" && other.outcome === "failed")
  if (outcome === "success" && kind === "violate") {
    problems.push(`${name} succeeded`)
  }
  if (outcome === "success" && doomed !== undefined) {
    problems.push(`${name} succeeded after ${doomed.kind}#${doomed.id} had failed in the same session`)
  }
  if (outcome === "failed" && !allowed.has(tag) && tag !== "TransactionAborted") {
    problems.push(`${name} failed with ${tag}`)
  }
  // A stream fails with what the sessions fail with that are opened for its rows.
  const isOfInner = kind === "stream" &&
    level.levels.some((inner) => inner.tag === "TransactionAborted" && mayBeAborted([inner]))
  if (outcome === "failed" && tag === "TransactionAborted" && !path.some(isHarmed) && !isOfInner) {
    problems.push(`${name} failed with TransactionAborted, although nothing ended its session`)
  }
  if (kind === "stream" && rows.some((row, i) => row !== i + 1)) {
    problems.push(`${name} answered ${list(rows)}`)
  }
  return problems
}

/**
 * Something of the level itself failed or was interrupted. A nested session that was interrupted counts if it had been
 * released by then.
 */
const isHarmed = (level: Level): boolean =>
  level.statements.some(({ outcome, tag }) =>
    outcome === "interrupted" || (outcome === "failed" && tag !== "TransactionAborted")
  ) || level.levels.some(({ outcome }) => outcome === "interrupted")

/**
 * Whether the last level may have failed with TransactionAborted: what is around it or in it was harmed, or what its
 * effect failed with was that of a session in it.
 */
const mayBeAborted = (path: ReadonlyArray<Level>): boolean => {
  const level = path[path.length - 1]
  return path.some(isHarmed) ||
    (!level.finished && level.levels.some((inner) => inner.tag === "TransactionAborted" && mayBeAborted([inner])))
}

/** What a read must have seen and may have seen: of its own session only. */
const ofRead = (path: ReadonlyArray<Level>, read: Statement): ReadonlyArray<string> => {
  if (read.outcome !== "success") {
    return []
  }
  const must = new Set<number>()
  const may = new Set<number>()
  const visit = (level: Level): void => {
    const isOver = level.ended < read.started
    if (isOver && !isKept(level)) {
      return
    }
    const isCertain = isOver || path.includes(level)
    for (const { ended, kind, outcome, rows, started, writes } of level.statements) {
      if (started < read.ended) {
        writes.forEach((part) => may.add(part))
      }
      if (isCertain && ended < read.started && (outcome === "success" || kind === "stream")) {
        writes.slice(0, kind === "stream" ? rows.length : undefined).forEach((part) => must.add(part))
      }
    }
    level.levels.forEach(visit)
  }
  visit(path[0])
  const missing = Array.from(must).filter((part) => !read.rows.includes(part))
  const strange = read.rows.filter((part) => !may.has(part))
  return [
    ...(missing.length > 0 ? [`read#${read.id} has not seen ${list(missing)}`] : []),
    ...(strange.length > 0 ? [`read#${read.id} has seen ${list(strange)}`] : [])
  ]
}

const ofLevel = (path: ReadonlyArray<Level>, allowed: ReadonlySet<string>): ReadonlyArray<string> => {
  const level = path[path.length - 1]
  const name = level.id === 0 ? `attempt ${level.attempt}` : `session#${level.id}`
  const problems = level.statements.flatMap((statement) => [
    ...ofStatement(path, statement, allowed),
    ...(statement.kind === "read" ? ofRead(path, statement) : [])
  ])
  const swallowed = level.statements.find(({ kind, outcome }) => kind === "violate" && outcome === "failed")
  if (level.id !== 0 && isKept(level) && swallowed !== undefined) {
    problems.push(`${name} was committed although violate#${swallowed.id} had failed in it`)
  }
  if (level.id !== 0 && level.outcome === "failed" && !allowed.has(level.tag)) {
    if (level.tag !== "TransactionAborted") {
      problems.push(`${name} failed with ${level.tag}`)
    } else if (!mayBeAborted(path)) {
      problems.push(`${name} failed with TransactionAborted, although nothing ended it`)
    }
  }
  return [...problems, ...level.levels.flatMap((inner) => ofLevel([...path, inner], allowed))]
}

/**
 * Hooks run once, and only those that the end of the session calls for. If the session was interrupted while it committed,
 * its rows tell how it ended and the session may not know: then no hook runs.
 */
const ofHooks = (trace: RootTrace, committed: boolean | undefined): ReadonlyArray<string> =>
  trace.attempts.flatMap((attempt, i) => {
    const isLast = i === trace.attempts.length - 1
    const mayBeUnknown = isLast && attempt.finished && trace.outcome === "interrupted"
    const visit = (level: Level, kept: boolean | undefined): ReadonlyArray<string> => {
      const name = level.id === 0 ? `attempt ${level.attempt}` : `session#${level.id}`
      const commits = level.hooked && kept === true ? 1 : 0
      const rollbacks = level.hooked && kept === false ? 1 : 0
      const wrong = kept === undefined
        ? level.committed + level.rolledBack > 1
        : mayBeUnknown
        ? level.committed > commits || level.rolledBack > rollbacks
        : level.committed !== commits || level.rolledBack !== rollbacks
      return [
        ...(wrong
          ? [
            `${name} was ${kept === undefined ? "ended unknown" : kept ? "committed" : "rolled back"}: ` +
            `${level.committed} hooks after the commit and ${level.rolledBack} after the rollback ran`
          ]
          : []),
        ...level.levels.flatMap((inner) => visit(inner, isKept(inner) ? kept : false))
      ]
    }
    return visit(attempt, isLast ? committed : false)
  })

/** What is wrong with one session of a program. */
export const judge = (
  program: Program,
  root: Root,
  trace: RootTrace,
  found: ReadonlyArray<number>,
  isEmbedded: boolean
): ReadonlyArray<string> => {
  const problems: Array<string> = []
  const allowed = errorsOf(program, root, isEmbedded)
  const last = trace.attempts.at(-1)
  const fitting = possible(trace).filter((rows) => fits(rows, found))
  if (fitting.length === 0) {
    problems.push(
      `it ended with ${trace.tag || trace.outcome}, and there is ${list(found)} instead of ${
        possible(trace).map(showRows).join(" or ")
      }`
    )
  }
  const swallowed = last?.statements.find(({ kind, outcome }) => kind === "violate" && outcome === "failed")
  if (trace.outcome === "success" && swallowed !== undefined && last?.rollbackOnly === false) {
    problems.push(`it succeeded although violate#${swallowed.id} had failed in it`)
  }
  if (trace.outcome === "interrupted" && root.interruptAfter === undefined) {
    problems.push("it was interrupted, and nobody interrupted it")
  }
  if (trace.outcome === "failed" && !allowed.has(trace.tag)) {
    if (trace.tag !== "TransactionAborted") {
      problems.push(`it failed with ${trace.tag}`)
    } else if (last === undefined || !mayBeAborted([last])) {
      problems.push("it failed with TransactionAborted, although nothing ended it")
    }
  }
  const unfinished = trace.attempts.flatMap(levelsOf).flatMap((level) => level.statements)
    .filter(({ outcome }) => outcome === "running")
  if (unfinished.length > 0) {
    problems.push(`${unfinished.map(({ id, kind }) => `${kind}#${id}`).join()} did not end`)
  }
  // Where both are possible and there are no rows to tell them apart, the hooks need only agree with themselves.
  const committed = last === undefined || trace.tag === "CommitOutcomeUnknown"
    ? undefined
    : trace.outcome === "success"
    ? !last.rollbackOnly
    : trace.outcome === "failed" || !last.finished
    ? false
    : fitting.length === 1
    ? fitting[0] !== none
    : undefined
  return [
    ...problems,
    ...trace.attempts.flatMap((attempt) => ofLevel([attempt], allowed)),
    ...(fitting.length === 0 ? [] : ofHooks(trace, committed))
  ]
}
