/**
 * What a session itself can fail with.
 */
import * as Duration from "effect/Duration"
import type * as FiberId from "effect/FiberId"
import type { DatabaseError, Dialect } from "../../DatabaseError.js"
import type { Isolation, Options } from "../../Session.js"
import { make } from "../makeError.js"
import { fiberName } from "../pool/leakDetection.js"
import { called, unnamed } from "./log.js"
import type { Transaction } from "./transaction.js"

/** Every error that a session itself fails with goes through this, so that `withTransaction` can promise SqlError. */
export type Fail<E> = (error: DatabaseError) => E

export const lostBeforeCommit = (unit: Transaction, dialect: Dialect): DatabaseError =>
  make("ConnectionLost", {
    dialect,
    code: "08006",
    reason: `the connection of ${called(unit.name)} (${unit.id}) was lost before it had committed: ` +
      "the server says that it was rolled back"
  })

export const unfinished = (unit: Transaction, dialect: Dialect): DatabaseError => {
  const around = `${called(unit.name)} (${unit.id})`
  return make("TransactionAborted", {
    dialect,
    code: "25P02",
    reason: `a session nested in ${around} was still running when that ended, so it was rolled back`
  })
}

export const timedOut = (options: Options, dialect: Dialect): DatabaseError =>
  make("SessionTimeout", {
    dialect,
    code: "57014",
    reason: `${called(options.name ?? unnamed)} took longer than ${Duration.format(options.timeout ?? 0)}`
  })

export const tooStrong = (asked: Isolation, around: Isolation, dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "25001",
    reason: `a session within one that is "${around}" cannot be "${asked}": ` +
      `ask for it in the outermost session, or use propagation "new"`
  })

export const waitsForItself = (unit: Transaction, fiber: FiberId.FiberId): DatabaseError =>
  make("InvalidStatement", {
    dialect: unit.dialect,
    code: "25001",
    reason: `${fiberName(fiber)} holds a session that it acquired in ${called(unit.name)} (${unit.id}) ` +
      "and would wait for ever: do this with its run, or end it first"
  })

export const notAgain = (dialect: Dialect): DatabaseError =>
  make("InvalidStatement", {
    dialect,
    code: "0A000",
    reason: "the session's option retry: a session that is acquired cannot be run again, only an effect can"
  })

export const reservedClosed = (dialect: Dialect): DatabaseError =>
  make("SessionClosed", {
    dialect,
    code: "08003",
    reason: "the scope that reserved the connection is closed"
  })
