import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiClient from "@effect/platform/HttpApiClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it, layer } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as TestContext from "effect/TestContext"
import { randomUUID } from "node:crypto"
import { BookingApi, CurrentTenant, type Place } from "../../docs/examples/booking/api.js"
import * as Bookings from "../../docs/examples/booking/bookings.js"
import { DbLive, options } from "../../docs/examples/booking/database.js"
import { BookingLive } from "../../docs/examples/booking/http.js"
import { loader } from "../../docs/examples/booking/migrations.js"
import * as Outbox from "../../docs/examples/booking/outbox.js"
import * as Rooms from "../../docs/examples/booking/rooms.js"
import * as Tenants from "../../docs/examples/booking/tenants.js"
import * as Database from "../../src/Database.js"
import * as TestDatabase from "../../src/TestDatabase.js"
import { postgres, sqliteFile } from "../support/dialects.js"
import { eventually } from "../support/eventually.js"
import * as ExampleProcess from "../support/exampleProcess.js"
import { url } from "../support/postgres.js"
import { newSeed, type Random, random } from "../support/random.js"

const databases = {
  SQLite: TestDatabase.layer({ ...options, migrations: { loader } }),
  PostgreSQL: Layer.suspend(() => TestDatabase.layerPostgres({ ...options, url: url(), migrations: { loader } }))
}

const ServiceTest = HttpApiBuilder.serve().pipe(
  Layer.provide(BookingLive),
  Layer.provideMerge(NodeHttpServer.layerTest)
)

/** What is meant to fail is not logged. */
const quiet = Logger.minimumLogLevel(LogLevel.None)

let tenants = 0

/** A new tenant with credit. */
const signUp = Effect.gen(function*() {
  const { id, token } = yield* Tenants.signUp(`tenant ${++tenants}`)
  const client = yield* HttpApiClient.make(BookingApi, {
    transformClient: HttpClient.mapRequest(HttpClientRequest.bearerToken(token))
  })
  yield* client.rooms.buyCredit({ headers: { "idempotency-key": "credit" }, payload: { cents: 1_000_000 } })
  const addRoom = (name: string) => client.rooms.addRoom({ payload: { name, centsPerHour: 120 } })
  const book = (key: string, room: string, from: number, to: number) =>
    client.bookings.book({ headers: { "idempotency-key": key }, payload: { room, starts: at(from), ends: at(to) } })
  return { id, client, addRoom, book }
})

/** So many minutes after the beginning of a day. */
const at = (minutes: number) => DateTime.add(DateTime.unsafeMake("2030-01-01T00:00:00Z"), { minutes })

const seed = newSeed()

/** An interval that begins and ends within 12 hours. */
const interval = (dice: Random): readonly [from: number, to: number] => {
  const from = 15 * dice.below(44)
  return [from, from + 15 * (1 + dice.below(4))]
}

/** The balance of each account is what its entries say: what was bought, less what its bookings cost. */
const checkBooks = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const wrong = yield* sql`
    SELECT account.tenant FROM account WHERE
      balance <> (SELECT coalesce(sum(amount), 0) FROM entry WHERE entry.tenant = account.tenant) OR
      balance <> (SELECT coalesce(sum(amount), 0) FROM entry WHERE entry.tenant = account.tenant AND reason = 'purchase')
        - (SELECT coalesce(sum(cents), 0) FROM booking WHERE booking.tenant = account.tenant)`
  assert.deepStrictEqual(wrong, [])
  const overlapping = yield* sql`
    SELECT a.id FROM booking a JOIN booking b ON a.room = b.room AND a.id < b.id AND a.starts < b.ends AND b.starts < a.ends`
  assert.deepStrictEqual(overlapping, [])
})

