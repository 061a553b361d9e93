/**
 * Chance as an attacker, and everything that may be seen of a failure.
 */
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import { newSeed } from "./random.js"

/** Holds for so many values of the arbitrary; a failure says the seed, which TEST_SEED repeats. */
export const fuzz = <A, E>(
  arbitrary: FastCheck.Arbitrary<A>,
  runs: number,
  holds: (value: A) => Effect.Effect<void, E>
): Effect.Effect<void> =>
  Effect.promise(() =>
    FastCheck.assert(FastCheck.asyncProperty(arbitrary, (value) => Effect.runPromise(holds(value))), {
      numRuns: runs,
      seed: newSeed()
    })
  )

/** Texts that are seldom thought of: quotes, ends, words that JavaScript has meanings for, halves of characters. */
export const awkward: FastCheck.Arbitrary<string> = FastCheck.oneof(
  FastCheck.string({ unit: "binary-ascii", minLength: 1, maxLength: 20 }),
  FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
  FastCheck.array(
    FastCheck.constantFrom("\"", "'", "\\", ";", "--", "`", "\0", "$1", "?", "%", "a", "\n", "\ud800", "é"),
    {
      minLength: 1,
      maxLength: 8
    }
  ).map((parts) => parts.join("")),
  FastCheck.constantFrom(
    "__proto__",
    "constructor",
    "toString",
    "<script>alert(1)</script>",
    "select",
    "SELECT",
    "x".repeat(63),
    "x".repeat(64),
    "é".repeat(32),
    "x".repeat(5_000),
    "NULL",
    "../../etc/passwd",
    "%00",
    "\u202Egnp.exe",
    "\uFEFF"
  )
)
