/**
 * A first-in-first-out queue whose items can leave from anywhere.
 */

/** An item of a queue, which keeps its neighbors itself. Both are undefined while it is not queued. */
export interface Queued<Item> {
  previous: Item | undefined
  next: Item | undefined
}

/**
 * A doubly linked list. Adding and removing take constant time wherever the item stands, so that a long queue whose
 * fibers are all interrupted is emptied in linear time.
 */
export class FifoQueue<Item extends Queued<Item>> {
  size = 0
  first: Item | undefined = undefined
  private last: Item | undefined = undefined

  /** Adds an item at the end. */
  push(item: Item): void {
    item.previous = this.last
    if (this.last === undefined) {
      this.first = item
    } else {
      this.last.next = item
    }
    this.last = item
    this.size++
  }

  /** Adds an item before all others. */
  unshift(item: Item): void {
    item.next = this.first
    if (this.first === undefined) {
      this.last = item
    } else {
      this.first.previous = item
    }
    this.first = item
    this.size++
  }

  /** Removes an item. Returns false, and does nothing, if it is not queued. */
  remove(item: Item): boolean {
    if (item.previous === undefined && this.first !== item) {
      return false
    }
    if (item.previous === undefined) {
      this.first = item.next
    } else {
      item.previous.next = item.next
    }
    if (item.next === undefined) {
      this.last = item.previous
    } else {
      item.next.previous = item.previous
    }
    item.previous = item.next = undefined
    this.size--
    return true
  }
}
