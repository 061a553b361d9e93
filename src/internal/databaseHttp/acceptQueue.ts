/**
 * The accept queue of a listening socket: connections that the operating system has established, and Node has not accepted
 * yet. The system resets them when the listener is closed.
 */
import * as Fs from "node:fs"
import type { AddressInfo } from "node:net"

/** The state TCP_LISTEN in Linux's tables of sockets (proc_net_tcp in its documentation). */
const listenState = "0A"

const tables = ["/proc/net/tcp", "/proc/net/tcp6"]

/**
 * How many connections to a port wait to be accepted. Linux reports it as the receive queue of the socket. 0 if it is
 * not known: on other systems, and for sockets other than TCP.
 */
export const acceptQueueLength = (address: AddressInfo | string | null): number => {
  if (address === null || typeof address === "string") {
    return 0
  }
  const port = `:${address.port.toString(16).toUpperCase().padStart(4, "0")}`
  let length = 0
  for (const table of tables) {
    for (const line of read(table).split("\n")) {
      const [, local, , state, queues] = line.trim().split(/\s+/, 5)
      if (state === listenState && local.endsWith(port)) {
        length += Number.parseInt(queues?.split(":")[1] ?? "0", 16)
      }
    }
  }
  return length
}

const read = (table: string): string => {
  try {
    return Fs.readFileSync(table, "latin1")
  } catch {
    return ""
  }
}
