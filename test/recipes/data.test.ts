/** The recipes that read and write tables: pages, imports, versions, repositories, resolvers. */
import * as SqlClient from "@effect/sql/SqlClient"
import * as SqlResolver from "@effect/sql/SqlResolver"
import { assert, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Database, Session } from "sqlayer"
import * as BulkImport from "../../docs/recipes/bulk-import.js"
import * as OptimisticLocking from "../../docs/recipes/optimistic-locking.js"
import * as Pagination from "../../docs/recipes/pagination.js"
import * as Repositories from "../../docs/recipes/repositories.js"
import * as Resolvers from "../../docs/recipes/resolvers.js"
import { collectingSpans } from "../support/spans.js"
import { onBoth } from "./databases.js"

/** Events in groups of three with the same time. */
const at = (id: number) => new Date(Date.UTC(2024, 0, 1) + Math.floor(id / 3) * 1_000 + 123)

const addEvents = (...ids: ReadonlyArray<number>) =>
  Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql`INSERT INTO event ${sql.insert(ids.map((id) => ({ id, at: at(id), title: `event ${id}` })))}`
  )

type Page = Effect.Effect.Success<ReturnType<typeof Pagination.page>>

onBoth("pages", { migrations: Pagination.migrations }, (database) => {
  it.effect("have every row once and in order, whatever is written meanwhile", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const ids = Array.from({ length: 25 }, (_, n) => n + 100)
      yield* addEvents(...ids)
      const seen: Array<number> = []
      let cursor: string | undefined
      do {
        const { events, next }: Page = yield* Pagination.page(cursor, 4)
        seen.push(...events.map(({ id }) => id))
        assert.deepStrictEqual(events.map((event) => event.at), events.map(({ id }) => at(id)))
        cursor = next
        // A newer row is written, and the last one that was read is gone: an OFFSET would repeat rows, or leave some out.
        yield* addEvents(1_000 + seen.length)
        yield* sql`DELETE FROM event WHERE id = ${seen[seen.length - 1]}`
      } while (cursor !== undefined)
      assert.deepStrictEqual(seen, ids.toReversed())
    }).pipe(Effect.provide(database)))

  it.effect("end, full or empty; what is no cursor is refused; rows are read from the index", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Pagination.page(undefined, 2), { events: [], next: undefined })
      yield* addEvents(1, 2)
      const { events, next } = yield* Pagination.page(undefined, 2)
      assert.deepStrictEqual([events.map(({ id }) => id), next], [[2, 1], undefined])

      const encoded = (text: string) => Buffer.from(text).toString("base64url")
      const forged = ["?", "", encoded("1"), encoded("[\"now\", 1]"), encoded("[\"2024-01-01T00:00:00Z\", \"1\"]")]
      for (const cursor of forged) {
        const error = yield* Effect.flip(Pagination.page(cursor))
        assert.strictEqual(error._tag, "ParseError", cursor)
      }

      const sql = yield* SqlClient.SqlClient
      yield* addEvents(...Array.from({ length: 2_000 }, (_, n) => n + 3))
      const query = sql`
        SELECT id FROM event WHERE (at, id) < ('2024-01-01T00:01:00.123Z', 5) ORDER BY at DESC, id DESC LIMIT 5`
      const explain = sql.onDialectOrElse({ pg: () => sql`EXPLAIN`, orElse: () => sql`EXPLAIN QUERY PLAN` })
      const plan = yield* sql`${explain} ${query}`
      assert.include(JSON.stringify(plan), "event_at")
      assert.notMatch(JSON.stringify(plan), /Sort|TEMP B-TREE/)
    }).pipe(Effect.provide(database)))
})

const csv = (...lines: ReadonlyArray<string>) =>
  Stream.encodeText(Stream.make(["sku,name,cents", ...lines, ""].join("\n")))

