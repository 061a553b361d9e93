/**
 * Random programs of sessions: what they are made of, and how one is generated.
 */
import type { Random } from "../random.js"

/** What a program may contain. Each can be left out. */
export const features = [
  "nested",
  "together",
  "slow",
  "failures",
  "swallowed",
  "orDie",
  "timeouts",
  "races",
  "streams",
  "streamsLeftEarly",
  "writingStreams",
  "sessionTimeouts",
  "retries",
  "rollbackOnly",
  "handles",
  "interruption",
  "loss"
] as const

export type Feature = (typeof features)[number]

/** A part of a session. Ids are unique in a program. */
export type Node =
  /** Writes a row. A slow one takes about so many milliseconds. */
  | { readonly _tag: "write"; readonly id: number; readonly millis: number }
  /** Reads the rows that the session sees. */
  | { readonly _tag: "read"; readonly id: number }
  /** A statement that violates a constraint. */
  | { readonly _tag: "violate"; readonly id: number }
  /** Fails without a statement; `retryable` only in the first attempt of the session, and then so that it is retried. */
  | { readonly _tag: "fail"; readonly retryable: boolean }
  | { readonly _tag: "pause"; readonly millis: number }
  /**
   * Reads a stream of `rows` rows and leaves it after `take` of them; `writes`: each row is also written. `each` runs at
   * every `every`th row.
   */
  | {
    readonly _tag: "stream"
    readonly id: number
    readonly rows: number
    readonly take: number
    readonly writes: boolean
    readonly every: number
    readonly each: Node
  }
  | { readonly _tag: "sequence"; readonly nodes: ReadonlyArray<Node> }
  | { readonly _tag: "together"; readonly nodes: ReadonlyArray<Node> }
  | { readonly _tag: "race"; readonly nodes: ReadonlyArray<Node> }
  | { readonly _tag: "timeout"; readonly millis: number; readonly node: Node }
  /** Goes on when it fails. */
  | { readonly _tag: "swallow"; readonly node: Node }
  | { readonly _tag: "orDie"; readonly node: Node }
  | { readonly _tag: "rollbackOnly" }
  /** A nested session, with a timeout of its own if it is not 0. */
  | { readonly _tag: "nested"; readonly id: number; readonly millis: number; readonly node: Node }
  /** A session that is acquired, and how it ends. */
  | { readonly _tag: "handle"; readonly id: number; readonly end: "commit" | "rollback" | "leave"; readonly node: Node }

/** One of the sessions that a program runs at once. */
export interface Root {
  readonly node: Node
  readonly retry: boolean
  /** 0 is none. */
  readonly timeout: number
  readonly acquired: boolean
  /** The session is interrupted after so many milliseconds. */
  readonly interruptAfter: number | undefined
}

export interface Program {
  readonly roots: ReadonlyArray<Root>
  /** All connections are closed by the server after so many milliseconds. */
  readonly loseAfter: number | undefined
}

const weights: Readonly<Record<Node["_tag"], number>> = {
  write: 8,
  read: 3,
  pause: 1,
  violate: 1,
  fail: 1,
  stream: 3,
  sequence: 5,
  together: 4,
  race: 2,
  timeout: 3,
  swallow: 2,
  orDie: 1,
  rollbackOnly: 0.3,
  nested: 5,
  handle: 1
}

const needs: Readonly<Partial<Record<Node["_tag"], Feature>>> = {
  violate: "failures",
  fail: "failures",
  stream: "streams",
  together: "together",
  race: "races",
  timeout: "timeouts",
  swallow: "swallowed",
  orDie: "orDie",
  rollbackOnly: "rollbackOnly",
  nested: "nested",
  handle: "handles"
}

const leaves: ReadonlySet<Node["_tag"]> = new Set(["write", "read", "pause", "violate", "fail", "rollbackOnly"])

