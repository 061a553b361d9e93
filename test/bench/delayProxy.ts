/**
 * The process of delay.ts: forwards each chunk of both directions after a delay. Any number of chunks may be on their way,
 * so that the delay does not limit the throughput.
 */
import * as Net from "node:net"

/** Where the database is, and the delay of each direction in milliseconds. */
export interface Setup {
  readonly host: string
  readonly port: number
  readonly millis: number
}

const { host, millis, port }: Setup = JSON.parse(process.argv[2])

/** Timers fire at whole milliseconds; what is due within this time is forwarded too, so that the delay is right on average. */
const slack = 0.5

const forward = (source: Net.Socket, sink: Net.Socket): void => {
  let queue: Array<{ readonly chunk: Buffer | undefined; readonly due: number }> = []
  let timer: NodeJS.Timeout | undefined = undefined

  const flush = (): void => {
    const now = performance.now()
    const first = queue.findIndex(({ due }) => due > now + slack)
    const due = first < 0 ? queue : queue.slice(0, first)
    queue = first < 0 ? [] : queue.slice(first)
    sink.cork()
    for (const { chunk } of due) {
      if (chunk === undefined) {
        sink.end()
      } else {
        sink.write(chunk)
      }
    }
    sink.uncork()
    timer = queue.length === 0 ? undefined : setTimeout(flush, queue[0].due - now)
  }

  const push = (chunk: Buffer | undefined): void => {
    queue.push({ chunk, due: performance.now() + millis })
    timer ??= setTimeout(flush, millis)
  }

  source.on("data", push)
  source.on("end", () => push(undefined))
  // A peer that ends may reset its connections.
  source.on("error", () => sink.destroy())
}

const server = Net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
  const upstream = Net.connect({ host, port, allowHalfOpen: true, noDelay: true })
  forward(client, upstream)
  forward(upstream, client)
})
server.listen(0, "127.0.0.1", () => process.send?.((server.address() as Net.AddressInfo).port))
process.once("disconnect", () => process.exit(0))