const products = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT sku, name, cents FROM product ORDER BY sku`)

onBoth("an import", { migrations: BulkImport.migrations }, (database) => {
  it.effect("inserts what is new and updates what has changed; the last line of a key counts", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* BulkImport.importProducts(csv("a,Apple,10", "b,\"Beans, green\",20")), 2)
      assert.strictEqual(yield* BulkImport.importProducts(csv("b,Beans,1", "c,Corn,5", "b,Beans,25")), 3)
      assert.deepStrictEqual(yield* products, [
        { sku: "a", name: "Apple", cents: 10 },
        { sku: "b", name: "Beans", cents: 25 },
        { sku: "c", name: "Corn", cents: 5 }
      ])
    }).pipe(Effect.provide(database)))

  it.effect("that fails changes nothing", () =>
    Effect.gen(function*() {
      yield* BulkImport.importProducts(csv("a,Apple,10"))
      const failures = [
        [csv("b,Beans,20", "a,Apple,-1"), "CheckViolation"],
        [csv("b,,20"), "NotNullViolation"],
        [Stream.concat(csv("b,Beans,20"), Stream.fail({ _tag: "Gone" as const })), "Gone"]
      ] as const
      for (const [lines, tag] of failures) {
        assert.strictEqual((yield* Effect.flip(BulkImport.importProducts(lines)))._tag, tag)
      }
      assert.deepStrictEqual(yield* products, [{ sku: "a", name: "Apple", cents: 10 }])
    }).pipe(Effect.provide(database)))

  it.effect("and others at the same time, in whatever order their lines are, all succeed", () =>
    Effect.gen(function*() {
      const keys = Array.from({ length: 300 }, (_, n) => `p${n}`)
      const lines = (cents: number) => keys.map((sku) => `${sku},Product,${cents}`)
      yield* Effect.all(
        [1, 2, 3, 4].map((n) => BulkImport.importProducts(csv(...n % 2 === 0 ? lines(n) : lines(n).toReversed()))),
        { concurrency: "unbounded" }
      )
      const rows = yield* products
      assert.strictEqual(rows.length, 300)
      assert.strictEqual(new Set(rows.map(({ cents }) => cents)).size, 1, "one of the four was the last")
    }).pipe(Effect.provide(database)))
})

onBoth("versions", { migrations: OptimisticLocking.migrations }, (database) => {
  const create = Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql`INSERT INTO document ${sql.insert({ id: 1, body: "" })}`
  )

  it.live("let one of two save, and tell the other what is there now", () =>
    Effect.gen(function*() {
      yield* create
      const read = yield* OptimisticLocking.get(1)
      const [one, other] = yield* Effect.all(
        ["one", "other"].map((body) => Effect.either(OptimisticLocking.save({ ...read, body }))),
        { concurrency: "unbounded" }
      )
      const [saved, refused] = one._tag === "Right" ? [one, other] : [other, one]
      assert(saved._tag === "Right" && refused._tag === "Left" && refused.left._tag === "Stale")
      assert.strictEqual(saved.right.version, 2)
      assert.deepStrictEqual(refused.left.current, saved.right)
      assert.deepStrictEqual(yield* OptimisticLocking.get(1), saved.right)
      assert.strictEqual((yield* Effect.flip(OptimisticLocking.save({ ...read, id: 2 })))._tag, "NotFound")
    }).pipe(Effect.provide(database)))

  it.live("lose none of many changes", () =>
    Effect.gen(function*() {
      yield* create
      const append = OptimisticLocking.modify(1, (body) => `${body}.`)
      yield* Effect.all(Array.from({ length: 8 }, () => append), { concurrency: "unbounded" })
      assert.deepStrictEqual(yield* OptimisticLocking.get(1), { id: 1, body: ".".repeat(8), version: 9 })
    }).pipe(Effect.provide(database)))
})

onBoth("a repository", { migrations: Repositories.migrations, types: Repositories.types }, (database) => {
  it.effect("fails with the typed error, and keeps times", () =>
    Effect.gen(function*() {
      const members = yield* Repositories.Members
      const ada = yield* members.signUp("ada@example.com", "Ada")
      const error = yield* Effect.flip(members.signUp("ada@example.com", "Other"))
      assert(error._tag === "EmailTaken")
      const found = yield* members.findByEmail("ada@example.com")
      assert.deepStrictEqual(found, Option.some(ada))
      assert.isTrue(DateTime.isUtc(ada.createdAt))
      const renamed = yield* members.rename(ada.id, "Countess")
      assert(Option.isSome(renamed))
      assert.strictEqual(renamed.value.name, "Countess")
      assert.deepStrictEqual(renamed.value.createdAt, ada.createdAt)
      assert.deepStrictEqual(yield* members.findByEmail("ada@example.com"), renamed)
      assert.deepStrictEqual(yield* members.findByEmail("grace@example.com"), Option.none())
    }).pipe(Effect.provide(Layer.provideMerge(Repositories.Members.layer, database))))
})

onBoth("resolvers", { migrations: Resolvers.migrations }, (database) => {
  const fill = Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`INSERT INTO author ${sql.insert([{ id: 1, name: "Ada" }, { id: 2, name: "Grace" }])}`
    const books = [1, 2, 1, 1, 2].map((author, n) => ({ id: n, title: `book ${n}`, author }))
    yield* sql`INSERT INTO book ${sql.insert(books)}`
  })

  it.effect("answer an id that a batch has several times, in two statements", () =>
    Effect.gen(function*() {
      yield* fill
      const { spans, value: books } = yield* collectingSpans(Resolvers.shelf)
      assert.deepStrictEqual(
        books.map(({ author }) => Option.map(author, ({ name }) => name)),
        ["Ada", "Grace", "Ada", "Ada", "Grace"].map(Option.some)
      )
      assert.strictEqual(spans.filter(({ attributes }) => attributes.has("db.query.text")).length, 2)
    }).pipe(Effect.provide(database)))

  it.effect("find nothing for an id that does not exist, and run in the caller's session", () =>
    Effect.gen(function*() {
      yield* fill
      const sql = yield* SqlClient.SqlClient
      const authorOf = yield* Resolvers.makeAuthorOf
      const found = Effect.gen(function*() {
        yield* sql`INSERT INTO author ${sql.insert({ id: 3, name: "new" })}`
        const authors = yield* Effect.forEach([3, 4, 3], authorOf, { batching: true, concurrency: "unbounded" })
        yield* Session.rollbackOnly
        return authors
      }).pipe(Database.session())
      const author = Option.some({ id: 3, name: "new" })
      assert.deepStrictEqual(yield* found, [author, Option.none(), author])
      assert.deepStrictEqual(yield* authorOf(3), Option.none())
    }).pipe(Effect.provide(database)))

  it.effect("of upstream's findById do not: this is what the recipe is for", () =>
    Effect.gen(function*() {
      yield* fill
      const sql = yield* SqlClient.SqlClient
      const byId = yield* SqlResolver.findById("Author", {
        Id: Schema.Int,
        Result: Schema.Struct({ id: Schema.Int, name: Schema.String }),
        ResultId: ({ id }) => id,
        execute: (ids) => sql`SELECT id, name FROM author WHERE ${sql.in("id", ids)}`
      })
      const found = (ids: ReadonlyArray<number>) =>
        Effect.exit(Effect.forEach(ids, byId.execute, { batching: true, concurrency: "unbounded" }))
      assert.isTrue(Exit.isSuccess(yield* found([1, 2])))
      const exit = yield* found([1, 2, 1])
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterrupted(exit.cause))
    }).pipe(Effect.provide(database)))
})
