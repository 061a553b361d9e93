/**
 * One at a time, in the order of asking.
 */
import * as Effect from "effect/Effect"

/** Runs an effect when it is its turn. One that is interrupted while it waits gives up its place. */
export type Turn = <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>

interface Ticket {
  call: (() => void) | undefined
}

export const makeTurn = (): Turn => {
  let current: Ticket | undefined
  const waiting = new Set<Ticket>()

  const enter = (ticket: Ticket) =>
    Effect.suspend(() => {
      if (current === undefined) {
        current = ticket
        return Effect.void
      }
      return Effect.async<void>((resume) => {
        ticket.call = () => resume(Effect.void)
        waiting.add(ticket)
      })
    })

  const leave = (ticket: Ticket) =>
    Effect.sync(() => {
      waiting.delete(ticket)
      if (current === ticket) {
        const [next] = waiting
        current = next
        if (next !== undefined) {
          waiting.delete(next)
          next.call?.()
        }
      }
    })

  return (effect) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        const ticket: Ticket = { call: undefined }
        return Effect.ensuring(restore(Effect.zipRight(enter(ticket), effect)), leave(ticket))
      })
    )
}
