/**
 * Queries through a plain `pg` client, independent of sqlayer.
 */
import * as Effect from "effect/Effect"
import * as Pg from "pg"

/** Closes the socket without a Terminate message. */
const destroy = (client: Pg.Client): void => {
  const { connection } = client as unknown as { readonly connection: { readonly stream: { destroy: () => void } } }
  connection.stream.destroy()
}

/**
 * Connects, uses the connection and closes it. On a failure, or when the signal is aborted, the socket is destroyed, because
 * `end` would wait for ever for a server that does not answer.
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

/**
 * Runs one query on a new connection. Errors are defects. An interruption closes the socket.
 */
export const query = (
  url: string,
  sql: string,
  params?: ReadonlyArray<unknown>
): Effect.Effect<ReadonlyArray<any>> =>
  Effect.promise((signal) =>
    withClient({ connectionString: url }, async (client) => {
      // Without parameters it may be several statements; the rows are those of the last one.
      const result: Pg.QueryResult | Array<Pg.QueryResult> = await client.query(sql, params && [...params])
      return Array.isArray(result) ? result[result.length - 1]?.rows ?? [] : result.rows
    }, signal)
  )
