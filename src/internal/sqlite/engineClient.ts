/**
 * What is asked of an engine, in turn, and where the answers leave the connection.
 *
 * What comes back is noted as soon as it is there, whether or not someone still waits for it, so that the status is
 * right after an interruption too. Nothing ever waits for a lock within SQLite: what finds the file busy is tried again
 * from here, which blocks no thread and can be interrupted.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { DatabaseError } from "../../DatabaseError.js"
import type { BeginOptions, Refusal, Status } from "../driver.js"
import type { Context } from "../makeError.js"
import { stoppable } from "../asyncInterrupt.js"
import { abortedError, type About, closedError, lostError, timeoutError, unsentError } from "./errors.js"
import type { Link, Outcome, Sent } from "./transport.js"
import * as Loop from "./eventLoop.js"
import { cells, isBusy, isRun, isUndo, over, type Question, type Request } from "./protocol.js"
import { fromSqlite } from "./resultCode.js"
import { isPlain } from "./statementText.js"
import { type Ticket, Turn } from "./requestLock.js"

/** The longest that things may take. Zero is without a limit. */
export interface Limits {
  readonly statementTimeout?: Duration.Duration | undefined
  readonly lockTimeout?: Duration.Duration | undefined
}

/** What a conversation is made of. */
export interface Options {
  readonly link: Link
  readonly description: string
  readonly limits: Limits
  /** How long opening may wait for another's lock. */
  readonly openTimeout: Duration.Duration
  /** What every connection has loaded when a transaction begins. */
  readonly extensions: ReadonlyArray<string>
  readonly onLost: (error: DatabaseError) => void
}

const defaultLockTimeout = Duration.seconds(5)
const firstPause = 1
const longestPause = 50

/** Milliseconds; zero is without a limit. */
const millisOf = (duration: Duration.Duration | undefined): number | undefined => {
  const millis = duration === undefined ? 0 : Duration.toMillis(duration)
  return millis > 0 && Number.isFinite(millis) ? millis : undefined
}

const isEnd = (request: Request): boolean =>
  request._tag === "Commit" || request._tag === "Rollback" || request._tag === "Reset"

const phaseOf = (request: Request): Context["phase"] =>
  request._tag === "Open" ? "connect" : request._tag === "Commit" ? "commit" : "statement"

/** What is said on one connection. */
export class Conversation {
  /** What `begin` was asked for, from then on until the transaction is ended from here. */
  begun: BeginOptions | undefined
  #opened = false
  #closed = false
  #inTransaction = false
  /** Whether a statement of the transaction failed. */
  #failed = false
  #dirty = false
  /** Whether what begins is still to be sent, with the first statement. */
  #unsent = false
  /** Why it could not begin. */
  #refused: DatabaseError | undefined
  readonly #options: Options
  readonly #turn = new Turn(cells)

