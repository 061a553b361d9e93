/**
 * Whether what transactions saw can be put into a serial order. They read lists and append to them elements that are
 * never the same, so that a list tells who wrote before whom, and a read which of them it saw: the idea is that of Elle,
 * https://github.com/jepsen-io/elle.
 */

/** What a transaction that committed did to the lists, by their keys. */
export interface Committed {
  readonly name: string
  readonly reads: ReadonlyArray<{ readonly key: number; readonly seen: ReadonlyArray<string> }>
  readonly appends: ReadonlyArray<{ readonly key: number; readonly element: string }>
}

/** What the history of some transactions, and the lists as they are in the end, have against a serial order, if anything. */
export const contradiction = (
  history: ReadonlyArray<Committed>,
  lists: ReadonlyMap<number, ReadonlyArray<string>>
): string | undefined => {
  const writers = new Map(
    history.flatMap(({ appends, name }) => appends.map(({ element }) => [element, name] as const))
  )
  /** Who must come before whom, and why. */
  const edges = new Map<string, Map<string, string>>(history.map(({ name }) => [name, new Map()]))
  const before = (one: string | undefined, other: string | undefined, why: string): void => {
    if (one !== undefined && other !== undefined && one !== other) {
      edges.get(one)!.set(other, why)
    }
  }

  for (const [key, list] of lists) {
    for (const [index, element] of list.entries()) {
      if (!writers.has(element)) {
        return `list ${key} holds ${element}, which nobody committed`
      }
      before(writers.get(list[index - 1]), writers.get(element), `ww ${key}`)
    }
  }
  for (const { appends, name, reads } of history) {
    for (const { element, key } of appends) {
      if (lists.get(key)?.filter((held) => held === element).length !== 1) {
        return `list ${key} does not hold once what ${name} appended: ${element}`
      }
    }
    for (const { key, seen } of reads) {
      const list = lists.get(key) ?? []
      if (seen.some((element, index) => element !== list[index])) {
        return `${name} saw in list ${key} what never was: ${seen.join(" ")}`
      }
      before(writers.get(list[seen.length - 1]), name, `wr ${key}`)
      before(name, writers.get(list[seen.length]), `rw ${key}`)
    }
  }
  return cycle(edges)
}

/** A way back to where it began. */
const cycle = (edges: ReadonlyMap<string, ReadonlyMap<string, string>>): string | undefined => {
  const done = new Set<string>()
  const visit = (name: string, path: ReadonlyArray<readonly [name: string, why: string]>): string | undefined => {
    const start = path.findIndex(([visited]) => visited === name)
    if (start !== -1) {
      return [...path.slice(start).map(([visited, why]) => `${visited} -${why}->`), name].join(" ")
    }
    if (done.has(name)) {
      return undefined
    }
    for (const [next, why] of edges.get(name)!) {
      const found = visit(next, [...path, [name, why]])
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
