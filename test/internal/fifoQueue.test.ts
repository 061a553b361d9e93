import { assert, describe, it } from "@effect/vitest"
import { FifoQueue, type Queued } from "../../src/internal/fifoQueue.js"

interface Item extends Queued<Item> {
  readonly name: string
}

const item = (name: string): Item => ({ name, previous: undefined, next: undefined })

/** The names in the queue, read in both directions. */
const names = (queue: FifoQueue<Item>): ReadonlyArray<string> => {
  const forward: Array<string> = []
  let last: Item | undefined
  for (let at = queue.first; at !== undefined; at = at.next) {
    forward.push(at.name)
    last = at
  }
  const backward: Array<string> = []
  for (let at = last; at !== undefined; at = at.previous) {
    backward.push(at.name)
  }
  assert.deepStrictEqual(backward.toReversed(), forward)
  assert.strictEqual(queue.size, forward.length)
  return forward
}

describe("a first-in-first-out queue", () => {
  it("keeps the order in which items are added, and those in front of it", () => {
    const queue = new FifoQueue<Item>()
    assert.deepStrictEqual(names(queue), [])
    queue.unshift(item("b"))
    queue.push(item("c"))
    queue.unshift(item("a"))
    assert.deepStrictEqual(names(queue), ["a", "b", "c"])
  })

  it("removes an item from anywhere, once", () => {
    for (const order of ["abc", "acb", "bac", "bca", "cab", "cba"]) {
      const queue = new FifoQueue<Item>()
      const items = new Map(["a", "b", "c"].map((name) => [name, item(name)]))
      for (const each of items.values()) {
        queue.push(each)
      }
      let left = ["a", "b", "c"]
      for (const name of order) {
        const removed = items.get(name)!
        assert.isTrue(queue.remove(removed))
        assert.isFalse(queue.remove(removed))
        left = left.filter((other) => other !== name)
        assert.deepStrictEqual(names(queue), left, order)
      }
      queue.push(items.get("b")!)
      assert.deepStrictEqual(names(queue), ["b"], "it can be added again")
    }
  })
})