  constructor(options: Options) {
    this.#options = options
    options.link.watch((reason) => this.#lose(lostError(options.description, "statement", reason, {})))
  }

  get status(): Status {
    if (this.#closed) {
      return "closed"
    }
    if (this.#unsent || (this.#inTransaction && !this.#failed)) {
      return "active"
    }
    return this.begun !== undefined ? "aborted" : this.#dirty ? "dirty" : "idle"
  }

  opened(): void {
    this.#opened = true
  }

  /** Leaves at once. */
  destroy(): void {
    this.#closed = true
    this.#options.link.destroy()
  }

  /** What begins goes along with the first statement. */
  begin(options: BeginOptions): DatabaseError | undefined {
    if (this.#closed) {
      return closedError(this.#options.description)
    }
    if (this.#inTransaction || this.begun !== undefined) {
      return fromSqlite({ message: "cannot start a transaction within a transaction", code: "SQLITE_ERROR" }, {
        phase: "statement"
      })
    }
    this.begun = options
    this.#unsent = true
    return undefined
  }

  ask(request: Request): Effect.Effect<unknown, DatabaseError> {
    return Effect.suspend(() => this.asked(request, (error) => error))
  }

  /** The last question, which is sent although nobody may ask any more. */
  readonly goodbye: Effect.Effect<void> = Effect.suspend(() => {
    if (this.#closed) {
      return Effect.void
    }
    this.#closed = true
    return Effect.ignore(this.#waited({ _tag: "Close" }, (error) => error, {}))
  })

  /** To be run at once. */
  asked<E>(
    request: Request,
    fail: (error: DatabaseError) => E,
    about: About = request as About,
    refusal?: Refusal
  ): Effect.Effect<unknown, E> {
    if (
      !this.#options.link.immediate || !this.#turn.isFree || request._tag === "Backup" || Loop.standsStill()
    ) {
      return this.#waited(request, fail, about, refusal)
    }
    const refused = refusal?.()
    if (refused !== undefined) {
      return Exit.fail(fail(refused))
    }
    const known = this.#known(request)
    if (known !== undefined) {
      return Exit.mapError(known, fail)
    }
    const question = this.#question(request)
    const before = this.#inTransaction
    let exit: Effect.Effect<unknown, E> | undefined
    this.#options.link.send(question, this.#limit(request), (outcome) => {
      const error = this.#note(question, about, outcome)
      exit = error === undefined
        ? Exit.succeed(outcome._tag === "Answered" ? outcome.reply.value : undefined)
        : this.#canPass(question, before, error)
        ? undefined
        : Exit.fail(fail(this.#given(question, error, true)))
    })
    return exit ?? this.#waited(request, fail, about, refusal)
  }

  /** Waits for its turn, for the answer, and for others' locks. */
  #waited<E>(
    request: Request,
    fail: (error: DatabaseError) => E,
    about: About,
    refusal?: Refusal
  ): Effect.Effect<unknown, E> {
    return stoppable<unknown, E>((resume) => {
      const refused = refusal?.()
      if (refused !== undefined) {
        return resume(Exit.fail(fail(refused)))
      }
      const { link, limits, openTimeout } = this.#options
      let sent: Sent | undefined
      let pausing: NodeJS.Timeout | undefined
      let deadline = Number.POSITIVE_INFINITY
      let done = false
      let abandoned = false
      let stopped: (() => void) | undefined

      const end = (exit: Exit.Exit<unknown, E>) => {
        done = true
        // Who is answered at once in the next turn goes on after this one.
        resume(exit)
        this.#turn.leave(ticket)
        stopped?.()
      }
      const attempt = (pause: number) => {
        const known = request._tag === "Close" ? undefined : this.#known(request)
        if (known !== undefined) {
          return end(Exit.mapError(known, fail))
        }
        const question = this.#question(request)
        const before = this.#inTransaction
        let answered = false
        const way = link.send(question, this.#limit(request), (outcome) => {
          answered = true
          sent = undefined
          const error = this.#note(question, about, outcome)
          if (error === undefined) {
            return end(Exit.succeed(outcome._tag === "Answered" ? outcome.reply.value : undefined))
          }
          const left = deadline - performance.now()
          if (!abandoned && left > 0 && this.#canPass(question, before, error)) {
            pausing = setTimeout(
              () => attempt(Math.min(pause * 2, longestPause)),
              Math.min(pause * (1 + Math.random()) / 2, left)
            )
          } else {
            const told = outcome._tag === "Unsent" ? error : this.#given(question, error, !abandoned)
            end(Exit.fail(fail(told)))
          }
        })
        if (!answered) {
          sent = way
        }
      }
      const ticket: Ticket = {
        shares: this.#shares(request),
        go: () => {
          const patience = millisOf(
            request._tag === "Open" ? openTimeout : this.begun?.lockTimeout ?? limits.lockTimeout ?? defaultLockTimeout
          )
          if (patience !== undefined) {
            deadline = performance.now() + patience
          }
          if (link.immediate && Loop.standsStill()) {
            Loop.afterTurn(() => {
              if (!abandoned) {
                attempt(firstPause)
              }
            })
          } else {
            attempt(firstPause)
          }
        }
      }
      this.#turn.enter(ticket)
      return Effect.async<void>((resume) => {
        abandoned = true
        if (!done && sent === undefined) {
          if (pausing !== undefined) {
            this.#waitedInVain(request)
          }
          clearTimeout(pausing)
          this.#turn.leave(ticket)
        }
        if (done || sent === undefined || sent.stop()) {
          resume(Effect.void)
        } else {
          stopped = () => resume(Effect.void)
        }
      })
    })
  }

  /**
   * Whether it may be on its way together with others of its kind: they are answered in order. Only where a transaction
   * has locked what it needs: elsewhere some may find the file busy, and would be tried again after those behind them.
   */
  #shares(request: Request): boolean {
    return request._tag === "Run" && this.begun !== undefined && !this.#unsent && this.#limit(request) === undefined &&
      isPlain(request.sql)
  }

