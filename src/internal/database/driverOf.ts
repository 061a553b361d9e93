/**
 * The driver of the database that the settings name.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { render, type Settings } from "../../DatabaseConfig.js"
import type { DatabaseError } from "../../DatabaseError.js"
import type { Driver } from "../driver.js"
import * as Drivers from "../drivers.js"

/** The module of a driver. */
interface DriverModule {
  /** Loads the packages that the driver needs. Fails with ConnectionFailed if one of them is missing or cannot run. */
  readonly load: Effect.Effect<void, DatabaseError>
  /** Makes the driver; nothing is opened yet. */
  readonly make: (settings: Settings, target: Settings["target"]) => Driver
}

type Import = () => Promise<DriverModule>

const drivers = { ...Drivers }

/** If this is provided, databases of another driver are refused before that driver is loaded. */
export class RequiredDriver extends Context.Tag("sqlayer/RequiredDriver")<
  RequiredDriver,
  {
    readonly driver: (typeof drivers)[keyof typeof drivers]
    /** The error for a database of another driver, by its URL without the password. */
    readonly refusal: (url: string) => DatabaseError
  }
>() {}

/** The drivers that were loaded. Only the first database of a dialect waits for its driver. */
const modules = new Map<Import, DriverModule>()

const load = (importModule: Import): Effect.Effect<DriverModule, DatabaseError> =>
  Effect.suspend(() => {
    const loaded = modules.get(importModule)
    return loaded === undefined
      ? Effect.promise(importModule).pipe(
        Effect.tap((module) => module.load),
        Effect.tap((module) => Effect.sync(() => modules.set(importModule, module)))
      )
      : Effect.succeed(loaded)
  })

/** Makes the driver; nothing is opened yet. Loads it and the packages that it needs, the first time. */
export const driverOf = (settings: Settings): Effect.Effect<Driver, DatabaseError> =>
  Effect.flatMap(Effect.serviceOption(RequiredDriver), (required) => {
    const { target } = settings
    // TypeScript does not see that the driver and the target are of the same dialect.
    const importModule = drivers[target._tag] as Import
    return Option.isSome(required) && required.value.driver !== importModule
      ? Effect.fail(required.value.refusal(render(target)))
      : Effect.map(load(importModule), ({ make }) => make(settings, target))
  })
