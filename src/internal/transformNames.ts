/**
 * Transforms the names of columns in rows, and the keys of the JSON values in them. This does the same as @effect/sql's
 * `defaultTransforms`, except for arrays of which not all elements are objects: here all objects in them are
 * transformed. In @effect/sql the first element decides for all, and a null as the first one throws.
 */

type Transform = (name: string) => string

type Keyed = Record<string, unknown>

const isPlainObject = (value: unknown): value is Keyed => {
  if (typeof value !== "object" || value === null) {
    return false
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const isObject = (value: unknown): boolean => typeof value === "object" && value !== null

const transformKeys = (object: Keyed, transform: Transform, transformed: (value: unknown) => unknown): Keyed => {
  const result: Keyed = {}
  for (const key in object) {
    const name = transform(key)
    const value = transformed(object[key])
    if (name === "__proto__") {
      // Assigned, it would not be a property.
      Object.defineProperty(result, name, { value, configurable: true, enumerable: true, writable: true })
    } else {
      result[name] = value
    }
  }
  return result
}

/** Transforms the keys of all objects in a JSON value. */
export const makeTransformValue = (transform: Transform): (value: unknown) => unknown => {
  const transformValue = (value: unknown): unknown => {
    if (Array.isArray(value)) {
      return value.some(isObject) ? value.map(transformValue) : value
    }
    return isPlainObject(value) ? transformKeys(value, transform, transformValue) : value
  }
  return transformValue
}

/** Transforms the names of columns, and the keys of JSON values if `isNested`. Several results are arrays of rows. */
export const makeTransformRows = (
  transform: Transform,
  isNested: boolean
): <A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A> => {
  const transformValue = isNested ? makeTransformValue(transform) : (value: unknown) => value
  const transformRows = <A extends object>(rows: ReadonlyArray<A>): ReadonlyArray<A> =>
    rows.map((row) =>
      (Array.isArray(row) ? transformRows(row) : transformKeys(row as Keyed, transform, transformValue)) as A
    )
  return transformRows
}
