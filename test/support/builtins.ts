/**
 * Functions of Node's own modules that a test replaces.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { syncBuiltinESMExports } from "node:module"

/**
 * Replaces a function of a module, given as its default import, until the scope closes. `make` is given the original, and what
 * puts it back before that.
 */
export const replaceBuiltin = <Module extends object, Name extends keyof Module>(
  module: Module,
  name: Name,
  make: (original: Module[Name], restore: () => void) => Module[Name]
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.suspend(() => {
    const original = module[name]
    const use = (replacement: Module[Name]) => {
      module[name] = replacement
      syncBuiltinESMExports()
    }
    const restore = () => use(original)
    return Effect.acquireRelease(Effect.sync(() => use(make(original, restore))), () => Effect.sync(restore))
  })
