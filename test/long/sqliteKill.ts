/**
 * Kills processes in the middle of their commits to a SQLite file, for the given number of rounds:
 *
 *     node --import tsx test/long/sqliteKill.ts [rounds] [seed]
 */
import * as Effect from "effect/Effect"
import { killed } from "../internal/sqlite/killed.js"

const [, , rounds = "200", seed = String(Date.now() % 1_000_000)] = process.argv

console.log(`${rounds} rounds, seed ${seed}`)
const result = await Effect.runPromise(Effect.scoped(killed({
  rounds: Number(rounds),
  seed: Number(seed),
  onRound: (round, acknowledged) =>
    console.log(`round ${round}: ${acknowledged} acknowledged sessions are in the file, and none is partial`)
})))
console.log(result)
