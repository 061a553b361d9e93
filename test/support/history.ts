/**
 * Checks whether a history of transactions is serializable, as Elle does (https://github.com/jepsen-io/elle).
 * Transactions read lists and append unique elements to them. So a list shows the order of its writers, and a read shows
 * which of them it observed.
 */

/** The reads and appends of a committed transaction. */
export interface Committed {
  readonly name: string
  readonly reads: ReadonlyArray<{ readonly key: number; readonly seen: ReadonlyArray<string> }>
  readonly appends: ReadonlyArray<{ readonly key: number; readonly element: string }>
}

/** Why the history and the final lists have no serial order, or undefined if they have one. */
export const contradiction = (
  history: ReadonlyArray<Committed>,
  lists: ReadonlyMap<number, ReadonlyArray<string>>
): string | undefined => {
  const writers = new Map(
    history.flatMap(({ appends, name }) => appends.map(({ element }) => [element, name] as const))
  )
  /** For each transaction, those that must come after it, with the reason. */
  const edges = new Map<string, Map<string, string>>(history.map(({ name }) => [name, new Map()]))
  const addEdge = (from: string | undefined, to: string | undefined, dependency: string): void => {
    if (from !== undefined && to !== undefined && from !== to) {
      edges.get(from)!.set(to, dependency)
    }
  }

  for (const [key, list] of lists) {
    for (const [index, element] of list.entries()) {
      if (!writers.has(element)) {
        return `list ${key} holds ${element}, which no transaction has committed`
      }
      addEdge(writers.get(list[index - 1]), writers.get(element), `ww ${key}`)
    }
  }
  for (const { appends, name, reads } of history) {
    for (const { element, key } of appends) {
      if (lists.get(key)?.filter((held) => held === element).length !== 1) {
        return `list ${key} does not hold exactly once the element that ${name} appended: ${element}`
      }
    }
    for (const { key, seen } of reads) {
      const list = lists.get(key) ?? []
      if (seen.some((element, index) => element !== list[index])) {
        return `${name} read a state of list ${key} that never existed: ${seen.join(" ")}`
      }
      addEdge(writers.get(list[seen.length - 1]), name, `wr ${key}`)
      addEdge(name, writers.get(list[seen.length]), `rw ${key}`)
    }
  }
  return findCycle(edges)
}

/** A cycle of dependencies as text, or undefined if there is none. */
const findCycle = (edges: ReadonlyMap<string, ReadonlyMap<string, string>>): string | undefined => {
  const done = new Set<string>()
  const visit = (
    name: string,
    path: ReadonlyArray<readonly [name: string, dependency: string]>
  ): string | undefined => {
    const start = path.findIndex(([visited]) => visited === name)
    if (start !== -1) {
      return [...path.slice(start).map(([visited, dependency]) => `${visited} -${dependency}->`), name].join(" ")
    }
    if (done.has(name)) {
      return undefined
    }
    for (const [next, dependency] of edges.get(name)!) {
      const found = visit(next, [...path, [name, dependency]])
      if (found !== undefined) {
        return found
      }
    }
    done.add(name)
    return undefined
  }
  for (const name of edges.keys()) {
    const found = visit(name, [])
    if (found !== undefined) {
      return found
    }
  }
  return undefined
}
