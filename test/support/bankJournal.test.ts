import { assert, describe, it } from "@effect/vitest"
import { type Books, countEvents, type Entry, type Posting, verify } from "./bankJournal.js"

const requested = (id: string, parts: ReadonlyArray<string> = ["a", "b"]): Entry => ({
  id,
  event: "requested",
  kind: "nested",
  parts
})

const row = (id: string, part: string, attempt = 1): Posting => ({ id, attempt, part, source: 1, target: 2, amount: 5 })

/** The ledger, with balances that match it. */
const books = (...ledger: ReadonlyArray<Posting>): Books => ({
  accounts: [
    { id: 1, balance: 1_000 - 5 * ledger.length },
    { id: 2, balance: 1_000 + 5 * ledger.length }
  ],
  ledger
})

const committed = (id: string, attempt = 1): Entry => ({ id, event: "committed", attempt })
const rolledBack = (id: string, attempt = 1): Entry => ({ id, event: "rolled back", attempt })
const end = (id: string, event: "acknowledged" | "refused" | "unknown" | "interrupted", reason?: string): Entry => ({
  id,
  event,
  reason
})

const both = [row("x", "a"), row("x", "b")]

describe("verify", () => {
  it("finds nothing when the journal and the database agree", () => {
    assert.deepStrictEqual(
      verify(
        [
          requested("x"),
          rolledBack("x"),
          committed("x", 2),
          end("x", "acknowledged"),
          requested("y"),
          rolledBack("y"),
          end("y", "refused", "ConnectionLost"),
          requested("z"),
          end("z", "unknown", "CommitOutcomeUnknown"),
          requested("u"),
          end("u", "unknown", "CommitOutcomeUnknown"),
          requested("i"),
          committed("i"),
          end("i", "interrupted"),
          requested("killed")
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

  const cases: ReadonlyArray<readonly [string, ReadonlyArray<Entry>, Books, ReadonlyArray<string>]> = [
    [
      "money that appeared",
      [],
      { accounts: [{ id: 1, balance: 1_001 }], ledger: [] },
      ["the sum of the balances is 1001", "account 1 has 1001, but 1000 according to the ledger"]
    ],
    [
      "money in the wrong account",
      [requested("x"), end("x", "interrupted")],
      { accounts: [{ id: 1, balance: 1_000 }, { id: 2, balance: 1_000 }], ledger: both },
      ["account 1 has 1000, but 990 according to the ledger", "account 2 has 1000, but 1010 according to the ledger"]
    ],
    [
      "an acknowledged commit that is lost",
      [requested("x"), committed("x"), end("x", "acknowledged")],
      books(),
      [
        "x (nested, acknowledged): attempt 1 was reported as committed, but is not in the ledger",
        "x (nested, acknowledged): was acknowledged, but is not in the ledger"
      ]
    ],
    [
      "an acknowledged transfer whose afterCommit did not run",
      [requested("x"), end("x", "acknowledged")],
      books(...both),
      ["x (nested, acknowledged): was acknowledged, but afterCommit ran 0 times"]
    ],
    [
      "a refused transfer that is in the ledger",
      [requested("x"), rolledBack("x"), end("x", "refused", "ConnectionLost")],
      books(...both),
      [
        "x (nested, refused): attempt 1 was reported as rolled back, but is in the ledger",
        "x (nested, refused): was refused, but is in the ledger"
      ]
    ],
    [
      "a transfer that was executed twice",
      [requested("x"), committed("x", 2), end("x", "acknowledged")],
      books(...both, row("x", "a", 2), row("x", "b", 2)),
      ["x (nested, acknowledged): was executed 2 times"]
    ],
    [
      "a transfer that was executed twice in one attempt",
      [requested("x"), committed("x"), end("x", "acknowledged")],
      books(...both, ...both),
      ["x (nested, acknowledged): attempt 1 left a,b,a,b instead of a,b"]
    ],
    [
      "half of a transfer",
      [requested("x"), end("x", "interrupted")],
      books(row("x", "b")),
      ["x (nested, interrupted): attempt 1 left b instead of a,b"]
    ],
    [
      "a part that was rolled back to a savepoint",
      [requested("x"), end("x", "interrupted")],
      books(...both, row("x", "never")),
      ["x (nested, interrupted): attempt 1 left a,b,never instead of a,b"]
    ],
    [
      "both hooks of one attempt",
      [requested("x"), committed("x"), rolledBack("x"), end("x", "interrupted")],
      books(...both),
      [
        "x (nested, interrupted): attempt 1 was reported both as committed and as rolled back",
        "x (nested, interrupted): attempt 1 was reported as rolled back, but is in the ledger",
        "x (nested, interrupted): an attempt was reported twice"
      ]
    ],
    [
      "a hook that ran although the outcome is unknown",
      [requested("x"), committed("x"), end("x", "unknown", "CommitOutcomeUnknown")],
      books(...both),
      ["x (nested, unknown): was reported as committed, but its outcome is unknown"]
    ],
    ["a transfer that was never requested", [], books(row("x", "a")), ["x (, undefined): was never requested"]],
    [
      "unexpected failures and defects",
      [
        requested("x"),
        end("x", "refused", "UnknownDatabaseError"),
        { id: "y", event: "defect", reason: "boom" },
        requested("y")
      ],
      books(),
      ["x: failed with UnknownDatabaseError", "y: a defect: boom"]
    ]
  ]

  for (const [name, journal, found, problems] of cases) {
    it(`finds ${name}`, () => {
      assert.deepStrictEqual(verify(journal, found), problems)
    })
  }
})

describe("countEvents", () => {
  it("counts events by type and reason", () => {
    assert.deepStrictEqual(
      countEvents([requested("x"), end("x", "refused", "PoolTimeout"), requested("y"), end("y", "acknowledged")]),
      { requested: 2, "refused PoolTimeout": 1, acknowledged: 1 }
    )
  })
})