describe.each(Object.entries(databases))("booking on %s", (name, database) => {
  layer(Layer.provideMerge(ServiceTest, database), { excludeTestServices: true, timeout: "3 minutes" })((it) => {
    it.scoped("never overlaps, whatever is asked for at the same time", () =>
      Effect.gen(function*() {
        const dice = random(seed)
        const tenant = yield* signUp
        const rooms = [yield* tenant.addRoom("Blue"), yield* tenant.addRoom("Green")]
        const orders = Array.from({ length: 200 }, (_, index) => {
          const [from, to] = interval(dice)
          return { key: `k${index}`, room: dice.pick(rooms).id, from, to }
        })
        const answers = yield* Effect.forEach(
          orders,
          (order) =>
            Effect.map(
              Effect.either(tenant.book(order.key, order.room, order.from, order.to)),
              (answer) => ({ order, answer })
            ),
          { concurrency: "unbounded" }
        )
        const booked = answers.flatMap(({ answer }) => Either.isRight(answer) ? [answer.right] : [])
        for (const { answer, order } of answers) {
          if (Either.isLeft(answer)) {
            assert.deepInclude(answer.left, { _tag: "RoomTaken", room: order.room }, `seed ${seed}`)
            const overlaps = booked.some(({ ends, room, starts }) =>
              room === order.room && DateTime.lessThan(starts, at(order.to)) &&
              DateTime.greaterThan(ends, at(order.from))
            )
            assert.isTrue(overlaps, `seed ${seed}: ${JSON.stringify(order)} was refused`)
          }
        }
        assert.isAtLeast(booked.length, 2)
        const { bookings } = yield* tenant.client.bookings.list({ urlParams: {} })
        assert.deepStrictEqual(
          bookings.map(({ id }): string => id).sort(),
          booked.map(({ id }) => id).sort(),
          `seed ${seed}`
        )
        yield* checkBooks
      }))

    it.scoped("is refused by the database itself where it overlaps", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const tenant = yield* signUp
        const room = yield* tenant.addRoom("Blue")
        yield* tenant.book("first", room.id, 60, 120)
        const insert = (from: number, to: number) =>
          sql`INSERT INTO booking ${
            sql.insert({ id: randomUUID(), tenant: tenant.id, room: room.id, starts: at(from), ends: at(to), cents: 0 })
          }`.pipe(Database.session())
        const error = yield* Effect.flip(insert(119, 180))
        assert.strictEqual(error._tag, name === "SQLite" ? "CheckViolation" : "ExclusionViolation")
        yield* insert(120, 180)
        yield* insert(0, 60)
      }))

    it.scoped("shows a tenant nothing of others", () =>
      Effect.gen(function*() {
        const ada = yield* signUp
        const room = yield* ada.addRoom("Blue")
        const booking = yield* ada.book("ada", room.id, 0, 60)
        const grace = yield* signUp
        assert.deepStrictEqual(yield* grace.client.rooms.rooms(), [])
        assert.deepStrictEqual(yield* grace.client.rooms.usage(), [])
        assert.deepStrictEqual(yield* grace.client.bookings.list({ urlParams: {} }), { bookings: [] })
        assert.strictEqual((yield* grace.client.bookings.export()).trim(), "id,room,starts,ends,cents")
        assert.deepStrictEqual(yield* grace.client.rooms.account(), { balance: 1_000_000 })
        const taken = yield* Effect.flip(grace.book("ada", room.id, 0, 60))
        assert.deepInclude(taken, { _tag: "NotFound", id: room.id })
        const kept = yield* Effect.flip(grace.client.bookings.cancel({ path: { id: booking.id } }))
        assert.deepInclude(kept, { _tag: "NotFound", id: booking.id })
        assert.deepStrictEqual((yield* ada.client.bookings.list({ urlParams: {} })).bookings, [booking])
        const csv = yield* ada.client.bookings.export()
        assert.deepStrictEqual(csv.trim().split("\n"), [
          "id,room,starts,ends,cents",
          `${booking.id},Blue,2030-01-01T00:00Z,2030-01-01T01:00Z,120`
        ])
        const stranger = yield* HttpApiClient.make(BookingApi, {
          transformClient: HttpClient.mapRequest(HttpClientRequest.bearerToken("guessed"))
        })
        assert.strictEqual((yield* Effect.flip(stranger.rooms.account()))._tag, "Unauthorized")
      }))

    it.scoped("guards sessions of a tenant against queries that forget it", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const [ada, grace] = [yield* signUp, yield* signUp]
        for (const tenant of [ada, grace]) {
          const room = yield* tenant.addRoom("Blue")
          yield* tenant.book("first", room.id, 0, 60)
        }
        const guarded = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
          Tenants.guarded(Database.session(effect)).pipe(Effect.provideService(CurrentTenant, ada.id))
        if (name === "SQLite") {
          assert.deepStrictEqual(yield* Effect.provideService(Tenants.guard, CurrentTenant, ada.id), {})
          return
        }
        for (const table of ["account", "entry", "room", "booking", "request", "usage"]) {
          const seen = yield* guarded(sql<{ readonly tenant: string }>`SELECT tenant FROM ${sql(table)}`)
          assert.isTrue(table === "usage" || seen.length > 0, table)
          assert.isTrue(seen.every((row) => row.tenant === ada.id), table)
        }
        const foreign = { id: randomUUID(), tenant: grace.id, name: "Trojan", cents_per_hour: 0 }
        const refused = yield* Effect.flip(guarded(sql`INSERT INTO room ${sql.insert(foreign)}`))
        assert.strictEqual(refused._tag, "InsufficientPrivilege")
        for (
          const statement of [sql`SELECT * FROM tenant`, sql`SELECT * FROM outbox`, sql`UPDATE booking SET cents = 0`]
        ) {
          assert.strictEqual((yield* Effect.flip(guarded(statement)))._tag, "InsufficientPrivilege")
        }
        assert.deepStrictEqual(
          yield* guarded(sql`UPDATE account SET balance = 0 WHERE tenant = ${grace.id} RETURNING 1`),
          []
        )
      }).pipe(Effect.provide(quiet)))

    it.scoped("carries a request out once, and answers it equally however often it is sent", () =>
      Effect.gen(function*() {
        const tenant = yield* signUp
        const room = yield* tenant.addRoom("Blue")
        const same = yield* Effect.all(Array.from({ length: 20 }, () => tenant.book("a-key", room.id, 0, 60)), {
          concurrency: "unbounded"
        })
        const again = yield* tenant.book("a-key", room.id, 0, 60)
        for (const answer of same) {
          assert.deepStrictEqual(answer, again)
        }
        assert.deepStrictEqual((yield* tenant.client.bookings.list({ urlParams: {} })).bookings, [again])
        assert.deepStrictEqual(yield* tenant.client.rooms.account(), { balance: 1_000_000 - 120 })

        const other = yield* Effect.flip(tenant.book("a-key", room.id, 0, 120))
        assert.deepInclude(other, { _tag: "KeyReused", key: "a-key" })

        const refused = yield* Effect.flip(tenant.book("later", room.id, 30, 90))
        assert.strictEqual(refused._tag, "RoomTaken")
        yield* tenant.client.bookings.cancel({ path: { id: again.id } })
        assert.strictEqual((yield* tenant.book("later", room.id, 30, 90)).cents, 120)
        const gone = yield* Effect.flip(tenant.client.bookings.cancel({ path: { id: again.id } }))
        assert.deepInclude(gone, { _tag: "NotFound" })
        yield* checkBooks
      }))

    it.scoped("lets nobody spend more than he has, and refuses what is not valid", () =>
      Effect.gen(function*() {
        const tenant = yield* signUp
        const room = yield* tenant.client.rooms.addRoom({ payload: { name: "Hall", centsPerHour: 1_000_000 } })
        const paid = yield* Effect.all(
          Array.from({ length: 10 }, (_, index) =>
            Effect.either(tenant.book(`k${index}`, room.id, 60 * index, 60 * index + 20))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          paid.filter(Either.isLeft).map(({ left }) =>
            left._tag
          ),
          Array.from({ length: 8 }, () => "InsufficientCredit")
        )
        const taken = yield* Effect.flip(tenant.client.rooms.addRoom({ payload: { name: "Hall", centsPerHour: 1 } }))
        assert.strictEqual(taken._tag, "NameTaken")
        assert.strictEqual((yield* Effect.flip(Tenants.signUp(`tenant ${tenants}`)))._tag, "NameTaken")
        yield* checkBooks
      }))

    it.scoped("lists bookings page by page", () =>
      Effect.gen(function*() {
        const tenant = yield* signUp
        const room = yield* tenant.addRoom("Blue")
        const sql = yield* SqlClient.SqlClient
        const rows = Array.from({ length: 205 }, (_, index) => ({
          id: randomUUID(),
          tenant: tenant.id,
          room: room.id,
          starts: at(7 * index),
          ends: at(7 * index + 7),
          cents: 0
        }))
        yield* sql`INSERT INTO booking ${sql.insert(rows)}`
        const pages = yield* Stream.runCollect(Stream.paginateEffect(undefined, (after: Place | undefined) =>
          Effect.map(
            tenant.client.bookings.list({ urlParams: { after } }),
            (page) => [page.bookings, page.next === undefined ? Option.none() : Option.some(page.next)]
          )))
        assert.deepStrictEqual(
          Array.from(pages, (page) => page.length),
          [100, 100, 5]
        )
        assert.deepStrictEqual(
          Array.from(pages).flat().map(({ starts }) => starts.epochMillis),
          Array.from({ length: 205 }, (_, index) => at(7 * index).epochMillis)
        )
      }))
  })

  it.scopedLive("delivers each event though consumers and workers fail, and counts it once", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const dice = random(seed)
      const { id } = yield* Tenants.signUp("Ada")
      const asTenant = Effect.provideService(CurrentTenant, id)
      const room = yield* asTenant(Rooms.add({ name: "Blue", centsPerHour: 0 }))
      const booked = yield* Effect.forEach(
        Array.from({ length: 60 }, (_, index) => index),
        (index) =>
          Database.session(Bookings.book({ room: room.id, starts: at(60 * index), ends: at(60 * index + 30) })),
        {
          concurrency: 5
        }
      ).pipe(asTenant)
      yield* Effect.forEach(booked.slice(0, 10), (booking) => asTenant(Database.session(Bookings.cancel(booking.id))))

      const deliveries = new Map<string, number>()
      const count = yield* Outbox.Consumer
      const failing = (event: Outbox.Event) =>
        Effect.gen(function*() {
          deliveries.set(event.id, (deliveries.get(event.id) ?? 0) + 1)
          if (dice.chance(0.2)) {
            return yield* Effect.dieMessage("the consumer is not there")
          }
          yield* count(event)
          if (dice.chance(0.2)) {
            return yield* Effect.dieMessage("the consumer's answer is lost")
          }
        })
      const left = Effect.map(sql`SELECT id FROM outbox`, (rows) => rows.length)
      while ((yield* left) > 0) {
        yield* Effect.all([Outbox.drain, Outbox.drain], { concurrency: "unbounded" }).pipe(
          Effect.provideService(Outbox.Consumer, failing)
        )
        // The leases of what was not delivered run out.
        yield* TestClock.adjust("5 seconds")
      }
      assert.strictEqual(deliveries.size, 70, `seed ${seed}`)
      assert.isAbove(Math.max(...deliveries.values()), 1, `seed ${seed}`)
      const usage = yield* asTenant(Rooms.usage)
      assert.deepStrictEqual(
        [usage.reduce((sum, day) => sum + day.bookings, 0), usage.reduce((sum, day) => sum + day.minutes, 0)],
        [50, 50 * 30],
        `seed ${seed}`
      )
    }).pipe(
      Effect.provide([
        Layer.provideMerge(Layer.merge(Outbox.UsageLive, DbLive), database),
        TestContext.TestContext,
        quiet
      ])
    ))
})

