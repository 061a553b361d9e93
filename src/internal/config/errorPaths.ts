/**
 * Reports options that are not valid under the paths that their Config reads, such as the environment variable's name.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"

type Path = ReadonlyArray<string>

/** The path that a Config reads, or undefined if it reads none or more than one. */
const pathOf = (config: Config.Config<unknown>): Effect.Effect<Path | undefined> =>
  Effect.configProviderWith((provider) => {
    const paths = new Map<string, Path>()
    const recording = ConfigProvider.fromFlat({
      ...provider.flattened,
      load: (path, primitive, split) => {
        paths.set(JSON.stringify(path), path)
        return provider.flattened.load(path, primitive, split)
      }
    })
    return Effect.map(Effect.exit(recording.load(config)), () => {
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

/** Fails with the error, in which the names of options are replaced by the paths that their Config reads. */
export const failWithPaths = (
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
