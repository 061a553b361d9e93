import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import * as Net from "node:net"
import { acceptQueueLength } from "../../../src/internal/databaseHttp/acceptQueue.js"

describe("the accept queue", () => {
  for (const host of ["127.0.0.1", "::"]) {
    it(`of a server on ${host} has what the system has accepted and Node has not`, async () => {
      const server = Net.createServer()
      const sockets: Array<Net.Socket> = []
      server.on("connection", (socket) => sockets.push(socket))
      server.listen(0, host)
      await once(server, "listening")
      const address = server.address() as Net.AddressInfo
      assert.strictEqual(acceptQueueLength(address), 0)
      const clients = Array.from({ length: 3 }, () => Net.connect(address.port, "127.0.0.1"))
      // Sockets connect in the next tick, and Node accepts in the next turn of the event loop.
      await new Promise<void>((resolve) => process.nextTick(resolve))
      assert.strictEqual(acceptQueueLength(address), process.platform === "linux" ? 3 : 0)
      while (sockets.length < 3) {
        await once(server, "connection")
      }
      assert.strictEqual(acceptQueueLength(address), 0)
      for (const socket of [...clients, ...sockets]) {
        socket.destroy()
      }
      server.close()
    })
  }

  it("of a socket of the file system, or of a server that does not listen, is not known", () => {
    assert.strictEqual(acceptQueueLength("/run/app.sock"), 0)
    assert.strictEqual(acceptQueueLength(null), 0)
  })
})
