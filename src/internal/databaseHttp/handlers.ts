/**
 * Sessions around the handlers of an HttpApi's group.
 */
import type * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import type * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Database } from "../../Database.js"
import type * as Session from "../../Session.js"
import { inSession, type Options } from "./session.js"

/** The handlers that have a session. */
const covered = new WeakSet<object>()

/** Every handler that the group has so far and that has no session yet, each in one of its own. */
export const withSessions =
  (options: Options) =>
  <E, Provides, R, Endpoints extends HttpApiEndpoint.HttpApiEndpoint.Any>(
    self: HttpApiBuilder.Handlers<E, Provides, R, Endpoints>
  ): HttpApiBuilder.Handlers<E, Provides, Exclude<R, Session.Session> | Database, Endpoints> => {
    const handlers = Chunk.map(self.handlers, (item) => {
      if (covered.has(item.handler)) {
        return item
      }
      const { path, successSchema } = item.endpoint as HttpApiEndpoint.HttpApiEndpoint.AnyWithProps
      // The answer is encoded after the handler: one that cannot be must not be committed.
      const encode = Schema.encodeUnknown(successSchema as Schema.Schema.AnyNoContext)
      const handler = (request: never) =>
        inSession(item.handler(request), (answer) => Effect.as(encode(answer), answer), options, path)
      covered.add(handler)
      return { ...item, handler }
    })
    return Object.assign(Object.create(Object.getPrototypeOf(self)), { group: self.group, handlers })
  }
