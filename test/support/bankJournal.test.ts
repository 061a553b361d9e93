import { assert, describe, it } from "@effect/vitest"
import { type Books, type Entry, judge, type Posting, tally } from "./bankJournal.js"

const asked = (id: string, parts: ReadonlyArray<string> = ["a", "b"]): Entry => ({
  id,
  said: "asked",
  kind: "nested",
  parts
})

const row = (id: string, part: string, attempt = 1): Posting => ({ id, attempt, part, source: 1, target: 2, amount: 5 })

/** With the balances that the ledger leads to. */
const books = (...ledger: ReadonlyArray<Posting>): Books => ({
  accounts: [
    { id: 1, balance: 1_000 - 5 * ledger.length },
    { id: 2, balance: 1_000 + 5 * ledger.length }
  ],
  ledger
})

const committed = (id: string, attempt = 1): Entry => ({ id, said: "committed", attempt })
const rolledBack = (id: string, attempt = 1): Entry => ({ id, said: "rolled back", attempt })
const end = (id: string, said: "acknowledged" | "refused" | "unknown" | "interrupted", why?: string): Entry => ({
  id,
  said,
  why
})

const both = [row("x", "a"), row("x", "b")]

describe("judge", () => {
  it("has nothing against what is as it was told", () => {
    assert.deepStrictEqual(
      judge(
        [
          asked("x"),
          rolledBack("x"),
          committed("x", 2),
          end("x", "acknowledged"),
          asked("y"),
          rolledBack("y"),
          end("y", "refused", "ConnectionLost"),
          asked("z"),
          end("z", "unknown", "CommitOutcomeUnknown"),
          asked("u"),
          end("u", "unknown", "CommitOutcomeUnknown"),
          asked("i"),
          committed("i"),
          end("i", "interrupted"),
          asked("killed")
        ],
        books(
          row("x", "b", 2),
          row("x", "a", 2),
          row("u", "a"),
          row("u", "b"),
          row("i", "a"),
          row("i", "b"),
          row("killed", "a"),
          row("killed", "b")
        )
      ),
      []
    )
  })

  const wrongs: ReadonlyArray<readonly [string, ReadonlyArray<Entry>, Books, ReadonlyArray<string>]> = [
    [
      "money that appeared",
      [],
      { accounts: [{ id: 1, balance: 1_001 }], ledger: [] },
      ["the sum is 1001", "account 1 has 1001, and 1000 by the ledger"]
    ],
    [
      "money that is at the wrong place",
      [asked("x"), end("x", "interrupted")],
      { accounts: [{ id: 1, balance: 1_000 }, { id: 2, balance: 1_000 }], ledger: both },
      ["account 1 has 1000, and 990 by the ledger", "account 2 has 1000, and 1010 by the ledger"]
    ],
    [
      "a commit that was acknowledged and lost",
      [asked("x"), committed("x"), end("x", "acknowledged")],
      books(),
      [
        "x (nested, acknowledged): attempt 1 was said to be committed, and is not there",
        "x (nested, acknowledged): was acknowledged, and is lost"
      ]
    ],
    [
      "what was acknowledged without its hook",
      [asked("x"), end("x", "acknowledged")],
      books(...both),
      ["x (nested, acknowledged): was acknowledged, and afterCommit ran 0 times"]
    ],
    [
      "what was refused and is there",
      [asked("x"), rolledBack("x"), end("x", "refused", "ConnectionLost")],
      books(...both),
      [
        "x (nested, refused): attempt 1 was said to be rolled back, and is there",
        "x (nested, refused): was refused, and is there"
      ]
    ],
    [
      "what was done twice",
      [asked("x"), committed("x", 2), end("x", "acknowledged")],
      books(...both, row("x", "a", 2), row("x", "b", 2)),
      ["x (nested, acknowledged): was done 2 times"]
    ],
    [
      "what was done twice in one attempt",
      [asked("x"), committed("x"), end("x", "acknowledged")],
      books(...both, ...both),
      ["x (nested, acknowledged): attempt 1 left a,b,a,b in place of a,b"]
    ],
    [
      "half of a transfer",
      [asked("x"), end("x", "interrupted")],
      books(row("x", "b")),
      ["x (nested, interrupted): attempt 1 left b in place of a,b"]
    ],
    [
      "what was undone and is there",
      [asked("x"), end("x", "interrupted")],
      books(...both, row("x", "never")),
      ["x (nested, interrupted): attempt 1 left a,b,never in place of a,b"]
    ],
    [
      "both hooks of one attempt",
      [asked("x"), committed("x"), rolledBack("x"), end("x", "interrupted")],
      books(...both),
      [
        "x (nested, interrupted): attempt 1 was said to be committed, and rolled back",
        "x (nested, interrupted): attempt 1 was said to be rolled back, and is there",
        "x (nested, interrupted): an attempt's end was told twice"
      ]
    ],
    [
      "a hook for what is unknown",
      [asked("x"), committed("x"), end("x", "unknown", "CommitOutcomeUnknown")],
      books(...both),
      ["x (nested, unknown): was said to be committed, and to be unknown"]
    ],
    ["what nobody asked for", [], books(row("x", "a")), ["x (, undefined): nobody asked for it"]],
    [
      "a failure that has no place here",
      [asked("x"), end("x", "refused", "UnknownDatabaseError"), { id: "y", said: "defect", why: "boom" }, asked("y")],
      books(),
      ["x: failed with UnknownDatabaseError", "y: a defect: boom"]
    ]
  ]

  for (const [name, journal, found, problems] of wrongs) {
    it(`finds ${name}`, () => {
      assert.deepStrictEqual(judge(journal, found), problems)
    })
  }
})

describe("tally", () => {
  it("counts what was said, and why", () => {
    assert.deepStrictEqual(
      tally([asked("x"), end("x", "refused", "PoolTimeout"), asked("y"), end("y", "acknowledged")]),
      { asked: 2, "refused PoolTimeout": 1, acknowledged: 1 }
    )
  })
})
