/**
 * Real HTTP servers and a client that hides nothing.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"

/** A server on 127.0.0.1 and a port of its own. */
export const node = NodeHttpServer.layer(() => Http.createServer(), { port: 0, host: "127.0.0.1" })

/** The port of a server that listens. */
export const portOf = (server: Context.Tag.Service<typeof HttpServer.HttpServer>): number => {
  const { address } = server
  if (address._tag !== "TcpAddress") {
    throw new Error("The server does not listen on a port")
  }
  return address.port
}

/** Serves an application until the scope closes. Gives its port. */
export const serve = <E, R>(
  app: HttpApp.Default<E, R>
): Effect.Effect<number, never, Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope> | Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.orDie(Layer.build(node))
    yield* Effect.provide(HttpServer.serveEffect(app), context)
    return portOf(Context.get(context, HttpServer.HttpServer))
  }) as Effect.Effect<number, never, Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope> | Scope.Scope>

export interface Answer {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
}

/** Sends one request on a connection of its own. */
export const send = (
  port: number,
  method: string,
  path: string,
  options: { readonly body?: string | undefined; readonly headers?: Http.OutgoingHttpHeaders | undefined } = {}
): Effect.Effect<Answer> =>
  Effect.async<Answer>((resume, signal) => {
    const request = Http.request(
      { host: "127.0.0.1", port, method, path, agent: false, headers: options.headers ?? {} },
      (response) => {
        const pieces: Array<Buffer> = []
        response.on("data", (piece: Buffer) => pieces.push(piece))
        response.on("error", (error) => resume(Effect.die(error)))
        response.on("end", () =>
          resume(Effect.succeed({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(pieces).toString()
          })))
      }
    )
    request.on("error", (error) => resume(Effect.die(error)))
    signal.addEventListener("abort", () => request.destroy())
    request.end(options.body)
  })
