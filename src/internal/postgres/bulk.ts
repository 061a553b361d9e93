/**
 * Compiles an INSERT of many rows to `INSERT … SELECT * FROM unnest($1, …)` with one array parameter per column, instead of
 * `VALUES` with one parameter per value. The server parses far less, and the protocol's limit of 65,535 parameters does not
 * apply. The effect is the same.
 *
 * The type of an array must be given. It is derived from the parameter types of the same INSERT with a single row, which
 * the server describes.
 */
import * as Statement from "@effect/sql/Statement"
import { identity } from "effect/Function"

/** With fewer rows than this, the additional round trip costs more than it saves. */
const minRows = 500

/** Describes compiled parameters that contain an array for each column of an INSERT. */
export interface Insert {
  /** The text of the INSERT with a single row, one parameter per column. */
  readonly singleRow: string
  /** The index of the first array among the parameters; the others follow it. */
  readonly firstParameter: number
  readonly columnCount: number
  /** For each column, whether one of its values is binary. */
  readonly holdsBytes: ReadonlyArray<boolean>
  /** Compiles the statement with one parameter per value. */
  readonly byValue: () => readonly [sql: string, params: ReadonlyArray<unknown>]
}

/** By the parameters that the compiler returned, which reach the connection unchanged. */
const inserts = new WeakMap<ReadonlyArray<unknown>, Insert>()

/** Undefined unless the compiler made these parameters for an INSERT of many rows. */
export const insertOf = (params: ReadonlyArray<unknown>): Insert | undefined => inserts.get(params)

const bytea = 17

/** The array type of each built-in element type. A column of any other type is sent by value. */
const arrayTypes: ReadonlyMap<number, number> = new Map([
  [16, 1000], // bool
  [bytea, 1001],
  [20, 1016], // int8
  [21, 1005], // int2
  [23, 1007], // int4
  [25, 1009], // text
  [114, 199], // json
  [700, 1021], // float4
  [701, 1022], // float8
  [869, 1041], // inet
  [1042, 1014], // bpchar
  [1043, 1015], // varchar
  [1082, 1182], // date
  [1083, 1183], // time
  [1114, 1115], // timestamp
  [1184, 1185], // timestamptz
  [1186, 1187], // interval
  [1700, 1231], // numeric
  [2950, 2951], // uuid
  [3802, 3807] // jsonb
])

/**
 * The types of all parameters, zero for those that the server infers; undefined if a column has no array type. `elements`
 * are the parameter types of the INSERT with a single row.
 */
export const arrayTypesOf = (
  { columnCount, firstParameter, holdsBytes }: Insert,
  elements: ReadonlyArray<number>
): ReadonlyArray<number> | undefined => {
  const types = elements.map((element, i) => {
    if (i < firstParameter || i >= firstParameter + columnCount) {
      return 0
    }
    // A buffer as a parameter of its own is the value's binary format, of any type. Within an array it is a bytea.
    return holdsBytes[i - firstParameter] && element !== bytea ? undefined : arrayTypes.get(element)
  })
  return types.every((type) => type !== undefined) ? types : undefined
}

/** Whether a value is encoded in an array as it would be as a parameter of its own. */
const isSimple = (value: unknown): boolean =>
  typeof value !== "object" || value === null ||
  (!Array.isArray(value) && !Statement.isFragment(value) && !("toPostgres" in value))

interface RowsSegment extends Statement.RecordInsertHelper {
  readonly returningIdentifier: string | Statement.Fragment | undefined
}

const hasManyRows = (segment: Statement.Segment): segment is RowsSegment =>
  segment._tag === "RecordInsertHelper" && segment.value.length >= minRows

const literal = (value: string): Statement.Segment => ({ _tag: "Literal", value })

const identifier = (value: string): Statement.Segment => ({ _tag: "Identifier", value })

const parameter = (value: unknown): Statement.Segment => ({ _tag: "Parameter", value })

const returning = ({ returningIdentifier }: RowsSegment): ReadonlyArray<Statement.Segment> => {
  if (returningIdentifier === undefined) {
    return []
  }
  return typeof returningIdentifier === "string"
    ? [literal(` RETURNING ${returningIdentifier}`)]
    : [literal(" RETURNING "), ...returningIdentifier.segments]
}

const separated = (segments: ReadonlyArray<Statement.Segment>): ReadonlyArray<Statement.Segment> =>
  segments.flatMap((segment, i) => i === 0 ? [segment] : [literal(","), segment])

const fragment = (segments: ReadonlyArray<Statement.Segment>): Statement.Fragment => ({
  [Statement.FragmentId]: identity,
  segments
})

/** Compiles an INSERT of many rows with arrays, and everything else with the compiler that is given. */
export const makeCompiler = (base: Statement.Compiler): Statement.Compiler => {
  const compiler: Statement.Compiler = {
    dialect: base.dialect,
    compile: (statement, withoutTransform) => {
      const { segments } = statement
      const index = segments.findIndex(hasManyRows)
      const rows = segments[index] as RowsSegment | undefined
      const names = rows === undefined ? [] : Object.keys(rows.value[0])
      if (
        rows === undefined || names.length === 0 || segments.some((other, i) => i > index && hasManyRows(other)) ||
        !rows.value.every((row) => names.every((name) => isSimple(row[name])))
      ) {
        return base.compile(statement, withoutTransform)
      }
      const compileWith = (replacement: ReadonlyArray<Statement.Segment>) =>
        base.compile(
          fragment([...segments.slice(0, index), ...replacement, ...segments.slice(index + 1)]),
          withoutTransform
        )
      const columns = names.map((name) => rows.value.map((row) => row[name]))
      const [sql, params] = compileWith([
        literal("("),
        ...separated(names.map(identifier)),
        literal(") SELECT * FROM unnest("),
        ...separated(columns.map(parameter)),
        literal(")"),
        ...returning(rows)
      ])
      const firstRow: RowsSegment = { ...rows, value: rows.value.slice(0, 1) }
      const [singleRow] = compileWith([firstRow])
      inserts.set(params, {
        singleRow,
        firstParameter: params.indexOf(columns[0]),
        columnCount: columns.length,
        holdsBytes: columns.map((column) => column.some((value) => ArrayBuffer.isView(value))),
        byValue: () => base.compile(statement, withoutTransform)
      })
      return [sql, params]
    },
    get withoutTransform() {
      return makeCompiler(base.withoutTransform)
    }
  }
  return compiler
}
