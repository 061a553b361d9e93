/**
 * Names options by what their configuration reads.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"

type Path = ReadonlyArray<string>

/** The one path that a configuration reads; undefined where it reads several, or none. */
const pathOf = (config: Config.Config<unknown>): Effect.Effect<Path | undefined> =>
  Effect.configProviderWith((provider) => {
    const paths = new Map<string, Path>()
    const watched = ConfigProvider.fromFlat({
      ...provider.flattened,
      load: (path, primitive, split) => {
        paths.set(JSON.stringify(path), path)
        return provider.flattened.load(path, primitive, split)
      }
    })
    return Effect.map(Effect.exit(watched.load(config)), () => {
      const [path, ...others] = paths.values()
      return others.length === 0 ? path : undefined
    })
  })

const rename = (error: ConfigError.ConfigError, names: ReadonlyMap<string, Path>): ConfigError.ConfigError => {
  switch (error._op) {
    case "And":
      return ConfigError.And(rename(error.left, names), rename(error.right, names))
    case "InvalidData":
      return ConfigError.InvalidData([...names.get(error.path[0]) ?? error.path], error.message)
    case "MissingData":
      return ConfigError.MissingData([...names.get(error.path[0]) ?? error.path], error.message)
    default:
      return error
  }
}

/** The same error, with the paths that the options are configured by in place of their names. */
export const traced = (
  config: object,
  error: ConfigError.ConfigError
): Effect.Effect<never, ConfigError.ConfigError> =>
  Effect.gen(function*() {
    const names = new Map<string, Path>()
    for (const [option, value] of Config.isConfig(config) ? [] : Object.entries(config)) {
      const path = Config.isConfig(value) ? yield* pathOf(value) : undefined
      if (path !== undefined) {
        names.set(option, path)
      }
    }
    return yield* Effect.fail(rename(error, names))
  })
