/**
 * The handlers of the booking service's API.
 */
import { HttpApiBuilder, HttpServerResponse } from "@effect/platform"
import { Effect, Layer } from "effect"
import { DatabaseHttp } from "sqlayer"
import { Account, Booking, BookingApi } from "./api.js"
import * as Bookings from "./bookings.js"
import { DbLive } from "./database.js"
import { once } from "./idempotency.js"
import * as Rooms from "./rooms.js"
import * as Tenants from "./tenants.js"

const TenantsLive = HttpApiBuilder.group(
  BookingApi,
  "tenants",
  (handlers) => handlers.handle("signUp", ({ payload }) => Tenants.signUp(payload.name))
)

/** A session for each request, of the tenant that it is from. */
const RoomsLive = HttpApiBuilder.group(BookingApi, "rooms", (handlers) =>
  handlers
    .handle("account", () => Rooms.account)
    .handle("usage", () => Rooms.usage)
    .handle("rooms", () => Rooms.list)
    .handle("addRoom", ({ payload }) => Rooms.add(payload))
    .pipe(DatabaseHttp.sessions(() => Tenants.guard))
    .handle("buyCredit", ({ headers, payload }) =>
      Rooms.pay(payload.cents, "purchase").pipe(
        once({ key: headers["idempotency-key"], payload, answer: Account }),
        Tenants.guarded
      )))

/** Bookings are made in a session of `once`, which can be retried, and exported in the session of their stream. */
const BookingsLive = HttpApiBuilder.group(BookingApi, "bookings", (handlers) =>
  handlers
    .handle("list", ({ urlParams }) => Bookings.list(urlParams.after))
    .handle("cancel", ({ path }) => Bookings.cancel(path.id))
    .pipe(DatabaseHttp.sessions(() => Tenants.guard))
    .handle("book", ({ headers, payload }) =>
      Bookings.book(payload).pipe(
        once({ key: headers["idempotency-key"], payload, answer: Booking }),
        Tenants.guarded
      ))
    .handle("export", () =>
      Effect.map(Bookings.csv, (csv) =>
        HttpServerResponse.stream(csv, {
          contentType: "text/csv",
          headers: { "content-disposition": "attachment; filename=\"bookings.csv\"" }
        }))))

export const BookingLive = HttpApiBuilder.api(BookingApi).pipe(
  Layer.provide([TenantsLive, RoomsLive, BookingsLive, DatabaseHttp.healthLayer(BookingApi)]),
  Layer.provide([Tenants.AuthorizationLive, DbLive]),
  Layer.provideMerge(HttpApiBuilder.middleware(DatabaseHttp.problems))
)
