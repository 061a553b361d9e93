/**
 * Who may speak: one alone, or several who share the turn, in the order of asking.
 */

/** Somebody's place in the order. */
export interface Ticket {
  /** Whether others who share it may have the turn at the same time. */
  readonly shares: boolean
  /** Called when it is its turn, at once or later. */
  readonly go: () => void
}

export class Turn {
  /** How many may share a turn. */
  readonly #most: number
  readonly #having = new Set<Ticket>()
  readonly #waiting = new Set<Ticket>()
  #shared = false
  #advancing = false

  constructor(most: number) {
    this.#most = most
  }

  /** Whether nobody has it. Nobody waits for it then. */
  get isFree(): boolean {
    return this.#having.size === 0
  }

  enter(ticket: Ticket): void {
    this.#waiting.add(ticket)
    this.#advance()
  }

  /** Gives the turn on, or gives up waiting for it. May be called twice. */
  leave(ticket: Ticket): void {
    if (this.#having.delete(ticket) || this.#waiting.delete(ticket)) {
      this.#advance()
    }
  }

  /** Who leaves in `go` already does not call the next from within, or a long queue would be a deep stack. */
  #advance(): void {
    if (this.#advancing) {
      return
    }
    this.#advancing = true
    for (const ticket of this.#waiting) {
      const { size } = this.#having
      if (size > 0 && !(ticket.shares && this.#shared && size < this.#most)) {
        break
      }
      this.#waiting.delete(ticket)
      this.#having.add(ticket)
      this.#shared = ticket.shares
      ticket.go()
    }
    this.#advancing = false
  }
}
