/**
 * Compiles an INSERT of many rows to `INSERT … SELECT … FROM unnest($1, …)` with one array parameter per column, instead of
 * `VALUES` with one parameter per value. The server parses far less, and the protocol's limit of 65,535 parameters does not
 * apply. The effect is the same.
 *
 * The type of an array must be given. It is derived from the parameter types of the same INSERT with a single row, which
 * the server describes. Where a type is not one of PostgreSQL's own, or is an array itself, the values are sent as an array
 * of texts, and cast.
 *
 * The rows of `sql.updateValues` are compiled likewise. There the server infers no types and takes every value for
 * text, which cannot be compared with a number. So numbers and booleans are cast to their types.
 */
import * as Statement from "@effect/sql/Statement"
import { identity } from "effect/Function"
import { Pg } from "./protocol/pg.js"
import { formatArray, formatElement } from "./types/array.js"
import { builtinTypes } from "./types/builtin.js"
import { encode, encodeElement, toText } from "./types/encode.js"
import type { TypeRegistry } from "./types/registry.js"

/** With fewer rows than this, the additional round trip costs more than it saves. */
const minRows = 500
/** The protocol counts parameters with 16 bits. The rest of the statement may have some, too. */
const maxValues = 65_000

/** A column of the rows. */
interface Column {
  readonly values: ReadonlyArray<unknown>
  /** Whether one of its values is binary. */
  readonly holdsBytes: boolean
  /** Whether one of its values is an array or has `toPostgres`, so that each value is encoded before the array is. */
  readonly isConverted: boolean
}

type Compiled = readonly [sql: string, params: ReadonlyArray<unknown>]

/** Describes compiled parameters that contain an array for each column of an INSERT. */
export interface Insert {
  /** The text of the INSERT with a single row, one parameter per column. */
  readonly singleRow: string
  /** The index of the first array among the parameters; the others follow it. */
  readonly firstParameter: number
  readonly columns: ReadonlyArray<Column>
  /** Compiles the statement with a cast for each column that has one. */
  readonly withCasts: (casts: ReadonlyArray<string | undefined>) => Compiled
  /** Compiles the statement with one parameter per value. */
  readonly byValue: () => Compiled
}

/** The keys are the parameters that the compiler returned: they reach the connection unchanged. */
const inserts = new WeakMap<ReadonlyArray<unknown>, Insert>()

/** Undefined unless the compiler made these parameters for an INSERT of many rows. */
export const insertOf = (params: ReadonlyArray<unknown>): Insert | undefined => inserts.get(params)

const bytea = 17
const textArray = 1009

/** How the arrays of an INSERT are sent. */
export interface ArrayPlan {
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  /** The types of all parameters, zero for those that the server infers. */
  readonly types: ReadonlyArray<number>
  /** The types by which parameters are encoded, zero for those that are encoded already. */
  readonly encodedTypes: ReadonlyArray<number>
}

/** A type's name in SQL. Undefined if it is not known. */
const castOf = (registry: TypeRegistry, oid: number): string | undefined => {
  const entry = registry.entryOf(oid)
  if (entry === undefined || entry.name === "") {
    return undefined
  }
  if (entry.element === undefined) {
    return `${Pg.escapeIdentifier(entry.schema)}.${Pg.escapeIdentifier(entry.name)}`
  }
  const element = castOf(registry, entry.element)
  return element === undefined ? undefined : `${element}[]`
}

/**
 * The type of the arrays of a type. Undefined if values are sent as texts instead: there are no arrays of arrays, `unnest`
 * expands composite types, and in the text of some arrays no comma separates the elements.
 */
const arrayTypeOf = (element: number): number | undefined => {
  const array = builtinTypes().get(element)?.array
  return array !== undefined && builtinTypes().get(array)?.delimiter === "," ? array : undefined
}

/**
 * The type that texts are cast to. A domain gets values of its base type: an explicit cast to a domain of varchar(3) would
 * truncate, where an assignment to the column fails.
 */
const castTypeOf = (registry: TypeRegistry, oid: number): number => {
  const base = registry.entryOf(oid)?.base
  return base === undefined ? oid : castTypeOf(registry, base)
}

/**
 * How to send the arrays; undefined if a column has to be sent by value. `elements` are the parameter types of the INSERT
 * with a single row, which must be known. Throws what cannot be encoded.
 */
