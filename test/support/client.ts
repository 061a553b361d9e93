/**
 * A plain `pg` client that never lingers.
 */
import * as Pg from "pg"

/** Closes the socket without a word. */
const destroy = (client: Pg.Client): void => {
  const { connection } = client as unknown as { readonly connection: { readonly stream: { destroy: () => void } } }
  connection.stream.destroy()
}

/**
 * Connects, uses the connection and closes it. Whatever fails, and when the signal says so, the socket is destroyed:
 * `end` may wait for ever for a server that no longer listens.
 */
export const withClient = async <A>(
  config: Pg.ClientConfig,
  use: (client: Pg.Client) => Promise<A>,
  signal?: AbortSignal
): Promise<A> => {
  const client = new Pg.Client(config)
  // A connection that breaks is seen by the query that runs on it.
  client.on("error", () => {})
  const abort = () => destroy(client)
  signal?.addEventListener("abort", abort)
  try {
    await client.connect()
    const result = await use(client)
    await client.end()
    return result
  } catch (error) {
    destroy(client)
    throw error
  } finally {
    signal?.removeEventListener("abort", abort)
  }
}