  #limit(request: Request): number | undefined {
    return isRun(request) ? millisOf(this.begun?.statementTimeout ?? this.#options.limits.statementTimeout) : undefined
  }

  #question(request: Request): Question {
    const { extensions } = this.#options
    const begins = this.#unsent && (request._tag === "Run" || request._tag === "Fetch")
    return {
      request,
      begin: begins ? { readOnly: this.begun?.readOnly === true, extensions } : undefined,
      within: this.begun !== undefined && !this.#unsent && (isRun(request) || request._tag === "Commit"),
      failed: this.#failed
    }
  }

  /** What need not be asked. */
  #known(request: Request): Exit.Exit<void, DatabaseError> | undefined {
    const none = this.begun === undefined && !this.#inTransaction
    if (this.#closed || none) {
      return request._tag === "Rollback"
        ? Exit.void
        : this.#closed
        ? Exit.fail(closedError(this.#options.description))
        : undefined
    }
    if (this.#refused !== undefined && (isRun(request) || request._tag === "Commit")) {
      return Exit.fail(this.#refused)
    }
    if ((this.#unsent || this.#refused !== undefined) && (request._tag === "Commit" || request._tag === "Rollback")) {
      this.#forget()
      return Exit.void
    }
    return undefined
  }

  #forget(): void {
    this.begun = undefined
    this.#unsent = false
    this.#refused = undefined
  }

  /** Notes where a question left the connection, and gives what it failed with. */
  #note({ begin, request }: Question, about: About, outcome: Outcome): DatabaseError | undefined {
    if (outcome._tag === "Lost") {
      const phase = outcome.committing ? "commit" : request._tag === "Open" ? "connect" : "statement"
      const error = lostError(this.#options.description, phase, outcome.reason, about)
      this.#lose(error)
      return outcome.timedOut ? timeoutError(about) : error
    }
    if (outcome._tag === "Unsent") {
      return unsentError(about)
    }
    const { begun, dirty, failed, failure, inTransaction } = outcome.reply
    this.#inTransaction = inTransaction
    // What was on its way when another one gave up waiting has no part in that.
    this.#failed = failed || (this.#failed && inTransaction && !(failure === undefined && isUndo(request)))
    this.#dirty = dirty
    if (begin !== undefined && begun) {
      this.#unsent = false
    }
    if (!inTransaction && isEnd(request)) {
      this.#forget()
    }
    if (failure === undefined) {
      return undefined
    }
    if (failure.code === over) {
      return abortedError(failure.message, about)
    }
    if (outcome.timedOut && failure.code === "SQLITE_INTERRUPT") {
      return timeoutError(about)
    }
    const { description } = this.#options
    const error = fromSqlite(failure, {
      phase: phaseOf(request),
      description,
      statement: about.sql,
      params: about.params
    })
    if (error._tag === "ConnectionLost" || error._tag === "CommitOutcomeUnknown") {
      this.#lose(error)
    }
    return error
  }

  /**
   * A failure that is final. What could not begin is not begun by a later statement, which would not know of it; unless
   * nobody was told.
   */
  #given({ begin, request }: Question, error: DatabaseError, told: boolean): DatabaseError {
    if (begin === undefined || !this.#unsent) {
      if (isBusy(error.code)) {
        this.#waitedInVain(request)
      }
    } else if (told) {
      this.#unsent = false
      this.#refused = error
    }
    return error
  }

  /** Of a transaction that has begun that is a failure, which its engine cannot tell from one that is tried again. */
  #waitedInVain(request: Request): void {
    this.#failed ||= this.#inTransaction && this.begun !== undefined && isRun(request)
  }

  /** Whether it failed for another's lock, and nothing that it has done or read stands in the way of trying again. */
  #canPass({ begin, request }: Question, before: boolean, error: DatabaseError): boolean {
    const expected = before || (begin !== undefined && !this.#unsent)
    return !this.#closed && this.#inTransaction === expected && request._tag !== "FetchNext" &&
      isBusy(error.code) && (error._tag === "LockTimeout" || !this.#inTransaction)
  }

  #lose(error: DatabaseError): void {
    if (!this.#closed) {
      this.#closed = true
      this.#options.link.destroy()
      if (this.#opened) {
        this.#options.onLost(error)
      }
    }
  }
}