export const planOf = (
  insert: Insert,
  compiled: Compiled,
  elements: ReadonlyArray<number>,
  registry: TypeRegistry
): ArrayPlan | undefined => {
  const { columns, firstParameter } = insert
  const types = elements.map(() => 0)
  const encodedTypes = [...elements]
  const arrays: Array<unknown> = []
  const casts: Array<string | undefined> = []
  for (const [i, { holdsBytes, isConverted, values }] of columns.entries()) {
    const index = firstParameter + i
    const element = elements[index]
    // A buffer as a parameter of its own is the value's binary format, of any type. Within an array it is a bytea.
    if (holdsBytes && element !== bytea) {
      return undefined
    }
    const array = arrayTypeOf(element)
    const cast = array === undefined ? castOf(registry, castTypeOf(registry, element)) : undefined
    if (array === undefined && cast === undefined) {
      return undefined
    }
    types[index] = array ?? textArray
    casts.push(cast)
    if (isConverted || cast !== undefined || registry.encodesByType) {
      const toElement = registry.encodesByType
        ? (value: unknown) => registry.encodeText(element, value)
        : (value: unknown) => toText(encode(value))
      arrays.push(formatArray(values.map(toElement), ",", formatElement as (text: unknown) => string))
      encodedTypes[index] = 0
    } else {
      arrays.push(values)
      encodedTypes[index] = types[index]
    }
  }
  const [sql, params] = casts.every((cast) => cast === undefined) ? compiled : insert.withCasts(casts)
  return { sql, params: params.toSpliced(firstParameter, columns.length, ...arrays), types, encodedTypes }
}

interface RowsSegment extends Statement.RecordInsertHelper {
  readonly returningIdentifier: string | Statement.Fragment | undefined
}

interface UpdateSegment extends Statement.RecordUpdateHelper {
  readonly returningIdentifier: string | Statement.Fragment | undefined
}

/** Whether arrays are faster, or needed because there are too many values for parameters. */
const areMany = (rows: ReadonlyArray<Record<string, unknown>>): boolean =>
  rows.length >= minRows || rows.length * Object.keys(rows[0] ?? {}).length > maxValues

const hasManyRows = (segment: Statement.Segment): segment is RowsSegment =>
  segment._tag === "RecordInsertHelper" && areMany(segment.value)

const literal = (value: string): Statement.Segment => ({ _tag: "Literal", value })

const identifier = (value: string): Statement.Segment => ({ _tag: "Identifier", value })

const parameter = (value: unknown): Statement.Segment => ({ _tag: "Parameter", value })

const returning = (
  { returningIdentifier }: RowsSegment | UpdateSegment
): ReadonlyArray<Statement.Segment> => {
  if (returningIdentifier === undefined) {
    return []
  }
  return typeof returningIdentifier === "string"
    ? [literal(` RETURNING ${returningIdentifier}`)]
    : [literal(" RETURNING "), ...returningIdentifier.segments]
}

const joined = (groups: ReadonlyArray<ReadonlyArray<Statement.Segment>>): ReadonlyArray<Statement.Segment> =>
  groups.flatMap((group, i) => i === 0 ? group : [literal(",")].concat(group))

const separated = (segments: ReadonlyArray<Statement.Segment>): ReadonlyArray<Statement.Segment> =>
  joined(segments.map((segment) => [segment]))

const fragment = (segments: ReadonlyArray<Statement.Segment>): Statement.Fragment => ({
  [Statement.FragmentId]: identity,
  segments
})

/** The columns of the rows; undefined if a value is a fragment of SQL other than a single parameter. */
const columnsOf = (
  names: ReadonlyArray<string>,
  rows: ReadonlyArray<Readonly<Record<string, unknown>>>,
  compile: (fragment: Statement.Fragment) => Compiled
): ReadonlyArray<Column> | undefined => {
  const columns: Array<Column> = []
  for (const name of names) {
    const values: Array<unknown> = []
    let holdsBytes = false
    let isConverted = false
    for (const row of rows) {
      let value = row[name]
      if (typeof value === "object" && value !== null) {
        if (Statement.isFragment(value)) {
          const [sql, params] = compile(value)
          if (sql !== "$1" || params.length !== 1) {
            return undefined
          }
          value = params[0]
          isConverted = true
        }
        holdsBytes ||= ArrayBuffer.isView(value)
        isConverted ||= Array.isArray(value) || (typeof value === "object" && value !== null && "toPostgres" in value)
      }
      values.push(value)
    }
    columns.push({ values, holdsBytes, isConverted })
  }
  return columns
}

const maxInt4 = 0x7fff_ffff
const maxInt8 = 0x7fff_ffff_ffff_ffffn

/** The type that SQL gives to constants of these values; undefined if it takes them for texts. */
const constantType = (values: ReadonlyArray<unknown>): string | undefined => {
  let type: string | undefined = undefined
  const widen = (other: string): boolean => {
    type = type === undefined ? other : widened(type, other)
    return type !== undefined
  }
  for (const value of values) {
    if (value !== null && value !== undefined && !widen(typeOf(value) ?? "text")) {
      return undefined
    }
  }
  return type === "text" ? undefined : type
}

const typeOf = (value: unknown): string | undefined => {
  switch (typeof value) {
    case "boolean":
      return "boolean"
    case "bigint":
      return value <= maxInt8 && -value <= maxInt8 ? "int8" : "numeric"
    case "number":
      return !Number.isFinite(value)
        ? "float8"
        : !Number.isInteger(value) || Math.abs(value) > Number.MAX_SAFE_INTEGER
        ? "numeric"
        : Math.abs(value) <= maxInt4
        ? "int4"
        : "int8"
    default:
      return undefined
  }
}

