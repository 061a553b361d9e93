/**
 * Sessions for the handlers of a group of an HttpApi.
 */
import type * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import type * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import type * as HttpRouter from "@effect/platform/HttpRouter"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Database } from "../../Database.js"
import type * as Session from "../../Session.js"
import { inSession, type RequestOptions } from "./session.js"

/** The handlers that already run in a session. */
const handlersWithSession = new WeakSet<object>()

/** Wraps every handler that the group has so far, and that has no session yet. */
export const withSessions =
  <E2, R2>(options: RequestOptions<E2, R2>) =>
  <E, Provides, R, Endpoints extends HttpApiEndpoint.HttpApiEndpoint.Any>(
    self: HttpApiBuilder.Handlers<E, Provides, R, Endpoints>
  ): HttpApiBuilder.Handlers<
    E,
    Provides,
    Exclude<R, Session.Session> | Exclude<R2, Provides | HttpRouter.HttpRouter.Provided> | Database,
    Endpoints
  > => {
    const handlers = Chunk.map(self.handlers, (item) => {
      if (handlersWithSession.has(item.handler)) {
        return item
      }
      const { path, successSchema } = item.endpoint as HttpApiEndpoint.HttpApiEndpoint.AnyWithProps
      // @effect/platform encodes the result after the handler. One that cannot be encoded must not be committed.
      const encode = Schema.encodeUnknown(successSchema as Schema.Schema.AnyNoContext)
      const handler = (request: never) =>
        inSession(item.handler(request), (result) => Effect.as(encode(result), result), options, path)
      handlersWithSession.add(handler)
      return { ...item, handler }
    })
    return Object.assign(Object.create(Object.getPrototypeOf(self)), { group: self.group, handlers })
  }
