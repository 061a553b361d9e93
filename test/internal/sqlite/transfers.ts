/**
 * A program that moves money between accounts until it is killed.
 */
import * as Effect from "effect/Effect"
import { connect, driver } from "./support.js"

const [, , file, thread] = process.argv

Effect.runFork(Effect.scoped(Effect.gen(function*() {
  const connection = yield* connect(driver(file, { thread: thread as "main" | "worker" }))
  const move = (id: number, amount: number) =>
    connection.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", [amount, id], undefined)
  for (let i = 0;; i++) {
    yield* connection.begin({})
    yield* connection.execute("INSERT INTO transfers (id) VALUES (NULL)", [], undefined)
    yield* move(i % 10, -7)
    yield* move((i + 1) % 10, 7)
    yield* connection.commit
    if (i === 20) {
      process.stdout.write("moving\n")
    }
  }
})))
