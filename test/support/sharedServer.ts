/**
 * The PostgreSQL server that all tests of a run share. It is started when the first test asks for it.
 *
 * The main process of vitest owns the server and answers its workers over a loopback socket.
 */
import { randomBytes } from "node:crypto"
import { once } from "node:events"
import * as Net from "node:net"
import * as Consumers from "node:stream/consumers"
import { inspect } from "node:util"
import { withClient } from "./client.js"
import { type Installation, prepare, type Prepared } from "./installation.js"
import { makeServerProcess } from "./serverProcess.js"

/** Where the workers ask. Plain data, so that vitest can pass it to them. */
export interface Address {
  readonly port: number
  /** Every request contains it, so that other users of the machine learn nothing from the socket. */
  readonly secret: string
}

/** What a worker can ask for. */
interface Answers {
  /** The URL of the shared server, as superuser. The first request starts the server. */
  readonly url: string
  /** The binaries, to start servers of the test's own. The first request prepares them. */
  readonly installation: Installation
}

/** The main process's side. */
export interface SharedServer {
  readonly address: Address
  /** Stops the server if it was started, also when it is still starting. */
  readonly end: () => Promise<void>
}

/** Calls the function once and returns the same promise to every caller, also when it is rejected. */
const memoize = <A>(make: () => Promise<A>) => {
  let made: Promise<A> | undefined
  return {
    get: () => made ??= make(),
    /** Undefined when the function was not called or failed. */
    settled: async (): Promise<A | undefined> => made?.catch(() => undefined)
  }
}

const checkConnection = async (url: string): Promise<void> => {
  try {
    const config = { connectionString: url, connectionTimeoutMillis: 10_000 }
    await withClient(config, (client) => client.query("SELECT 1"))
  } catch (cause) {
    throw new Error("The server that TEST_DATABASE_URL names does not answer", { cause })
  }
}

/** Answers requests for the server. `existing` is the URL of a server to use instead of starting one. */
export const makeSharedServer = async (existing?: string): Promise<SharedServer> => {
  const prepared = memoize<Prepared>(() => prepare())
  const serverProcess = memoize(async () =>
    makeServerProcess((await prepared.get()).installation, {
      maxConnections: 200,
      // Its data does not have to survive a crash.
      config: { fsync: "off", full_page_writes: "off" }
    })
  )
  const checked = memoize(() => checkConnection(existing!))

  const answers: { readonly [K in keyof Answers]: () => Promise<Answers[K]> } = {
    url: async () => {
      if (existing === undefined) {
        return (await serverProcess.get()).url
      }
      await checked.get()
      return existing
    },
    installation: async () => (await prepared.get()).installation
  }

  const secret = randomBytes(16).toString("hex")

  const answer = async (socket: Net.Socket): Promise<void> => {
    const [chunk] = await once(socket, "data")
    const request = String(chunk)
    const name = request.slice(secret.length)
    if (!request.startsWith(secret) || !Object.hasOwn(answers, name)) {
      socket.destroy()
      return
    }
    try {
      socket.end(JSON.stringify({ value: await answers[name as keyof Answers]() }))
    } catch (error) {
      socket.end(JSON.stringify({ error: inspect(error) }))
    }
  }

  const sockets = new Set<Net.Socket>()
  const listener = Net.createServer((socket) => {
    sockets.add(socket)
    socket.once("close", () => sockets.delete(socket))
    socket.on("error", () => {})
    answer(socket).catch(() => socket.destroy())
  })
  listener.listen(0, "127.0.0.1")
  await once(listener, "listening")
  listener.unref()

  return {
    address: { port: (listener.address() as Net.AddressInfo).port, secret },
    end: async () => {
      listener.close()
      for (const socket of sockets) {
        socket.destroy()
      }
      await (await serverProcess.settled())?.dispose()
      await (await prepared.settled())?.remove()
    }
  }
}

/** A worker's request. It fails when the main process could not start the server, or has ended. */
export const request = async <K extends keyof Answers>(address: Address, name: K): Promise<Answers[K]> => {
  const socket = Net.connect(address.port, "127.0.0.1")
  socket.write(address.secret + name)
  const text = await Consumers.text(socket)
  if (text === "") {
    throw new Error("The run ended before its PostgreSQL server was started")
  }
  const { error, value } = JSON.parse(text)
  if (error !== undefined) {
    throw new Error(error)
  }
  return value
}
