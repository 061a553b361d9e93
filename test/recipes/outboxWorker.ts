/**
 * A process that delivers the messages of the outbox of DATABASE_URL to the file of DELIVERED, a line each. It never gets
 * from the delivery of the third one to its commit.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import { Database } from "sqlayer"
import { type Message, worker } from "../../docs/recipes/outbox.js"

let deliveries = 0

const deliver = ({ id }: Message) =>
  Effect.suspend(() => {
    Fs.appendFileSync(process.env.DELIVERED!, `${id}\n`)
    return ++deliveries === 3 ? Effect.never : Effect.void
  })

await Effect.runPromise(Effect.provide(worker(deliver), Database.layer))
