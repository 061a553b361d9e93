import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Database from "../../../src/Database.js"
import { saslprep } from "../../../src/internal/postgres/saslprep.js"
import { freshDatabase, query } from "../../support/postgres.js"
import { newSeed, random } from "../../support/random.js"

const cases: ReadonlyArray<readonly [what: string, password: string, prepared: string]> = [
  ["ASCII", "p a'ss\\word", "p a'ss\\word"],
  ["ASCII with control characters", "a\u0001\u007f", "a\u0001\u007f"],
  ["composed", "p\u00e4ss", "p\u00e4ss"],
  ["decomposed", "pa\u0308ss", "p\u00e4ss"],
  ["a ligature", "\ufb01", "fi"],
  ["a Roman number", "\u2163", "IV"],
  ["another space", "a\u00a0b", "a b"],
  ["only another space", "\u3000", " "],
  ["a soft hyphen", "I\u00adX", "IX"],
  ["nothing but a soft hyphen", "\u00ad", "\u00ad"],
  ["a zero-width space, which is a space and nothing", "a\u200bb", "a b"],
  ["private use", "\ufb01\ue000", "\ufb01\ue000"],
  ["not assigned in Unicode 3.2", "\ufb01\u{1f600}", "\ufb01\u{1f600}"],
  ["a control character beyond ASCII", "\ufb01\u0085", "\ufb01\u0085"],
  ["a control character of ASCII beside others", "\ufb01\u0007", "\ufb01\u0007"],
  ["right to left", "\u05d0\u05d1", "\u05d0\u05d1"],
  ["right to left around a digit that is normalized", "\u05d0\u00b2\u05d1", "\u05d02\u05d1"],
  ["right to left and left to right", "\u05d0\ufb01\u05d0", "\u05d0\ufb01\u05d0"],
  ["right to left that ends with a digit", "\u0627\u00b2", "\u0627\u00b2"],
  ["right to left that begins with a digit", "\u00b2\u0627", "\u00b2\u0627"],
  // Not so in the RFC, which looks at the normalized text.
  ["a character whose normal form is written from right to left", "a\u2135", "a\u05d0"]
]

const pools: ReadonlyArray<readonly [first: number, last: number]> = [
  [0x20, 0x7e],
  [0x80, 0x24f],
  [0x300, 0x36f],
  [0x5be, 0x6ff],
  [0x900, 0x97f],
  [0x2000, 0x206f],
  [0x2150, 0x218f],
  [0x2460, 0x24ff],
  [0x3000, 0x30ff],
  [0xac00, 0xd7a3],
  [0xe000, 0xe0ff],
  [0xfb00, 0xfb4f],
  [0xfe00, 0xfeff],
  [0xff00, 0xffee],
  [0x1d400, 0x1d7ff],
  [0x1f600, 0x1f64f],
  [0x2f800, 0x2fa1d]
]

describe("SASLprep", () => {
  it.each(cases)("%s", (_, password, prepared) => {
    assert.strictEqual(saslprep(password), prepared)
  })

  it.scopedLive(
    "the server lets in whom it has given a password: the same is done on both sides",
    () =>
      Effect.gen(function*() {
        const admin = yield* freshDatabase
        const role = `prepared_${process.pid}`
        yield* Effect.acquireRelease(
          query(admin, `CREATE ROLE ${role} LOGIN`),
          () => query(admin, `DROP ROLE ${role}`)
        )
        const { below, pick } = random(newSeed())
        const anyPassword = () => {
          const some = [pick(pools), pick(pools)]
          return Array.from({ length: 1 + below(4) }, () => {
            const [first, last] = pick(some)
            return String.fromCodePoint(first + below(last - first + 1))
          }).join("")
        }
        const passwords = [...cases.map(([, password]) => password), ...Array.from({ length: 60 }, anyPassword)]
        for (const password of passwords) {
          const codes = Array.from(password, (character) => character.codePointAt(0)?.toString(16)).join(" ")
          yield* query(admin, `ALTER ROLE ${role} PASSWORD E'${password.replaceAll(/['\\]/g, "\\$&")}'`)
          const [{ rolpassword }] = yield* query(admin, `SELECT rolpassword FROM pg_authid WHERE rolname = '${role}'`)
          assert.match(String(rolpassword), /^SCRAM-SHA-256\$/)
          const url = new URL(admin)
          url.username = role
          url.password = ""
          const who = Effect.scoped(Effect.flatMap(
            Database.make({ environment: "test", url: url.toString(), password }),
            ({ sql }) => sql<{ readonly who: string }>`SELECT current_user::text AS who`
          ))
          const rows = yield* Effect.mapError(who, (error) => `${codes}: ${error.message}`)
          assert.deepStrictEqual([...rows], [{ who: role }], codes)
        }
      }),
    240_000
  )
})
