/**
 * OpenTelemetry's `db.query.summary` of a statement: its operations and their tables, in the order of the text.
 *
 * Only known words, and names in the place of a table, get into a summary, never a literal. If the end of a string
 * cannot be determined, or a text is longer than `maxScanned`, the summary has what was found up to there.
 */

/** The summary of a text that contains one statement or a batch of statements. */
export interface QuerySummary {
  /** `SELECT account`, at most 255 characters. Empty if the statement is not known. */
  readonly summary: string
  /** The command: `SELECT`, `INSERT`, `CREATE TABLE`. */
  readonly operation: string | undefined
  /** The table, if there is exactly one. */
  readonly collection: string | undefined
  /** The procedure of a CALL. */
  readonly procedure: string | undefined
  /** The number of statements in a text of several ones. */
  readonly batchSize: number | undefined
}

/** The number of characters of a text that are read. */
export const maxScanned = 4_000

/** The limit in OpenTelemetry's conventions. */
const maxSummaryLength = 255

/** One thing in a text. `word` is the text of a word in upper case, and empty for all others. */
interface Token {
  readonly kind: "word" | "name" | "other"
  readonly text: string
  readonly word: string
}

// White space and comments, a string, a name in quotes, the tag of a dollar quote, a word, a number, anything else.
// Brackets are a name of SQLite only if there are no quotes inside: an array of PostgreSQL may have quotes.
const pattern =
  /(\s+|--[^\n\r]*)|('(?:[^']|'')*')|("(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]'"$]*\])|(\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$)|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)|\d[\w.]*|[^]/y

/** The index after the comment that begins at `start`, or -1 if it does not end. Comments nest, as they do in PostgreSQL. */
export const endOfComment = (text: string, start: number): number => {
  const mark = /\/\*|\*\//g
  mark.lastIndex = start + 2
  for (let depth = 1, found = mark.exec(text); found !== null; found = mark.exec(text)) {
    depth += found[0] === "/*" ? 1 : -1
    if (depth === 0) {
      return mark.lastIndex
    }
  }
  return -1
}

/** Whether brackets contain an odd number of quotes: in an array, one of them belongs to a string that ends outside. */
const mayHideQuote = (text: string, start: number): boolean => {
  const end = text.indexOf("]", start)
  return end !== -1 && ["'", "\""].some((quote) => text.slice(start, end).split(quote).length % 2 === 0)
}

/** The tokens of each statement, and whether they are those of the whole text. */
const tokenize = (text: string): { readonly statements: ReadonlyArray<Array<Token>>; readonly isComplete: boolean } => {
  const statements: Array<Array<Token>> = [[]]
  for (let at = 0; at < text.length;) {
    const current = statements[statements.length - 1]
    if (text.startsWith("/*", at)) {
      at = endOfComment(text, at)
      if (at === -1) {
        return { statements, isComplete: false }
      }
      continue
    }
    pattern.lastIndex = at
    const found = pattern.exec(text)!
    const [all, blank, string, name, dollar, word] = found
    at = pattern.lastIndex
    if (blank !== undefined) {
      continue
    }
    if (word !== undefined) {
      current.push({ kind: "word", text: word, word: word.toUpperCase() })
    } else if (name !== undefined) {
      current.push({ kind: "name", text: name, word: "" })
    } else if (string !== undefined || dollar !== undefined) {
      current.push({ kind: "other", text: "'", word: "" })
      if (dollar !== undefined) {
        at = text.indexOf(dollar, at) + dollar.length
      }
      // Whether a quote after a backslash ends a string depends on the string's prefix and on the server's settings.
      if ((string ?? "").includes("\\'") || at < pattern.lastIndex) {
        return { statements, isComplete: false }
      }
    } else if (all === ";") {
      statements.push([])
    } else if (all === "'" || all === "\"" || all === "`" || (all === "[" && mayHideQuote(text, at))) {
      return { statements, isComplete: false }
    } else {
      current.push({ kind: "other", text: all, word: "" })
    }
  }
  return { statements: statements.filter((tokens) => tokens.length > 0), isComplete: true }
}

const setOf = (words: string): ReadonlySet<string> => new Set(words.trim().split(/\s+/))

