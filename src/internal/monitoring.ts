/**
 * What a dialect reports of a running database to the dashboard. It is asked for only while the dashboard is looked at.
 */
import type * as Effect from "effect/Effect"
import type { DatabaseError } from "../DatabaseError.js"
import type { Connection } from "./driver.js"

/** What the backend of a connection waits for on its server. */
export interface BackendWait {
  /** The connection's id. */
  readonly connection: number
  /** The server's name of the event that is waited for. */
  readonly event: string
  /** Undefined if it is no lock. */
  readonly lock: LockWait | undefined
}

/** A lock that is waited for. Durations are in seconds, and undefined where they are not known. */
export interface LockWait {
  /** The mode of the lock, and what is locked. */
  readonly name: string
  readonly seconds: number | undefined
  readonly holders: ReadonlyArray<LockHolder>
}

/** The holder of a lock that is waited for. */
export interface LockHolder {
  /** The id of its connection, which may be another program's. Undefined for a prepared transaction. */
  readonly connection: number | undefined
  /** How long its transaction has been open, in seconds. */
  readonly seconds: number | undefined
  readonly application: string | undefined
  readonly user: string | undefined
  /** Its state, in the words of the server. */
  readonly state: string | undefined
}

/** What a column contains. `connection` is a connection's id. */
export type Unit = "text" | "count" | "bytes" | "seconds" | "share" | "connection"

/** Undefined and null stand for a value that is not known. */
export type Cell = string | number | null | undefined

/** A table of the dashboard. */
export interface Section {
  readonly id: string
  readonly title: string
  readonly columns: ReadonlyArray<readonly [name: string, unit: Unit]>
  /** What is shown if there are no rows. */
  readonly none: string
  /** Runs in a read-only transaction of its own, which is rolled back. */
  readonly read: (connection: Connection) => Effect.Effect<SectionRows, DatabaseError>
}

export interface SectionRows {
  readonly rows: ReadonlyArray<ReadonlyArray<Cell>>
  /** What this user has no permission to see, and what would grant it. */
  readonly missing?: string | undefined
}

export interface Monitoring {
  /** Undefined if the connections have no backends that wait. */
  readonly waits?:
    | ((connection: Connection, ids: ReadonlyArray<number>) => Effect.Effect<ReadonlyArray<BackendWait>, DatabaseError>)
    | undefined
  readonly sections: ReadonlyArray<Section>
  /**
   * The lines of a statement's plan, made without values: the statement is not executed. The caller has begun a read-only
   * transaction, and rolls it back. Fails with InvalidStatement where there are no such plans, and for a text that is not
   * one statement which can have one.
   */
  readonly explain: (connection: Connection, statement: string) => Effect.Effect<ReadonlyArray<string>, DatabaseError>
}