/** A program of the features, the same for the same random numbers. */
export const generate = (random: Random, enabled: ReadonlySet<Feature>): Program => {
  let ids = 0
  const tags = (Object.keys(weights) as Array<Node["_tag"]>).filter((tag) => {
    const feature = needs[tag]
    return feature === undefined || enabled.has(feature)
  })
  const pickTag = (depth: number): Node["_tag"] => {
    const candidates = depth <= 0 ? tags.filter((tag) => leaves.has(tag)) : tags
    let left = random.between(0, candidates.reduce((sum, tag) => sum + weights[tag], 0))
    return candidates.find((tag) => (left -= weights[tag]) < 0) ?? "write"
  }
  const has = (feature: Feature, probability: number): boolean => enabled.has(feature) && random.chance(probability)
  const millis = (): number => random.below(12)
  const several = (depth: number): ReadonlyArray<Node> => Array.from({ length: 2 + random.below(3) }, () => node(depth))

  const node = (depth: number): Node => {
    const tag = pickTag(depth)
    const inner = (): Node => node(depth - 1)
    switch (tag) {
      case "write":
        return { _tag: tag, id: ++ids, millis: has("slow", 0.01) ? 600 : has("slow", 0.3) ? 1 + millis() : 0 }
      case "read":
      case "violate":
        return { _tag: tag, id: ++ids }
      case "fail":
        return { _tag: tag, retryable: has("retries", 0.5) }
      case "pause":
        return { _tag: tag, millis: millis() }
      case "stream": {
        const writes = has("writingStreams", 0.4)
        const rows = random.pick([1, 50, 300])
        const take = has("streamsLeftEarly", 0.4) ? 1 + random.below(rows) : rows
        const each: Node = random.chance(0.4) ? inner() : { _tag: "pause", millis: 0 }
        return { _tag: tag, id: ++ids, rows, take, writes, every: Math.max(1, Math.floor(rows / 2)), each }
      }
      case "sequence":
        return { _tag: tag, nodes: several(depth - 1) }
      case "together":
        return { _tag: tag, nodes: has("writingStreams", 0.2) ? beside(depth - 1) : several(depth - 1) }
      case "race":
        return { _tag: tag, nodes: [inner(), inner()] }
      case "timeout":
        return { _tag: tag, millis: millis(), node: inner() }
      case "swallow":
      case "orDie":
        return { _tag: tag, node: inner() }
      case "rollbackOnly":
        return { _tag: tag }
      case "nested":
        return { _tag: tag, id: ++ids, millis: has("sessionTimeouts", 0.15) ? 1 + millis() : 0, node: inner() }
      case "handle":
        return { _tag: tag, id: ++ids, end: random.pick(["commit", "commit", "rollback", "leave"]), node: inner() }
    }
  }

  /** A stream that takes its time, beside a nested session that may fail. */
  const beside = (depth: number): ReadonlyArray<Node> => {
    const each: Node = { _tag: "pause", millis: 1 }
    const stream: Node = { _tag: "stream", id: ++ids, rows: 300, take: 300, writes: true, every: 10, each }
    const end: Node = has("failures", 0.7) ? { _tag: "fail", retryable: false } : { _tag: "pause", millis: 0 }
    const work: Node = { _tag: "sequence", nodes: [{ _tag: "pause", millis: millis() }, node(depth), end] }
    const session: Node = enabled.has("nested") ? { _tag: "nested", id: ++ids, millis: 0, node: work } : work
    const later: Node = { _tag: "sequence", nodes: [{ _tag: "pause", millis: 5 + random.below(40) }, session] }
    return [stream, enabled.has("swallowed") ? { _tag: "swallow", node: later } : later]
  }

  const root = (): Root => ({
    node: { _tag: "sequence", nodes: several(3) },
    retry: has("retries", 0.3),
    timeout: has("sessionTimeouts", 0.15) ? 1 + random.below(30) : 0,
    acquired: has("handles", 0.15),
    interruptAfter: has("interruption", 0.2) ? random.below(30) : undefined
  })
  return {
    roots: Array.from({ length: 1 + random.below(3) }, root),
    loseAfter: has("loss", 0.1) ? random.below(30) : undefined
  }
}

/** A program on one line for each session. */
export const show = ({ loseAfter, roots }: Program): string =>
  [
    ...(loseAfter === undefined ? [] : [`connections are closed after ${loseAfter} ms`]),
    ...roots.map(({ node, ...options }) => `${JSON.stringify(options)} ${showNode(node)}`)
  ].join("\n")

const showNode = (node: Node): string => {
  switch (node._tag) {
    case "sequence":
    case "together":
    case "race":
      return `${node._tag}(${node.nodes.map(showNode).join(", ")})`
    case "timeout":
      return `timeout(${node.millis} ms, ${showNode(node.node)})`
    case "swallow":
    case "orDie":
      return `${node._tag}(${showNode(node.node)})`
    case "nested":
      return `nested#${node.id}(${node.millis === 0 ? "" : `within ${node.millis} ms: `}${showNode(node.node)})`
    case "handle":
      return `handle#${node.id}(${showNode(node.node)}, ${node.end})`
    case "write":
      return `write#${node.id}${node.millis === 0 ? "" : `(${node.millis} ms)`}`
    case "stream":
      return `stream#${node.id}(${node.writes ? "writes, " : ""}${node.take} of ${node.rows}, each ${node.every}th: ${
        showNode(node.each)
      })`
    case "pause":
      return `pause(${node.millis} ms)`
    case "fail":
      return node.retryable ? "failRetryably" : "fail"
    case "read":
    case "violate":
      return `${node._tag}#${node.id}`
    case "rollbackOnly":
      return node._tag
  }
}