/** The commands that are recognized by their first word, without a table. */
const commands = setOf(`
  ABORT ALTER ANALYZE ATTACH BEGIN CHECKPOINT CLOSE CLUSTER COMMENT COMMIT CREATE DEALLOCATE DECLARE DETACH DISCARD DO DROP END
  EXECUTE FETCH GRANT IMPORT LISTEN LOAD MOVE NOTIFY PRAGMA PREPARE REASSIGN REFRESH REINDEX RELEASE RESET REVOKE ROLLBACK
  SAVEPOINT SECURITY SET SHOW START UNLISTEN VACUUM
`)

/** The commands that may begin with a list of queries, and may themselves be one. */
const queries = setOf("DELETE INSERT MERGE REPLACE SELECT TABLE UPDATE UPSERT VALUES")

/** The kinds of objects that CREATE, ALTER and DROP name. */
const objects = setOf(`
  AGGREGATE CAST COLLATION DATABASE DOMAIN EXTENSION FUNCTION GROUP INDEX OPERATOR POLICY PROCEDURE PUBLICATION ROLE ROUTINE RULE
  SCHEMA SEQUENCE SERVER STATISTICS SUBSCRIPTION SYSTEM TABLE TABLESPACE TRIGGER TYPE USER VIEW
`)

/** The kinds of objects whose names are shown: there are few names, since the program defines them and not its data. */
const namedObjects = setOf("FUNCTION INDEX PROCEDURE SCHEMA SEQUENCE TABLE TRIGGER TYPE VIEW")

/** Words between the kind of an object and its name. */
const beforeName = setOf("CONCURRENTLY EXISTS IF NOT ONLY")

/** Words that end a list of tables. */
const clauses = setOf("EXCEPT FETCH FOR GROUP HAVING INTERSECT LIMIT OFFSET ORDER RETURNING SET UNION WHERE WINDOW")

/** The text between two parentheses, or outside of all. */
interface Frame {
  /** The last query that began here, in upper case. */
  query: string
  /** Whether a comma is followed by another table. */
  isTableList: boolean
  /** Whether the names and texts of WITH are read here, ahead of the query itself. */
  isWithList: boolean
}

const makeFrame = (): Frame => ({ query: "", isTableList: false, isWithList: false })

