/** Requests whose sessions are committed with a record, when COMMIT or the answer to it is lost. */
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Database from "../src/Database.js"
import * as DatabaseHttp from "../src/DatabaseHttp.js"
import * as Session from "../src/Session.js"
import { insert } from "./internal/session/harness.js"
import { atCommit, inPlaceOfTheAnswer, itemsOf, migrated, records } from "./internal/session/lostCommit.js"
import { node, portOf, send, serve } from "./support/http.js"
import { freshDatabase } from "./support/postgres.js"

const recorded = { commit: "recorded" } as const

/** Inserts a number, and a text into `hooks` when that is committed. */
const inserting = (db: Database.Service, n: number, hooks: Array<number>) =>
  Effect.zipRight(insert(db, n), Session.afterCommit(Effect.sync(() => hooks.push(n))))

describe("a session a request that is committed with a record", () => {
  it.scopedLive("answers what has happened, whichever way COMMIT or its answer is lost", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      const hooks: Array<number> = []
      const created = HttpServerResponse.empty({ status: 201 })
      const download = (n: number) =>
        HttpServerResponse.stream(
          Stream.fromEffect(Effect.as(inserting(db, n, hooks), "whole")).pipe(
            Stream.encodeText,
            db.sessionStream(recorded)
          )
        )
      const port = yield* serve(
        HttpRouter.empty.pipe(
          HttpRouter.post("/1", Effect.as(inserting(db, 1, hooks), created)),
          HttpRouter.post("/2", Effect.as(inserting(db, 2, hooks), created)),
          HttpRouter.use(DatabaseHttp.middleware(recorded)),
          HttpRouter.get("/3", Effect.succeed(download(3))),
          HttpRouter.use(DatabaseHttp.problems),
          Effect.provideService(Database.Database, db)
        )
      )
      yield* inPlaceOfTheAnswer(network, "cut")
      assert.strictEqual((yield* send(port, "POST", "/1")).status, 201)
      assert.deepStrictEqual([yield* itemsOf(url), hooks], [[1], [1]])

      yield* atCommit(network, () => "cut")
      const refused = yield* send(port, "POST", "/2")
      assert.deepStrictEqual([refused.status, refused.headers["retry-after"]], [503, "1"])
      assert.strictEqual(JSON.parse(refused.body).type, "urn:sqlayer:problem:ConnectionLost")
      assert.deepStrictEqual([yield* itemsOf(url), hooks], [[1], [1]])

      yield* inPlaceOfTheAnswer(network, "reset")
      assert.deepStrictEqual((yield* send(port, "GET", "/3")).body, "whole")
      assert.deepStrictEqual([yield* itemsOf(url), hooks], [[1, 3], [1, 3]])
      assert.deepStrictEqual(yield* records(url), { false: 1, true: 2 })
    }))

  it.scopedLive("is one of a group of an HttpApi too", () =>
    Effect.gen(function*() {
      const url = yield* freshDatabase
      const { db, network } = yield* migrated(url)
      const hooks: Array<number> = []
      const api = HttpApi.make("items").add(
        HttpApiGroup.make("items").add(HttpApiEndpoint.post("add", "/")).addError(DatabaseHttp.errors)
      )
      const items = HttpApiBuilder.group(api, "items", (handlers) =>
        handlers.handle("add", () =>
          inserting(db, 1, hooks)).pipe(DatabaseHttp.sessions(recorded)))
      const server = yield* Layer.build(node)
      yield* Layer.build(
        HttpApiBuilder.serve().pipe(
          Layer.provide(HttpApiBuilder.api(api)),
          Layer.provide(items),
          Layer.provide(Layer.succeed(Database.Database, db)),
          Layer.provide(Layer.succeedContext(server))
        )
      )
      yield* inPlaceOfTheAnswer(network, "cut")
      const { status } = yield* send(portOf(Context.get(server, HttpServer.HttpServer)), "POST", "/")
      assert.strictEqual(status, 204)
      assert.deepStrictEqual([yield* itemsOf(url), hooks, yield* records(url)], [[1], [1], { true: 1 }])
    }))
})
