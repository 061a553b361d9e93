/**
 * The process of the clients, which use one connection each: sends the requests of its argument in turn, and then to its
 * parent what it has seen.
 */
import autocannon from "autocannon"
import type { Load, Seen } from "../../http.js"

const { clients, millis, port, requests }: Load = JSON.parse(process.argv[2])
const result = await autocannon({
  url: `http://127.0.0.1:${port}`,
  connections: clients,
  duration: millis / 1_000,
  // On a slow machine the last of many clients waits for long.
  timeout: 60,
  requests: requests.map((request) => ({ ...request })),
  // Each client begins at another request.
  setupClient: ((client: { setRequests: (requests: ReadonlyArray<object>) => void }) => {
    const first = Math.floor(Math.random() * requests.length)
    client.setRequests([...requests.slice(first), ...requests.slice(0, first)])
  }) as never
})
const seen: Seen = {
  requests: result["2xx"],
  seconds: result.duration,
  p50: result.latency.p50,
  p99: result.latency.p99,
  failures: result.non2xx + result.errors + result.timeouts
}
process.send?.(seen, () => process.disconnect())
