/**
 * The HTTP API of the booking service.
 */
import {
  HttpApi,
  HttpApiEndpoint,
  HttpApiGroup,
  HttpApiMiddleware,
  HttpApiSchema,
  HttpApiSecurity,
  OpenApi
} from "@effect/platform"
import { Context, DateTime, Schema } from "effect"
import { DatabaseHttp } from "sqlayer"

const Id = Schema.UUID

const Name = Schema.NonEmptyTrimmedString.pipe(Schema.maxLength(100), Schema.pattern(/^[^\p{Cc}\p{Cs}]+$/u))

/** Money, in cents. */
const Cents = Schema.Int.pipe(Schema.between(0, 1_000_000))

/** A point in time without seconds, of a year with four digits. */
const Minute = Schema.DateTimeUtc.pipe(
  Schema.filter((time) => /^\d{4}-.*:00\.000Z$/.test(DateTime.formatIso(time)) || "expected a whole minute")
)

const Tenant = Schema.Struct({ id: Id, token: Schema.String })

export const Account = Schema.Struct({ balance: Schema.Int })

const Room = Schema.Struct({ id: Id, name: Schema.String, centsPerHour: Schema.Int })

export const NewRoom = Schema.Struct({ name: Name, centsPerHour: Cents })
export type NewRoom = typeof NewRoom.Type

export const Booking = Schema.Struct({
  id: Id,
  room: Id,
  starts: Schema.DateTimeUtc,
  ends: Schema.DateTimeUtc,
  cents: Schema.Int
})
export type Booking = typeof Booking.Type

export const NewBooking = Schema.Struct({ room: Id, starts: Minute, ends: Minute }).pipe(
  Schema.filter(({ ends, starts }) =>
    DateTime.greaterThan(ends, starts) && DateTime.lessThanOrEqualTo(ends, DateTime.add(starts, { days: 7 })) ||
    "expected an end at most 7 days after the start"
  )
)
export type NewBooking = typeof NewBooking.Type

/** A place in the order of bookings, as text: the start and the id of the booking before it. */
export const Place = Schema.transform(
  Schema.TemplateLiteralParser(Schema.DateTimeUtc, "~", Id),
  Schema.typeSchema(Schema.Struct({ starts: Schema.DateTimeUtc, id: Id })),
  {
    strict: true,
    decode: ([starts, , id]) => ({ starts, id }),
    encode: ({ id, starts }) => [starts, "~", id] as const
  }
)
export type Place = typeof Place.Type

/** A page of bookings, and where the next one begins if there is one. */
const Bookings = Schema.Struct({ bookings: Schema.Array(Booking), next: Schema.optional(Place) })

const Usage = Schema.Struct({ day: Schema.String, bookings: Schema.Int, minutes: Schema.Int })

export class Unauthorized extends Schema.TaggedError<Unauthorized>()(
  "Unauthorized",
  {},
  HttpApiSchema.annotations({ status: 401 })
) {}

export class NameTaken extends Schema.TaggedError<NameTaken>()(
  "NameTaken",
  { name: Schema.String },
  HttpApiSchema.annotations({ status: 409 })
) {}

export class NotFound extends Schema.TaggedError<NotFound>()(
  "NotFound",
  { id: Schema.String },
  HttpApiSchema.annotations({ status: 404 })
) {}

export class RoomTaken extends Schema.TaggedError<RoomTaken>()(
  "RoomTaken",
  { room: Schema.String },
  HttpApiSchema.annotations({ status: 409 })
) {}

export class InsufficientCredit extends Schema.TaggedError<InsufficientCredit>()(
  "InsufficientCredit",
  { cents: Schema.Int },
  HttpApiSchema.annotations({ status: 402 })
) {}

/** The key belongs to a request that asked for something else. */
export class KeyReused extends Schema.TaggedError<KeyReused>()(
  "KeyReused",
  { key: Schema.String },
  HttpApiSchema.annotations({ status: 422 })
) {}

/** Who a request is from. */
export class CurrentTenant extends Context.Tag("booking/CurrentTenant")<CurrentTenant, string>() {}

/** Requests have the token of their tenant: `Authorization: Bearer <token>`. */
export class Authorization extends HttpApiMiddleware.Tag<Authorization>()("booking/Authorization", {
  failure: Schema.Union(Unauthorized, DatabaseHttp.errors),
  provides: CurrentTenant,
  security: { token: HttpApiSecurity.bearer }
}) {}

/** Requests with the same key are carried out once, and all get the same answer. */
const Idempotent = Schema.Struct({
  "idempotency-key": Schema.NonEmptyString.pipe(Schema.maxLength(100), Schema.pattern(/^[\x21-\x7e]+$/))
})

const tenants = HttpApiGroup.make("tenants")
  .add(
    HttpApiEndpoint.post("signUp", "/tenants")
      .setPayload(Schema.Struct({ name: Name }))
      .addSuccess(Tenant, { status: 201 })
      .addError(NameTaken)
  )
  .addError(DatabaseHttp.errors)

const rooms = HttpApiGroup.make("rooms")
  .add(HttpApiEndpoint.get("account", "/account").addSuccess(Account))
  .add(HttpApiEndpoint.get("usage", "/usage").addSuccess(Schema.Array(Usage)))
  .add(HttpApiEndpoint.get("rooms", "/rooms").addSuccess(Schema.Array(Room)))
  .add(
    HttpApiEndpoint.post("addRoom", "/rooms")
      .setPayload(NewRoom)
      .addSuccess(Room, { status: 201 })
      .addError(NameTaken)
  )
  .add(
    HttpApiEndpoint.post("buyCredit", "/credit")
      .setHeaders(Idempotent)
      .setPayload(Schema.Struct({ cents: Cents.pipe(Schema.positive()) }))
      .addSuccess(Account, { status: 201 })
      .addError(KeyReused)
  )
  .addError(DatabaseHttp.errors)
  .middleware(Authorization)

const bookings = HttpApiGroup.make("bookings")
  .add(
    HttpApiEndpoint.get("list", "/bookings")
      .setUrlParams(Schema.Struct({ after: Schema.optional(Place) }))
      .addSuccess(Bookings)
  )
  .add(
    HttpApiEndpoint.post("book", "/bookings")
      .setHeaders(Idempotent)
      .setPayload(NewBooking)
      .addSuccess(Booking, { status: 201 })
      .addError(NotFound)
      .addError(RoomTaken)
      .addError(InsufficientCredit)
      .addError(KeyReused)
  )
  .add(
    HttpApiEndpoint.del("cancel", "/bookings/:id")
      .setPath(Schema.Struct({ id: Id }))
      .addError(NotFound)
  )
  .add(
    HttpApiEndpoint.get("export", "/bookings.csv")
      .addSuccess(HttpApiSchema.Text({ contentType: "text/csv" }))
  )
  .addError(DatabaseHttp.errors)
  .middleware(Authorization)

export const BookingApi = HttpApi.make("booking")
  .add(tenants)
  .add(rooms)
  .add(bookings)
  .add(DatabaseHttp.HealthApi)
  .annotate(OpenApi.Title, "Booking")
