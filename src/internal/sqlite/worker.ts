/**
 * The thread of a connection: an engine that answers messages.
 */
import { receiveMessageOnPort, workerData } from "node:worker_threads"
import { holdsBytes } from "./bytes.js"
import { Engine } from "./engine.js"
import { type Letter, Phase, type Reply, type ThreadData, type ThreadReply } from "./protocol.js"
import { Answerer } from "./spinWait.js"

const { options, phases: shared, port, vigil: watched } = workerData as ThreadData
const phases = new Int32Array(shared)
const vigil = new Answerer(watched)

/** That of the question that is being answered. */
let current = 0

const engine = new Engine(options, {
  canStop: () => true,
  stopped: () => Atomics.load(phases, current) === Phase.stopped,
  commits: () => Atomics.compareExchange(phases, current, Phase.running, Phase.committing) !== Phase.stopped
})

const answer = (letter: Letter): Reply | Promise<Reply> => {
  current = letter.cell
  return Atomics.compareExchange(phases, current, Phase.waiting, Phase.running) === Phase.waiting
    ? engine.answer(letter)
    : engine.drop()
}

const send = (cell: number, reply: Reply): void => {
  const message: ThreadReply = { cell, reply, bytes: holdsBytes(reply.value) }
  port.postMessage(message)
  vigil.sent()
}

/** Each is answered as soon as it is done: the next may take long. */
const hear = (letters: ReadonlyArray<Letter>): void => {
  vigil.came()
  for (const letter of letters) {
    const reply = answer(letter)
    if (reply instanceof Promise) {
      void reply.then((reply) => send(letter.cell, reply))
    } else {
      send(letter.cell, reply)
    }
  }
}

port.on("message", (letters: ReadonlyArray<Letter>) => {
  hear(letters)
  while (vigil.awaits()) {
    const { message }: { readonly message: ReadonlyArray<Letter> } = receiveMessageOnPort(port)!
    hear(message)
  }
})
