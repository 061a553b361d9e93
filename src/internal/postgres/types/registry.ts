/**
 * The types of one database: PostgreSQL's built-in types, those that were looked up in its catalog, and how the
 * application has their values read and sent.
 */
import type { Type, Types } from "../../../DatabaseTypes.js"
import { RowDescriptions, type TypeParsers } from "../protocol/rowDescription.js"
import type { TypeParser } from "../protocol/valueReaders.js"
import type { Encoded } from "../protocol/writer.js"
import { formatArray, formatElement, parseArray } from "./array.js"
import { builtinTypes, isBuiltinName, nameOf, type TypeEntry } from "./builtin.js"
import { encode, encodeJson, toText } from "./encode.js"
import { hasPgParser, isParsedByElement, strictPgParserOf } from "./parsers.js"

const isJson = (oid: number): boolean => oid === 114 || oid === 3802

/** The parameter types of this many statements are cached. */
const maxStatements = 1_000

/** A row of `catalogSql`. */
export interface CatalogRow {
  readonly oid: number
  readonly name: string
  readonly schema: string
  readonly element: number | null
  readonly delimiter: string | null
  readonly base: number | null
}

/** Asks for types, the elements of arrays and the base types of domains, in one round trip. */
export const catalogSql = (oids: ReadonlyArray<number>): string =>
  `WITH RECURSIVE types AS (
  SELECT t.oid, t.typname, t.typnamespace, t.typbasetype, e.oid AS element, e.typname AS element_name, e.typdelim
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
   WHERE t.oid IN (${oids.join(", ")})
  UNION
  SELECT t.oid, t.typname, t.typnamespace, t.typbasetype, e.oid, e.typname, e.typdelim
    FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.element OR t.oid = s.typbasetype
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
)
SELECT t.oid, CASE WHEN t.element IS NULL THEN t.typname::text ELSE t.element_name || '[]' END AS name,
       n.nspname AS schema, t.element, t.typdelim AS delimiter, NULLIF(t.typbasetype, 0) AS base
  FROM types t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace`

/** The types of one database. */
export class TypeRegistry implements TypeParsers {
  readonly rowDescriptions = new RowDescriptions(this)
  /** Whether parameters are encoded by their type, which then has to be asked for. */
  readonly encodesByType: boolean
  /** The types that the application has configured, by name or OID. */
  private readonly custom: ReadonlyMap<string, Type>
  private readonly catalog = new Map<number, TypeEntry>()
  /** The types of a statement's parameters, by its text. */
  private readonly parameterTypes = new Map<string, ReadonlyArray<number>>()

  constructor(types: Types) {
    const entries = Object.entries(types)
    // As in SQL, a name that is not quoted may be written in any case. A quoted name has to be exact.
    this.custom = new Map([
      ...entries.map(([name, type]) => [nameOf(name.toLowerCase()), type] as const),
      ...entries.map(([name, type]) => [nameOf(name), type] as const)
    ])
    this.encodesByType = entries.some(([, { encode }]) => encode !== undefined)
  }

  parserOf(oid: number): TypeParser | undefined {
    const parse = this.customOf(oid)?.parse
    if (parse !== undefined) {
      return parse
    }
    const entry = this.entryOf(oid)
    if (entry === undefined) {
      return hasPgParser(oid) ? strictPgParserOf(oid) : undefined
    }
    const { base, delimiter, element } = entry
    if (element !== undefined) {
      const isDerived = !hasPgParser(oid) || isParsedByElement(oid) || this.customOf(element)?.parse !== undefined
      return isDerived ? this.arrayParser(element, delimiter) : strictPgParserOf(oid)
    }
    return base !== undefined && !hasPgParser(oid) ? this.parserOf(base) : strictPgParserOf(oid)
  }

  /** The types among these that the catalog has to be asked for. */
  unknownOf(oids: ReadonlyArray<number>): ReadonlyArray<number> {
    return oids.filter((oid) => this.entryOf(oid) === undefined && !hasPgParser(oid))
  }

  /** Stores the catalog's answer. A type that was asked for and is not in it was dropped: its values are text. */
  register(asked: ReadonlyArray<number>, rows: ReadonlyArray<CatalogRow>): void {
    for (const { base, delimiter, element, name, oid, schema } of rows) {
      this.catalog.set(oid, {
        name,
        schema,
        element: element ?? undefined,
        delimiter: delimiter ?? undefined,
        base: base ?? undefined
      })
    }
    for (const oid of asked) {
      if (!this.catalog.has(oid)) {
        this.catalog.set(oid, { name: "", schema: "" })
      }
    }
  }

  /** Forgets what a catalog has said, since after a connection was lost another server may be in its place. */
  clear(): void {
    this.catalog.clear()
    this.parameterTypes.clear()
    this.rowDescriptions.clear()
  }

  /** The types of a statement's parameters, if the server has been asked for them. */
  parameterTypesOf(statement: string): ReadonlyArray<number> | undefined {
    return this.parameterTypes.get(statement)
  }

  cacheParameterTypes(statement: string, oids: ReadonlyArray<number>): void {
    if (this.parameterTypes.size >= maxStatements) {
      this.parameterTypes.delete(this.parameterTypes.keys().next().value!)
    }
    this.parameterTypes.set(statement, oids)
  }

  /** To be called when a statement has failed: a type may have been altered. */
  invalidateParameterTypes(statement: string): void {
    this.parameterTypes.delete(statement)
  }

  /**
   * Encodes a value of a type, which must be known (`unknownOf`). Throws CannotBeEncoded, and whatever an encoder of the
   * application or the value's own methods throw.
   */
  encode(oid: number, value: unknown): Encoded {
    if (value === null || value === undefined) {
      return null
    }
    const custom = this.customOf(oid)?.encode
    if (custom !== undefined) {
      return encode(custom(value))
    }
    const entry = this.entryOf(oid)
    if (entry?.element !== undefined && Array.isArray(value)) {
      const { delimiter = ",", element } = entry
      return formatArray(value, delimiter, (inner) => formatElement(this.encodeText(element, inner)))
    }
    if (entry?.base !== undefined) {
      return this.encode(entry.base, value)
    }
    return isJson(oid) && Array.isArray(value) ? encodeJson(value) : encode(value)
  }

  /** The same as text, as in COPY; null for NULL. */
  encodeText(oid: number, value: unknown): string | null {
    return toText(this.encode(oid, value))
  }

  /** What is known of a type. */
  entryOf(oid: number): TypeEntry | undefined {
    return builtinTypes().get(oid) ?? this.catalog.get(oid)
  }

  private customOf(oid: number): Type | undefined {
    const { custom } = this
    if (custom.size === 0) {
      return undefined
    }
    const byOid = custom.get(String(oid))
    const entry = this.entryOf(oid)
    if (byOid !== undefined || entry === undefined) {
      return byOid
    }
    const { base, name, schema } = entry
    // The name of a built-in type means that type, even if a schema has another type of this name.
    const isHidden = isBuiltinName(name) && !builtinTypes().has(oid)
    return custom.get(`${schema}.${name}`) ?? (isHidden ? undefined : custom.get(name)) ??
      (base === undefined ? undefined : this.customOf(base))
  }

  private arrayParser(element: number, delimiter = ","): TypeParser {
    const parse = this.parserOf(element) ?? String
    return (text) => parseArray(text, delimiter, parse)
  }
}

/** The types of the driver's own statements, to which the application's configuration does not apply. */
export const ownTypes = new TypeRegistry({})
