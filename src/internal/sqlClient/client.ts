/**
 * The standard SqlClient of @effect/sql over a pool and its sessions.
 */
import * as Reactivity from "@effect/experimental/Reactivity"
import * as SqlClient from "@effect/sql/SqlClient"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SpanNames } from "../../DatabaseConfig.js"
import { toSqlError } from "../../DatabaseError.js"
import type { Pool } from "../../Pool.js"
import type { Options } from "../../Session.js"
import type { Connection, Driver } from "../driver.js"
import type { Sessions } from "../session/sessions.js"
import type { ActivityTracker } from "../telemetry/activity.js"
import { makeTransformRows } from "../transformNames.js"
import { makeConstructor } from "./statement.js"
import { TextCache } from "./texts.js"

interface MakeOptions {
  readonly driver: Driver
  readonly pool: Pool<Connection>
  readonly sessions: Sessions
  readonly tracker: ActivityTracker
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
  readonly spanNames: SpanNames
  readonly spanParameters: boolean
  readonly slowStatement: Duration.Duration
  readonly transformResultNames: ((name: string) => string) | undefined
  readonly transformJson: boolean
}

const noOptions: Options = {}

/** The application's own Reactivity, if it has one, so that its mutations reach this client's reactive queries. */
const reactivity = Effect.flatMap(
  Effect.serviceOption(Reactivity.Reactivity),
  Option.match({ onNone: () => Reactivity.make, onSome: Effect.succeed })
)

/** Makes the client, to which the driver adds the methods of its dialect. */
export const make = (options: MakeOptions): Effect.Effect<SqlClient.SqlClient> =>
  Effect.map(reactivity, (reactivity) => {
    const { driver, pool, sessions, spanAttributes, spanNames, spanParameters, tracker } = options
    const environment = {
      dialect: driver.dialect,
      pool,
      sessions,
      spanAttributes,
      spanNames,
      spanParameters,
      slowMillis: Duration.toMillis(options.slowStatement),
      tracker
    }
    const transformRows = options.transformResultNames === undefined
      ? undefined
      : makeTransformRows(options.transformResultNames, options.transformJson)
    // Shared by both constructors: a text that is cached holds no identifiers from arguments, so nothing transforms it.
    const texts = new TextCache()
    const makeUntransformed = () =>
      makeConstructor({ ...environment, compiler: driver.compiler.withoutTransform, transformRows: undefined }, texts)

    const client = Object.assign(makeConstructor({ ...environment, compiler: driver.compiler, transformRows }, texts), {
      [SqlClient.TypeId]: SqlClient.TypeId,
      safe: undefined as unknown as SqlClient.SqlClient,
      withTransaction: <R, E, A>(effect: Effect.Effect<A, E, R>) =>
        sessions.run(effect, noOptions, toSqlError) as Effect.Effect<A, E | ReturnType<typeof toSqlError>, R>,
      reserve: Effect.mapError(sessions.reserve, toSqlError),
      withoutTransforms(this: SqlClient.SqlClient): SqlClient.SqlClient {
        if (transformRows === undefined) {
          return this
        }
        const constructor = makeUntransformed()
        const untransformed: SqlClient.SqlClient = Object.assign(constructor, { ...this, ...constructor })
        return Object.assign(untransformed, { safe: untransformed, withoutTransforms: () => untransformed })
      },
      reactive: reactivity.stream,
      reactiveMailbox: reactivity.query
    }) as unknown as SqlClient.SqlClient
    return Object.assign(client, { safe: client })
  })
