/**
 * Chance that can be repeated.
 */

/** The same numbers for the same seed. */
export interface Random {
  readonly seed: number
  /** From 0 to 1, without 1. */
  readonly next: () => number
  /** A whole number below this one. */
  readonly below: (limit: number) => number
  readonly between: (lowest: number, highest: number) => number
  readonly chance: (probability: number) => boolean
  readonly pick: <A>(items: ReadonlyArray<A>) => A
  /** One whose numbers do not depend on how many were taken from this one. */
  readonly branch: (name: string | number) => Random
}

const hash = (text: string): number => {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  }
  return value >>> 0
}

/** Mulberry32. */
export const random = (seed: number): Random => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
  const below = (limit: number): number => Math.floor(next() * limit)
  return {
    seed,
    next,
    below,
    between: (lowest, highest) => lowest + next() * (highest - lowest),
    chance: (probability) => next() < probability,
    pick: (items) => items[below(items.length)],
    branch: (name) => random(hash(`${seed} ${name}`))
  }
}

/** What TEST_SEED says, else another one each time. */
export const newSeed = (given = process.env.TEST_SEED): number =>
  given === undefined || given === "" ? Math.floor(Math.random() * 2 ** 31) : Number(given)