/** What was asked for, and what was answered. */
interface Order {
  readonly key: string
  readonly path: "/bookings" | "/credit"
  readonly payload: object
  answer?: { readonly status: number; readonly body: any }
}

/** Sends a request. Fails with the code of the error where there is no answer. */
const send = (
  address: string,
  token: string,
  { key, path, payload }: Order
): Effect.Effect<NonNullable<Order["answer"]>, string> =>
  Effect.tryPromise({
    try: async () => {
      const headers = { "authorization": `Bearer ${token}`, "content-type": "application/json", "idempotency-key": key }
      const response = await fetch(address + path, { method: "POST", headers, body: JSON.stringify(payload) })
      return { status: response.status, body: await response.json() }
    },
    catch: (error: any) => String(error?.cause?.code ?? error)
  })

/** The service, running as a process, and tenants of it that have rooms and something to ask for. */
const running = (url: string) =>
  Effect.gen(function*() {
    const dice = random(seed)
    const start = ExampleProcess.start("docs/examples/booking/main.ts", "/rooms", url, {
      OPERATOR_PASSWORD: "open sesame"
    })
    const example = yield* start
    const tenants = yield* Effect.forEach([1, 2], (number) =>
      Effect.gen(function*() {
        const { body: { token } } = yield* ExampleProcess.post(example, "/tenants", { name: `tenant ${number}` })
        const headers = { "authorization": `Bearer ${token}`, "content-type": "application/json" }
        const rooms = yield* Effect.forEach(["Blue", "Green"], (name) =>
          Effect.map(
            ExampleProcess.request(example, "/rooms", {
              method: "POST",
              headers,
              body: JSON.stringify({ name, centsPerHour: 120 })
            }),
            ({ body }) => body.id as string
          ))
        const order = (index: number): Order => {
          if (index % 5 === 0) {
            return { key: `credit-${index}`, path: "/credit", payload: { cents: 200 } }
          }
          const from = 15 * dice.below(400)
          const payload = { room: dice.pick(rooms), starts: at(from), ends: at(from + 15 * (1 + dice.below(4))) }
          return { key: `booking-${index}`, path: "/bookings", payload }
        }
        /** What several clients ask for, each so many times. */
        const orders = (clients: number, each: number) =>
          Array.from(
            { length: clients },
            (_, client) => Array.from({ length: each }, (_, index) => order(client * each + index))
          )
        return { token: token as string, orders }
      }))
    return { start, example, tenants }
  })

