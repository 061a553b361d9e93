/**
 * What a session has to see: the position of the last commit that it follows. It is kept by the process, or by a scope of the
 * program that `Database.causal` and `Database.after` make.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Connection, Position } from "../driver.js"

const nothing = (): void => undefined

/** The last commit of one database that somebody knows of. */
export class History {
  position: Position | undefined = undefined
  /** How often something was committed whose position is not known. */
  private unknownCommits = 0
  /** How many of these are before `position`. */
  private resolvedCommits = 0

  /** Whether something was committed behind `position`, and it is not known where. */
  get isUnknown(): boolean {
    return this.unknownCommits > this.resolvedCommits
  }

  /** To be taken before a position is asked for that is passed to `advance`. */
  get mark(): number {
    return this.unknownCommits
  }

  /** The server was at this position when everything up to the mark was committed. */
  advance(position: Position, mark: number): void {
    if (this.position === undefined || isLater(position, this.position)) {
      this.position = position
    }
    this.resolvedCommits = Math.max(this.resolvedCommits, mark)
  }

  /** Something was committed, and it is not known where. */
  committedSomewhere(): void {
    this.unknownCommits++
  }
}

/** A position of another cluster is later than any other: it was given when the database was moved there. */
const isLater = (position: Position, than: Position): boolean =>
  position.system !== than.system || position.timeline > than.timeline ||
  (position.timeline === than.timeline && position.offset > than.offset)

/** A part of a program that has a history of its own, for each database. */
export class CausalScope {
  private readonly histories = new WeakMap<object, History>()

  constructor(
    /** The scope around it, which is told of its commits. */
    readonly parent: CausalScope | undefined,
    /** Whether its sessions also have to see what those around it have to. */
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

/** The histories that one session or statement is concerned with. */
export class Track {
  constructor(
    /** Those that are told of its commits. */
    private readonly all: ReadonlyArray<History>,
    /** Those that it has to see; the first ones of `all`. */
    private readonly required: number
  ) {}

  /** What it has to see: a position, nothing, or what only the primary is known to have. */
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

  /** The primary was at this position when everything up to the marks was committed. */
  private advance(position: Position, marks: ReadonlyArray<number>): void {
    this.all.forEach((history, i) => history.advance(position, marks[i]))
  }

  committedSomewhere(): void {
    this.all.forEach((history) => history.committedSomewhere())
  }

  /** To be called before a position is asked for. The result takes it, or undefined if it could not be had. */
  begin(): (position: Position | undefined) => void {
    const { marks } = this
    return (position) => position === undefined ? this.committedSomewhere() : this.advance(position, marks)
  }
}

const isSameHistory = (left: Position, right: Position): boolean =>
  left.system === right.system && left.timeline === right.timeline

/** The histories of a database that code in a context is concerned with; undefined if nobody asks for positions. */
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
export const inScope = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  inherits: boolean,
  prepare: (scope: CausalScope) => void = nothing
): Effect.Effect<A, E, R> =>
  Effect.contextWithEffect((context: Context.Context<R>) => {
    const scope = new CausalScope(scopeOf(context), inherits)
    prepare(scope)
    return Effect.provideService(effect, Causality, scope) as Effect.Effect<A, E, R>
  })

/** Lets the histories know of statements that commit by themselves, until the result is called. */
export const trackStatements = (connection: Connection, track: Track | undefined): () => void => {
  if (track === undefined || connection.trackPositions === undefined) {
    return nothing
  }
  connection.trackPositions(() => track.begin())
  return () => connection.trackPositions?.(undefined)
}