const plainQuoted = /^["`[]([a-z_][a-z0-9_]*)["`\]]$/

/** Reads one statement. */
class StatementReader {
  readonly parts: Array<string> = []
  readonly tables = new Set<string>()
  command: string | undefined = undefined
  procedure: string | undefined = undefined
  private readonly withNames = new Set<string>()
  private readonly frames = [makeFrame()]
  /** Where the query begins, after EXPLAIN and its options. */
  private start = 0

  constructor(private readonly tokens: ReadonlyArray<Token>) {
    const first = this.word(0)
    if (first === "EXPLAIN") {
      this.add(0)
      this.skipExplain()
      this.readQueries(this.start)
    } else if (first === "WITH" || queries.has(first) || tokens[0].text === "(") {
      this.readQueries(0)
    } else if (first === "COPY") {
      this.add(0)
      if (tokens[1]?.text === "(") {
        this.readQueries(1)
      } else {
        this.readTable(1, true)
      }
    } else if (first === "CALL") {
      this.add(0)
      this.readProcedure()
    } else if (first === "TRUNCATE" || first === "LOCK") {
      this.add(0)
      this.readTables(this.word(1) === "TABLE" ? 2 : 1)
    } else if (commands.has(first)) {
      this.readCommand(first)
    }
  }

  private word(at: number): string {
    return this.tokens[at]?.word ?? ""
  }

  /** Adds an operation, of one or more words. */
  private add(...positions: ReadonlyArray<number>): void {
    const operation = positions.map((at) => this.tokens[at].text).join(" ")
    this.command ??= operation
    this.parts.push(operation)
  }

  private skipExplain(): void {
    let at = 1
    if (this.tokens[at]?.text === "(") {
      at = this.tokens.findIndex(({ text }) => text === ")") + 1
    }
    while (/^(?:ANALYZE|VERBOSE|QUERY|PLAN)$/.test(this.word(at))) {
      at++
    }
    this.start = at
  }

  private readCommand(first: string): void {
    if (first === "REFRESH" && this.word(2) === "VIEW") {
      this.add(0, 1, 2)
      this.readTable(this.word(3) === "CONCURRENTLY" ? 4 : 3)
    } else if (first === "CREATE" || first === "ALTER" || first === "DROP") {
      this.readDefinition()
    } else {
      this.add(0)
      if (first === "DECLARE" || first === "PREPARE") {
        this.readQueries(1)
      }
    }
  }

  private readDefinition(): void {
    // As many words as may stand in between: CREATE OR REPLACE GLOBAL TEMPORARY RECURSIVE VIEW.
    const kind = this.tokens.slice(0, 7).findIndex(({ word }, at) => at > 0 && objects.has(word))
    if (kind === -1) {
      this.add(0)
      return
    }
    this.add(0, kind)
    const object = this.word(kind)
    if (!namedObjects.has(object)) {
      return
    }
    let at = kind + 1
    while (beforeName.has(this.word(at))) {
      at++
    }
    const isTable = object === "TABLE" || object === "VIEW"
    const end = this.readTable(at, true, isTable)
    if (isTable) {
      if (this.word(0) === "DROP") {
        this.readTables(end, true)
      } else {
        this.readQueries(end)
      }
    }
  }

  private readProcedure(): void {
    const [name] = this.path(1)
    if (name !== undefined) {
      this.procedure = name
      this.parts.push(name)
    }
  }

  /** Reads the queries, if there are any. */
  private readQueries(from: number): void {
    for (let at = from; at < this.tokens.length; at++) {
      const { kind, text, word } = this.tokens[at]
      const frame = this.frames[this.frames.length - 1]
      if (text === "(") {
        this.frames.push(makeFrame())
      } else if (text === ")") {
        if (this.frames.length > 1) {
          this.frames.pop()
        }
      } else if (text === ",") {
        if (frame.isWithList) {
          this.addWithName(at + 1)
        } else if (frame.isTableList) {
          at = this.readTable(at + 1) - 1
        }
      } else if (kind === "word") {
        at = this.readWord(at, word, frame)
      }
    }
  }

  /** Returns the index of the last token that it has read. */
  private readWord(at: number, word: string, frame: Frame): number {
    if (word === "WITH" && this.isWithList(at)) {
      frame.isWithList = true
      this.addWithName(this.word(at + 1) === "RECURSIVE" ? at + 2 : at + 1)
      return at
    }
    if (word === "SELECT" || (queries.has(word) && this.beginsQuery(at, frame))) {
      this.add(at)
      if (frame === this.frames[0] && frame.isWithList && this.word(0) === "WITH") {
        this.command = this.tokens[at].text
      }
      frame.query = word
      frame.isTableList = false
      frame.isWithList = false
      if (word === "UPDATE") {
        return this.readTable(this.word(at + 1) === "OR" ? at + 3 : at + 1) - 1
      }
      return word === "TABLE" ? this.readTable(at + 1) - 1 : at
    }
    if (clauses.has(word)) {
      frame.isTableList = false
      return at
    }
    const { query } = frame
    if (query === "") {
      return at
    }
    if (word === "JOIN") {
      return this.readTable(at + 1) - 1
    }
    if (word === "INTO") {
      return this.readTable(at + 1, true) - 1
    }
    // FROM also stands in `IS DISTINCT FROM`, and in functions such as `extract(year FROM day)`, where no query is.
    const isFrom = word === "FROM" && /^(?:SELECT|DELETE|UPDATE)$/.test(query) && this.word(at - 1) !== "DISTINCT"
    const isUsing = word === "USING" && /^(?:DELETE|MERGE)$/.test(query) && this.tokens[at + 1]?.text !== "("
    if (isFrom || isUsing) {
      frame.isTableList = true
      return this.readTable(at + 1) - 1
    }
    return at
  }

  /** Whether a word such as UPDATE begins a query: it also stands in `FOR UPDATE`, and may name a column. */
  private beginsQuery(at: number, frame: Frame): boolean {
    const before = this.tokens[at - 1]
    return at === this.start || (frame.isWithList && before.text === ")") ||
      (before.text === "(" && /^(?:AS|MATERIALIZED|COPY)$/.test(this.word(at - 2))) ||
      (before.word === "AS" && this.word(0) === "PREPARE")
  }

  /** WITH also stands in `WITH ORDINALITY AS`, `WITH TIME ZONE` and `WITH (fillfactor = 70)`. */
  private isWithList(at: number): boolean {
    const name = this.word(at + 1) === "RECURSIVE" ? at + 2 : at + 1
    const after = this.tokens[name + 1]
    return this.isName(name) && this.word(name) !== "ORDINALITY" && (after?.word === "AS" || after?.text === "(")
  }

  private addWithName(at: number): void {
    if (this.isName(at)) {
      this.withNames.add(unquoted(this.tokens[at]).toLowerCase())
    }
  }

  private isName(at: number): boolean {
    const kind = this.tokens[at]?.kind
    return kind === "word" || kind === "name"
  }

  /** A name with its schema, and the index after it. */
  private path(from: number): readonly [name: string | undefined, end: number] {
    let at = from
    if (!this.isName(at)) {
      return [undefined, at]
    }
    let name = unquoted(this.tokens[at])
    for (at++; this.tokens[at]?.text === "." && this.isName(at + 1); at += 2) {
      name = `${name}.${unquoted(this.tokens[at + 1])}`
    }
    return [isShown(name) ? name : undefined, at]
  }

  /**
   * Reads the name of a table, unless a subquery or a function is in its place. Returns the index after it.
   * `mayHaveColumns`: whether a list of columns may follow.
   */
  private readTable(from: number, mayHaveColumns = false, isTable = true): number {
    const begin = /^(?:ONLY|LATERAL)$/.test(this.word(from)) ? from + 1 : from
    const [name, end] = this.path(begin)
    const isFunction = this.tokens[end]?.text === "(" && !mayHaveColumns
    if (name !== undefined && !isFunction && !this.withNames.has(name.toLowerCase())) {
      this.parts.push(name)
      if (isTable) {
        this.tables.add(name)
      }
    }
    return end
  }

  private readTables(from: number, isContinued = false): void {
    let at = isContinued ? from : this.readTable(from)
    while (this.tokens[at]?.text === ",") {
      at = this.readTable(at + 1)
    }
  }
}

/** A name without the quotes that it does not need. */
const unquoted = ({ kind, text }: Token): string => kind === "name" ? plainQuoted.exec(text)?.[1] ?? text : text

/** Whether a name can be shown. Control characters would break the lines that it is shown in. */
const isShown = (name: string): boolean => name.length <= maxSummaryLength && !/\p{Cc}/u.test(name)

/** As many parts as fit. */
const join = (parts: ReadonlyArray<string>): string => {
  let summary = ""
  for (const part of parts) {
    const longer = summary === "" ? part : `${summary} ${part}`
    if (longer.length > maxSummaryLength) {
      break
    }
    summary = longer
  }
  return summary
}

/** The value that all elements have. Undefined if they differ. */
const single = <A>(values: ReadonlyArray<A>): A | undefined =>
  values.every((value) => value === values[0]) ? values[0] : undefined

const summarizeStatement = (tokens: ReadonlyArray<Token>): Omit<QuerySummary, "batchSize"> => {
  const { command, parts, procedure, tables } = new StatementReader(tokens)
  return {
    summary: join(parts),
    operation: command,
    collection: tables.size === 1 ? [...tables][0] : undefined,
    procedure
  }
}

/** Summarizes a text. The bodies of functions and triggers are part of the statement that creates them. */
export const summarize = (text: string): QuerySummary => {
  const { isComplete, statements: all } = tokenize(text.slice(0, maxScanned))
  if (text.length > maxScanned) {
    // The last name may be cut off.
    const last = all[all.length - 1] ?? []
    last.splice(last.findLastIndex(({ kind, text }) => kind === "other" && text !== ".") + 1)
  }
  const body = all.findIndex(([first, ...rest]) =>
    first?.word === "CREATE" && rest.slice(0, 6).some(({ word }) => /^(?:FUNCTION|PROCEDURE|TRIGGER)$/.test(word))
  )
  const statements = (body === -1 ? all : all.slice(0, body + 1)).filter((tokens) => tokens.length > 0)
  const summaries = statements.map(summarizeStatement)
  if (summaries.length < 2) {
    const { collection, operation, procedure, summary } = summaries[0] ?? nothing
    return { summary, operation, collection, procedure, batchSize: undefined }
  }
  const summary = single(summaries.map(({ summary }) => summary)) ?? ""
  const operation = single(summaries.map(({ operation }) => operation)) ?? ""
  return {
    summary: join(["BATCH", summary]).trimEnd(),
    operation: `BATCH ${operation}`.trimEnd(),
    collection: single(summaries.map(({ collection }) => collection)),
    procedure: single(summaries.map(({ procedure }) => procedure)),
    batchSize: isComplete && text.length <= maxScanned && body === -1 ? statements.length : undefined
  }
}

const nothing: QuerySummary = {
  summary: "",
  operation: undefined,
  collection: undefined,
  procedure: undefined,
  batchSize: undefined
}
