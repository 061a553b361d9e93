/**
 * An INSERT of many rows: one array a column in place of a parameter a value, which the server would have to parse one by
 * one, and of which the protocol cannot count more than 65,535. The statement is the same, and so is what it does; only
 * its text says `SELECT * FROM unnest($1, …)` in place of `VALUES`.
 *
 * An array needs its type. The server says it of the statement for a single row.
 */
import * as Statement from "@effect/sql/Statement"
import { identity } from "effect/Function"

/** From this many rows on it pays. */
const fewestRows = 500

/** What the parameters of a compiled statement stand for, if they hold arrays of a column each. */
export interface Plan {
  /** The statement for one row. */
  readonly single: string
  /** Where the columns stand among the parameters. */
  readonly first: number
  readonly count: number
  /** Which of them hold bytes. */
  readonly bytes: ReadonlyArray<boolean>
  /** The statement and its parameters in the usual way. */
  readonly byValue: () => readonly [sql: string, params: ReadonlyArray<unknown>]
}

const plans = new WeakMap<ReadonlyArray<unknown>, Plan>()

/** How parameters were planned that this compiler made. */
export const planOf = (params: ReadonlyArray<unknown>): Plan | undefined => plans.get(params)

const bytea = 17

/** Array types by the types of their elements: those that come with every server. An array of others goes by value. */
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

/** The types to send the parameters with, zero where the server finds them; undefined where a column has none. */
export const typesOf = (
  { bytes, count, first }: Plan,
  elements: ReadonlyArray<number>
): ReadonlyArray<number> | undefined => {
  const types = elements.map((element, i) => {
    if (i < first || i >= first + count) {
      return 0
    }
    // Elsewhere than in an array, bytes are the value itself in binary, of whatever type.
    return bytes[i - first] && element !== bytea ? undefined : arrayTypes.get(element)
  })
  return types.every((type) => type !== undefined) ? types : undefined
}

/** What an array says as a parameter of its own would. */
const isSimple = (value: unknown): boolean =>
  typeof value !== "object" || value === null ||
  (!Array.isArray(value) && !Statement.isFragment(value) && !("toPostgres" in value))

interface Rows extends Statement.RecordInsertHelper {
  readonly returningIdentifier: string | Statement.Fragment | undefined
}

const isMany = (segment: Statement.Segment): segment is Rows =>
  segment._tag === "RecordInsertHelper" && segment.value.length >= fewestRows

const literal = (value: string): Statement.Segment => ({ _tag: "Literal", value })

const identifier = (value: string): Statement.Segment => ({ _tag: "Identifier", value })

const parameter = (value: unknown): Statement.Segment => ({ _tag: "Parameter", value })

const returning = ({ returningIdentifier }: Rows): ReadonlyArray<Statement.Segment> => {
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

/** As the compiler given, but for an INSERT of many rows. */
export const makeCompiler = (usual: Statement.Compiler): Statement.Compiler => {
  const compiler: Statement.Compiler = {
    dialect: usual.dialect,
    compile: (statement, withoutTransform) => {
      const { segments } = statement
      const at = segments.findIndex(isMany)
      const rows = segments[at] as Rows | undefined
      const names = rows === undefined ? [] : Object.keys(rows.value[0])
      if (
        rows === undefined || names.length === 0 || segments.some((other, i) => i > at && isMany(other)) ||
        !rows.value.every((row) => names.every((name) => isSimple(row[name])))
      ) {
        return usual.compile(statement, withoutTransform)
      }
      const around = (between: ReadonlyArray<Statement.Segment>) =>
        usual.compile(fragment([...segments.slice(0, at), ...between, ...segments.slice(at + 1)]), withoutTransform)
      const columns = names.map((name) => rows.value.map((row) => row[name]))
      const [sql, params] = around([
        literal("("),
        ...separated(names.map(identifier)),
        literal(") SELECT * FROM unnest("),
        ...separated(columns.map(parameter)),
        literal(")"),
        ...returning(rows)
      ])
      const single: Rows = { ...rows, value: rows.value.slice(0, 1) }
      const [text] = around([single])
      plans.set(params, {
        single: text,
        first: params.indexOf(columns[0]),
        count: columns.length,
        bytes: columns.map((column) => column.some((value) => ArrayBuffer.isView(value))),
        byValue: () => usual.compile(statement, withoutTransform)
      })
      return [sql, params]
    },
    get withoutTransform() {
      return makeCompiler(usual.withoutTransform)
    }
  }
  return compiler
}
