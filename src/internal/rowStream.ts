/**
 * The rows of a cursor as a stream.
 */
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Pull } from "./driver.js"

type TransformRows = Parameters<SqlConnection.Connection["execute"]>[2]

export const rowStream = (
  cursor: Effect.Effect<Pull, never, Scope.Scope>,
  transformRows: TransformRows
): Stream.Stream<object, SqlError> =>
  Stream.fromPull(
    Effect.map(cursor, (pull) =>
      Effect.map(pull, (rows) =>
        Chunk.unsafeFromArray(transformRows === undefined ? rows : transformRows(rows))))
  )
