/**
 * Read your writes: the position of the last commit that a session has to see. It is kept per process, or per scope
 * that `Database.causal` or `Database.after` opens.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Connection, Position } from "../driver.js"

const nothing = (): void => undefined

/** The last known commit of one database. */
export class History {
  position: Position | undefined = undefined
  /** The number of commits whose position was not known. */
  private unknownCommits = 0
  /** How many of these are at or before `position`. */
  private resolvedCommits = 0

  /** Whether a commit of unknown position may be later than `position`. */
  get isUnknown(): boolean {
    return this.unknownCommits > this.resolvedCommits
  }

  /** Read it before asking for a position, and pass it to `advance` with that position. */
  get mark(): number {
    return this.unknownCommits
  }

  /** Records a position of the server that was read after all commits up to the mark. */
  advance(position: Position, mark: number): void {
    if (this.position === undefined || isLater(position, this.position)) {
      this.position = position
    }
    this.resolvedCommits = Math.max(this.resolvedCommits, mark)
  }

  /** Records a commit whose position is not known. */
  committedAtUnknownPosition(): void {
    this.unknownCommits++
  }
}

/** A position of another cluster counts as later: the database was moved there. */
const isLater = (position: Position, than: Position): boolean =>
  position.system !== than.system || position.timeline > than.timeline ||
  (position.timeline === than.timeline && position.offset > than.offset)

/** A part of a program that has a history of its own, for each database. */
export class CausalScope {
  private readonly histories = new WeakMap<object, History>()

  constructor(
    /** The enclosing scope, whose histories also record its commits. */
    readonly parent: CausalScope | undefined,
    /** Whether its sessions also have to see the commits of the enclosing scopes. */
    readonly inherits: boolean
  ) {}

  historyOf(database: object): History {
    let history = this.histories.get(database)
    if (history === undefined) {
      history = new History()
      this.histories.set(database, history)
    }
    return history
  }
}

/** The innermost scope. Without one, a database has the history of its process. */
class Causality extends Context.Tag("sqlayer/Causality")<Causality, CausalScope>() {}

const scopeOf = (context: Context.Context<never>): CausalScope | undefined =>
  context.unsafeMap.get(Causality.key) as CausalScope | undefined

/** The histories in which one session or statement records its commits, and those whose commits it has to see. */
export class Track {
  constructor(
    /** Those that record its commits, of the innermost scope first. */
    private readonly all: ReadonlyArray<History>,
    /** How many of them it has to see, from the first one. */
    private readonly required: number
  ) {}

  /**
   * What a reader must have replayed: a position, or nothing. Only the primary will do if a commit's position is
   * `unknown`, or if the positions are of several clusters or timelines (`history`).
   */
  get requirement(): Position | "unknown" | "history" | undefined {
    let latest: Position | undefined = undefined
    for (const { isUnknown, position } of this.all.slice(0, this.required)) {
      if (isUnknown) {
        return "unknown"
      }
      if (position !== undefined && latest !== undefined && !isSameHistory(position, latest)) {
        return "history"
      }
      if (position !== undefined && (latest === undefined || isLater(position, latest))) {
        latest = position
      }
    }
    return latest
  }

  private get marks(): ReadonlyArray<number> {
    return this.all.map(({ mark }) => mark)
  }

  /** Records a position of the primary that was read after all commits up to the marks. */
  private advance(position: Position, marks: ReadonlyArray<number>): void {
    this.all.forEach((history, i) => history.advance(position, marks[i]))
  }

  committedAtUnknownPosition(): void {
    this.all.forEach((history) => history.committedAtUnknownPosition())
  }

  /** To be called before a position is asked for. The result takes the position, or undefined if it is not known. */
  beginRecording(): (position: Position | undefined) => void {
    const { marks } = this
    return (position) => position === undefined ? this.committedAtUnknownPosition() : this.advance(position, marks)
  }
}

const isSameHistory = (left: Position, right: Position): boolean =>
  left.system === right.system && left.timeline === right.timeline

/** The histories of a database for code that runs in a context; undefined if no positions are tracked. */
export const trackOf = (
  database: object,
  ofProcess: History | undefined,
  context: Context.Context<never>
): Track | undefined => {
  const innermost = scopeOf(context)
  if (innermost === undefined && ofProcess === undefined) {
    return undefined
  }
  const all: Array<History> = []
  let required: number | undefined = undefined
  for (let scope = innermost; scope !== undefined; scope = scope.parent) {
    all.push(scope.historyOf(database))
    required ??= scope.inherits ? undefined : all.length
  }
  if (ofProcess !== undefined) {
    all.push(ofProcess)
  }
  return new Track(all, required ?? all.length)
}

/** Runs an effect in a scope of its own. */
export const inCausalScope = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  inherits: boolean,
  prepare: (scope: CausalScope) => void = nothing
): Effect.Effect<A, E, R> =>
  Effect.contextWithEffect((context: Context.Context<R>) => {
    const scope = new CausalScope(scopeOf(context), inherits)
    prepare(scope)
    return Effect.provideService(effect, Causality, scope) as Effect.Effect<A, E, R>
  })

/** Records the positions of statements that commit by themselves, until the result is called. */
export const trackStatements = (connection: Connection, track: Track | undefined): () => void => {
  if (track === undefined || connection.trackPositions === undefined) {
    return nothing
  }
  connection.trackPositions(() => track.beginRecording())
  return () => connection.trackPositions?.(undefined)
}
