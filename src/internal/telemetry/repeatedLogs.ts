/**
 * Keeps equal lines from flooding the log. A line is written once, and further lines of its kind are counted. At the
 * end of each window, one line has their number.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import * as Runtime from "effect/Runtime"
import * as Tracer from "effect/Tracer"

/** How long the lines of a kind are counted before their number is written, in milliseconds. */
const windowMillis = 10_000
/** The most kinds that are counted at the same time. The lines of further ones are all written. */
const maxKinds = 1_000

interface Kind {
  count: number
  readonly timer: NodeJS.Timeout
  /** Writes the number of the lines that were only counted. */
  readonly summarize: () => void
}

export class RepeatedLogs {
  private readonly kinds = new Map<string, Kind>()

  /**
   * Writes a line, or counts it if one of the same kind was written or counted within the window. `summary` is what the
   * lines of the kind have in common.
   */
  limit(kind: string, level: LogLevel.LogLevel, summary: string, line: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const counted = this.kinds.get(kind)
      if (counted !== undefined) {
        counted.count++
        return Effect.void
      }
      return this.kinds.size >= maxKinds ? line : Effect.zipRight(this.count(kind, level, summary), line)
    })
  }

  /** Writes what was only counted so far. */
  readonly flush: Effect.Effect<void> = Effect.sync(() => {
    for (const { summarize, timer } of this.kinds.values()) {
      clearTimeout(timer)
      summarize()
    }
    this.kinds.clear()
  })

  /** Begins to count the lines of a kind. The number is written by the loggers of the fiber that calls this. */
  private count(kind: string, level: LogLevel.LogLevel, summary: string): Effect.Effect<void> {
    return Effect.map(outsideOfSpans(Effect.runtime()), (runtime) => {
      const onWindowEnd = (): void => {
        if (counted.count === 0) {
          clearTimeout(timer)
          this.kinds.delete(kind)
        } else {
          counted.summarize()
          timer.refresh()
        }
      }
      const timer = setTimeout(onWindowEnd, windowMillis)
      timer.unref()
      const counted: Kind = {
        count: 0,
        timer,
        summarize: () => {
          const { count } = counted
          counted.count = 0
          if (count > 0) {
            const times = count === 1 ? "once" : `${count} times`
            Runtime.runFork(runtime)(
              Effect.logWithLevel(level, `${times} more within ${windowMillis / 1_000} s: ${summary}`)
            )
          }
        }
      }
      this.kinds.set(kind, counted)
    })
  }
}

/** Without the span that the first line is written in, which will have ended. */
const outsideOfSpans = <A>(effect: Effect.Effect<A>): Effect.Effect<A> =>
  Effect.mapInputContext(
    effect,
    (context: Context.Context<never>): Context.Context<never> =>
      Context.omit(Tracer.ParentSpan)<Tracer.ParentSpan>(context as Context.Context<Tracer.ParentSpan>)
  )