describe.each([sqliteFile, postgres])("the booking service on $name", (dialect) => {
  it.scopedLive(
    "has each acknowledged booking once, and loses no event, though it is killed under load",
    () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const { example, start, tenants } = yield* running(url)
        let current = example
        let answered = 0
        const ask = (token: string, order: Order) =>
          Effect.gen(function*() {
            while (order.answer === undefined) {
              const answer = yield* Effect.either(send(current.address, token, order))
              if (Either.isRight(answer) && answer.right.status !== 503) {
                order.answer = answer.right
                answered++
              } else {
                yield* Effect.sleep("20 millis")
              }
            }
            return { token, order, answer: order.answer }
          })
        const clients = tenants.flatMap(({ orders, token }) =>
          orders(3, 20).map((orders) => Effect.forEach(orders, (order) => ask(token, order)))
        )
        const asked = yield* Effect.fork(Effect.all(clients, { concurrency: "unbounded" }))
        yield* eventually(Effect.sync(() => answered >= 50), { timeout: "1 minute" })
        current.process.kill("SIGKILL")
        yield* current.ended
        current = yield* start
        const all = (yield* Fiber.join(asked)).flat()
        const statuses = new Set(all.map(({ answer }) => answer.status))
        assert.deepStrictEqual([...statuses].filter((status) => ![201, 402, 409].includes(status)), [], `seed ${seed}`)
        const done = all.filter(({ answer }) => answer.status === 201)
        const bookings = done.filter(({ order }) => order.path === "/bookings").map(({ answer }) => answer.body)
        const purchases = all.filter(({ order }) => order.path === "/credit")
        assert.isTrue(purchases.every(({ answer }) => answer.status === 201))

        // Whoever sends a request again is given the same answer.
        yield* Effect.forEach(
          done,
          ({ answer, order, token }) =>
            Effect.map(send(current.address, token, order), (again) => assert.deepStrictEqual(again, answer)),
          { concurrency: 8 }
        )

        const { sql } = yield* Database.make({ environment: "test", connectTimeout: "1 minute", ...options, url })
        yield* eventually(Effect.map(sql`SELECT id FROM outbox`, (rows) => rows.length === 0), { timeout: "1 minute" })
        const usage = yield* sql<Record<"bookings" | "minutes", number>>`SELECT bookings, minutes FROM usage`
        assert.deepStrictEqual(
          [usage.reduce((sum, day) => sum + day.bookings, 0), usage.reduce((sum, day) => sum + day.minutes, 0)],
          [
            bookings.length,
            bookings.reduce((sum, { ends, starts }) => sum + (Date.parse(ends) - Date.parse(starts)) / 60_000, 0)
          ],
          `seed ${seed}`
        )
        const stored = yield* sql<{ readonly id: string }>`SELECT id FROM booking`
        assert.deepStrictEqual(
          stored.map(({ id }) => id).sort(),
          bookings.map(({ id }): string => id).sort(),
          `seed ${seed}`
        )
        const entries = yield* sql<{ readonly reason: string }>`SELECT reason FROM entry`
        assert.deepStrictEqual(
          entries.map(({ reason }) => reason).sort(),
          [...bookings.map(({ id }) => `booking ${id}`), ...purchases.map(() => "purchase")].sort(),
          `seed ${seed}`
        )
        yield* Effect.provideService(checkBooks, SqlClient.SqlClient, sql)
      }),
    240_000
  )

  it.scopedLive(
    "answers each request whole that it accepts, and ends with 0, when SIGTERM comes under load",
    () =>
      Effect.gen(function*() {
        const url = yield* dialect.url
        const { example, tenants } = yield* running(url)
        let answered = 0
        /** Asks for one thing after the other, until nobody listens any more. */
        const ask = (token: string, orders: ReadonlyArray<Order>) =>
          Effect.gen(function*() {
            for (const order of orders) {
              const answer = yield* Effect.either(send(example.address, token, order))
              if (Either.isLeft(answer)) {
                return answer.left
              }
              order.answer = answer.right
              answered++
            }
            return "all answered"
          })
        const all = tenants.map(({ orders, token }) => ({ token, orders: orders(4, 1000) }))
        const clients = all.flatMap(({ orders, token }) => orders.map((orders) => ask(token, orders)))
        const asked = yield* Effect.fork(Effect.all(clients, { concurrency: "unbounded" }))
        yield* eventually(Effect.sync(() => answered >= 50), { timeout: "1 minute" })
        example.process.kill("SIGTERM")
        assert.deepStrictEqual(yield* Fiber.join(asked), clients.map(() => "ECONNREFUSED"))
        assert.strictEqual(yield* example.ended, 0, example.output())

        const answers = all.flatMap(({ orders }) => orders.flat()).filter(({ answer }) => answer !== undefined)
        assert.deepStrictEqual(
          answers.filter(({ answer }) => ![201, 402, 409].includes(answer!.status)),
          [],
          `seed ${seed}`
        )
        const bookings = answers.filter(({ answer, path }) => path === "/bookings" && answer?.status === 201)
        const { sql } = yield* Database.make({ environment: "test", connectTimeout: "1 minute", ...options, url })
        const stored = yield* sql<{ readonly id: string }>`SELECT id FROM booking`
        assert.deepStrictEqual(
          stored.map(({ id }) => id).sort(),
          bookings.map(({ answer }): string => answer!.body.id).sort(),
          `seed ${seed}`
        )
        yield* Effect.provideService(checkBooks, SqlClient.SqlClient, sql)
      }),
    240_000
  )
})

describe("the booking service", () => {
  it.scopedLive(
    "shows its metrics and its dashboard to operators who know the password, and is ready",
    () =>
      Effect.gen(function*() {
        const { example } = yield* running(yield* sqliteFile.url)
        const asking = (path: string, password: string) =>
          Effect.map(
            ExampleProcess.request(example, path, {
              headers: { authorization: `Basic ${btoa(`operator:${password}`)}` }
            }),
            ({ body, status }) => [status, body]
          )
        const [status, metrics] = yield* asking("/operators/metrics", "open sesame")
        assert.strictEqual(status, 200)
        assert.match(metrics, /^sqlayer_session_committed_total\{[^}]*\} [1-9]/m)
        assert.strictEqual((yield* asking("/operators/database", "open sesame"))[0], 200)
        for (const path of ["/operators/metrics", "/operators/database"]) {
          assert.deepStrictEqual(yield* asking(path, "open barley"), [401, ""])
        }
        const ready = yield* ExampleProcess.request(example, "/health/ready")
        assert.deepStrictEqual([ready.status, ready.body.status], [200, "ready"])
      }),
    240_000
  )
})
