/**
 * Makes `assert.deepStrictEqual` tell `Option.none()` from `Option.some(1)`: chai compares objects of unlike keys by what
 * their iterators yield, and those of all Effects yield the same wrapper.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Node from "node:assert"

const hasEffects = (value: unknown): boolean => Array.isArray(value) ? value.some(hasEffects) : Effect.isEffect(value)

const { deepStrictEqual } = assert

assert.deepStrictEqual = (actual, expected, message) => {
  deepStrictEqual(actual, expected, message)
  if (hasEffects(actual) || hasEffects(expected)) {
    // Node.js 26 refuses a message that is undefined.
    Node.deepStrictEqual(actual, expected, ...(message === undefined ? [] : [message]))
  }
}
