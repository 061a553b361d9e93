/**
 * Smaller programs that fail like a large one.
 */
import * as Effect from "effect/Effect"
import type { Node, Program, Root } from "./program.js"

const withOne = <A>(items: ReadonlyArray<A>, at: number, item: A): ReadonlyArray<A> =>
  items.map((old, i) => (i === at ? item : old))

const without = <A>(items: ReadonlyArray<A>, at: number): ReadonlyArray<A> => items.filter((_, i) => i !== at)

const nothing: Node = { _tag: "pause", millis: 0 }
const isNothing = (node: Node): boolean => node._tag === "pause" && node.millis === 0

/** Nodes that are smaller than one, the smallest first. */
const smaller = (node: Node): ReadonlyArray<Node> => {
  switch (node._tag) {
    case "sequence":
    case "together":
    case "race":
      return [
        ...node.nodes,
        ...(node.nodes.length > 1
          ? Array.from(node.nodes, (_, at): Node => ({ ...node, nodes: without(node.nodes, at) }))
          : []),
        ...node.nodes.flatMap((inner, at) =>
          Array.from(smaller(inner), (less): Node => ({ ...node, nodes: withOne(node.nodes, at, less) }))
        )
      ]
    case "nested":
      return [
        node.node,
        ...(node.millis > 0 ? [{ ...node, millis: 0 }] : []),
        ...Array.from(smaller(node.node), (less): Node => ({ ...node, node: less }))
      ]
    case "timeout":
    case "swallow":
    case "orDie":
    case "handle":
      return [node.node, ...Array.from(smaller(node.node), (less): Node => ({ ...node, node: less }))]
    case "stream":
      return [
        nothing,
        ...(isNothing(node.each) ? [] : [node.each, { ...node, each: nothing }]),
        ...(node.take < node.rows ? [{ ...node, take: node.rows }] : []),
        ...(node.writes ? [{ ...node, writes: false }] : []),
        ...Array.from(smaller(node.each), (less): Node => ({ ...node, each: less }))
      ]
    case "write":
      return node.millis > 0 ? [nothing, { ...node, millis: 0 }] : [nothing]
    case "pause":
      return isNothing(node) ? [] : [nothing]
    default:
      return [nothing]
  }
}

const smallerRoots = (root: Root): ReadonlyArray<Root> => [
  ...(root.interruptAfter === undefined ? [] : [{ ...root, interruptAfter: undefined }]),
  ...(root.retry ? [{ ...root, retry: false }] : []),
  ...(root.timeout > 0 ? [{ ...root, timeout: 0 }] : []),
  ...(root.acquired ? [{ ...root, acquired: false }] : []),
  ...Array.from(smaller(root.node), (node): Root => ({ ...root, node }))
]

const smallerPrograms = (program: Program): ReadonlyArray<Program> => [
  ...(program.roots.length > 1
    ? Array.from(program.roots, (_, at): Program => ({ ...program, roots: without(program.roots, at) }))
    : []),
  ...(program.loseAfter === undefined ? [] : [{ ...program, loseAfter: undefined }]),
  ...program.roots.flatMap((root, at) =>
    Array.from(smallerRoots(root), (less): Program => ({ ...program, roots: withOne(program.roots, at, less) }))
  )
]

/** The smallest program found until the time is over that still fails. */
export const shrink = <E, R>(
  program: Program,
  fails: (program: Program) => Effect.Effect<boolean, E, R>,
  millis: number
): Effect.Effect<Program, E, R> =>
  Effect.gen(function*() {
    const deadline = performance.now() + millis
    let smallest = program
    let candidates = smallerPrograms(smallest)
    for (let at = 0; at < candidates.length && performance.now() < deadline; at++) {
      if (yield* fails(candidates[at])) {
        smallest = candidates[at]
        candidates = smallerPrograms(smallest)
        at = -1
      }
    }
    return smallest
  })