const numberTypes = ["int4", "int8", "numeric", "float8"]

const widened = (one: string, other: string): string | undefined =>
  one === other
    ? one
    : numberTypes.includes(one) && numberTypes.includes(other)
    ? numberTypes[Math.max(numberTypes.indexOf(one), numberTypes.indexOf(other))]
    : undefined

/** An array for each column; undefined if a value cannot be encoded, or is binary. */
const textArrays = (columns: ReadonlyArray<Column>): ReadonlyArray<string> | undefined => {
  try {
    return columns.some(({ holdsBytes }) => holdsBytes)
      ? undefined
      : columns.map(({ values }) => formatArray(values, ",", encodeElement))
  } catch {
    return undefined
  }
}

/** The rows of `updateValues`, with casts for numbers and booleans; unchanged if there are none. */
const typedUpdate = (
  segment: UpdateSegment,
  compile: (fragment: Statement.Fragment) => Compiled
): ReadonlyArray<Statement.Segment> => {
  const names = Object.keys(segment.value[0])
  const columns = columnsOf(names, segment.value, compile)
  if (columns === undefined || names.length === 0) {
    return [segment]
  }
  const types = columns.map(({ values }) => constantType(values))
  const alias = [
    literal(` AS ${segment.alias}(`),
    ...separated(names.map(identifier)),
    literal(")"),
    ...returning(segment)
  ]
  const arrays = areMany(segment.value) ? textArrays(columns) : undefined
  if (arrays !== undefined) {
    const parameters = joined(arrays.map((array, i) => [parameter(array), literal(`::${types[i] ?? "text"}[]`)]))
    return [literal("(SELECT * FROM unnest("), ...parameters, literal("))"), ...alias]
  }
  if (types.every((type) => type === undefined)) {
    return [segment]
  }
  // The casts of the first row apply to all rows.
  const rows = joined(segment.value.map((_, row) => {
    const values = columns.map(({ values }, i) =>
      row === 0 && types[i] !== undefined
        ? [parameter(values[row]), literal(`::${types[i]}`)]
        : [parameter(values[row])]
    )
    return [literal("("), ...joined(values), literal(")")]
  }))
  return [literal("(values "), ...rows, literal(")"), ...alias]
}

const isUpdate = (segment: Statement.Segment): segment is UpdateSegment => segment._tag === "RecordUpdateHelper"

/** Compiles an INSERT or an update of rows with arrays or types, and everything else with the compiler that is given. */
export const makeCompiler = (base: Statement.Compiler): Statement.Compiler => {
  const compiler: Statement.Compiler = {
    dialect: base.dialect,
    compile: (statement, withoutTransform) => {
      const compileFragment = (part: Statement.Fragment) => base.compile(part, withoutTransform)
      const { segments } = statement
      const index = segments.findIndex(hasManyRows)
      if (index === -1) {
        return segments.some(isUpdate)
          ? compileFragment(
            fragment(
              segments.flatMap((segment) => isUpdate(segment) ? typedUpdate(segment, compileFragment) : [segment])
            )
          )
          : base.compile(statement, withoutTransform)
      }
      const rows = segments[index] as RowsSegment
      const names = Object.keys(rows.value[0])
      const columns = names.length === 0 || segments.some((other, i) => i > index && hasManyRows(other))
        ? undefined
        : columnsOf(names, rows.value, compileFragment)
      if (columns === undefined) {
        return base.compile(statement, withoutTransform)
      }
      const compileWith = (replacement: ReadonlyArray<Statement.Segment>) =>
        compileFragment(fragment([...segments.slice(0, index), ...replacement, ...segments.slice(index + 1)]))
      const compileArrays = (select: string, alias: string) =>
        compileWith([
          literal("("),
          ...separated(names.map(identifier)),
          literal(`) SELECT ${select} FROM unnest(`),
          ...separated(columns.map(({ values }) => parameter(values))),
          literal(`)${alias}`),
          ...returning(rows)
        ])
      const compiled = compileArrays("*", "")
      const firstRow: RowsSegment = { ...rows, value: rows.value.slice(0, 1) }
      const [singleRow] = compileWith([firstRow])
      inserts.set(compiled[1], {
        singleRow,
        firstParameter: compiled[1].indexOf(columns[0].values),
        columns,
        withCasts: (casts) => {
          const aliases = names.map((_, i) => `c${i}`)
          const select = aliases.map((name, i) => casts[i] === undefined ? name : `${name}::${casts[i]}`)
          return compileArrays(select.join(","), ` AS rows(${aliases.join(",")})`)
        },
        byValue: () => base.compile(statement, withoutTransform)
      })
      return compiled
    },
    get withoutTransform() {
      return makeCompiler(base.withoutTransform)
    }
  }
  return compiler
}
