/**
 * How long the end of a transaction may take. One timer looks after all that end, so that no session needs one, nor a
 * fiber that could be interrupted in its place.
 */
import * as Cause from "effect/Cause"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import type { Connection } from "../driver.js"

/** In milliseconds: ten looks make the half second that is waited. A look that comes late counts once. */
const pause = 50
const looks = 10

/** Something that ends. */
export interface Wait {
  readonly connection: Connection
  /** Who must have been interrupted before its patience ends; undefined is always in a hurry. */
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
  looks: number
}

const waits = new Set<Wait>()
let timer: NodeJS.Timeout | undefined = undefined

/** Destroying a connection ends whatever runs on it at once. */
const look = (): void => {
  timer = undefined
  for (const wait of waits) {
    if (isHurried(wait) && ++wait.looks > looks) {
      waits.delete(wait)
      wait.connection.destroy()
    }
  }
  if (waits.size > 0) {
    rest()
  }
}

const isHurried = ({ fiber }: Wait): boolean =>
  fiber === undefined || !Cause.isEmpty(fiber.getFiberRef(FiberRef.interruptedCause))

const rest = (): void => {
  timer = setTimeout(look, pause)
  // What is waited for keeps the process alive, or nothing does.
  timer.unref()
}

/** Begins to wait. Who does must say when it is over. */
export const begin = (connection: Connection, fiber: Wait["fiber"]): Wait => {
  const wait: Wait = { connection, fiber, looks: 0 }
  waits.add(wait)
  if (timer === undefined) {
    rest()
  }
  return wait
}

export const end = (wait: Wait): void => {
  waits.delete(wait)
}
