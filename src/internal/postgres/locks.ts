/**
 * The locks that a statement takes on tables: https://www.postgresql.org/docs/current/explicit-locking.html
 */

const name = String.raw`((?:"(?:[^"]|"")*"|[\w$\u0080-\uffff]+)(?:\s*\.\s*(?:"(?:[^"]|"")*"|[\w$\u0080-\uffff]+))?)`
const ifExists = String.raw`(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:ONLY\s+)?`

const pattern = (text: string): RegExp => new RegExp(`^${text.replaceAll(" ", String.raw`\s+`)}`, "i")

const accessExclusive = "ACCESS EXCLUSIVE, which waits for every other use and blocks it"
const exclusive = "EXCLUSIVE, which blocks writes"
const share = "SHARE, which blocks writes"
const shareRowExclusive = "SHARE ROW EXCLUSIVE, which blocks writes"
const shareUpdateExclusive = "SHARE UPDATE EXCLUSIVE, which blocks other changes of the table, but not reads and writes"
const rowExclusive = "ROW EXCLUSIVE, which blocks changes of the table, but not reads and writes"

/** The first group is the name of the table. The first that matches applies. */
const rules: ReadonlyArray<readonly [RegExp, string]> = [
  [
    pattern(
      `ALTER TABLE ${ifExists}${name}\\s+(?:VALIDATE CONSTRAINT|ATTACH PARTITION|CLUSTER ON|SET WITHOUT CLUSTER|ALTER (?:COLUMN )?\\S+ SET STATISTICS)`
    ),
    shareUpdateExclusive
  ],
  [pattern(`ALTER TABLE ${ifExists}${name}\\s+ADD (?:CONSTRAINT \\S+ )?FOREIGN KEY`), shareRowExclusive],
  [pattern(`ALTER TABLE ${ifExists}${name}\\s+(?:ENABLE|DISABLE) (?:TRIGGER|REPLICA|ALWAYS)`), shareRowExclusive],
  [pattern(`(?:ALTER|DROP) (?:TABLE|MATERIALIZED VIEW|VIEW|SEQUENCE) ${ifExists}${name}`), accessExclusive],
  [pattern(`DROP INDEX CONCURRENTLY ${ifExists}${name}`), shareUpdateExclusive],
  [pattern(`DROP INDEX ${ifExists}${name}`), accessExclusive],
  [pattern(`CREATE (?:UNIQUE )?INDEX CONCURRENTLY [^(]*?\\bON (?:ONLY )?${name}`), shareUpdateExclusive],
  [pattern(`CREATE (?:UNIQUE )?INDEX [^(]*?\\bON (?:ONLY )?${name}`), share],
  [pattern(`CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER [^;]*?\\bON ${name}`), shareRowExclusive],
  [pattern(`TRUNCATE (?:TABLE )?(?:ONLY )?${name}`), accessExclusive],
  [pattern(`REFRESH MATERIALIZED VIEW CONCURRENTLY ${name}`), exclusive],
  [pattern(`REFRESH MATERIALIZED VIEW ${name}`), accessExclusive],
  [pattern(`(?:CLUSTER|VACUUM FULL|VACUUM \\([^)]*\\bFULL\\b[^)]*\\)) ${name}`), accessExclusive],
  [pattern(`(?:VACUUM|ANALYZE) (?:\\([^)]*\\) |ANALYZE )?${name}`), shareUpdateExclusive],
  [pattern(`REINDEX (?:\\([^)]*\\) )?(?:TABLE|INDEX) CONCURRENTLY ${name}`), shareUpdateExclusive],
  [pattern(`REINDEX (?:\\([^)]*\\) )?(?:TABLE|INDEX) ${name}`), accessExclusive],
  [pattern(`(?:INSERT INTO|DELETE FROM|MERGE INTO|COPY) (?:ONLY )?${name}`), rowExclusive],
  [pattern(`UPDATE (?:ONLY )?${name}`), rowExclusive]
]

const lock = pattern(`LOCK (?:TABLE )?(?:ONLY )?${name}(?:\\s+IN ([A-Z ]+?) MODE)?`)

/** The lock of a statement, and its table; undefined if it locks no table that exists, or is not known. */
export const locksOf = (statement: string): string | undefined => {
  const text = statement.replace(/^(?:\s|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/)*/, "")
  const [, locked, mode = "ACCESS EXCLUSIVE"] = lock.exec(text) ?? []
  if (locked !== undefined) {
    return `${locked}: ${mode.toUpperCase()}`
  }
  for (const [pattern, mode] of rules) {
    const table = pattern.exec(text)?.[1]
    if (table !== undefined) {
      return `${table}: ${mode}`
    }
  }
  return undefined
}
