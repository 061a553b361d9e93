/**
 * What a statement may do, by its text: whether it may have written something when its answer is lost, and whether it
 * may leave something on its connection.
 *
 * Nothing is routed by this. It only separates the statements that are known to be harmless from all others, so a text
 * that is not understood counts as one that writes, and that leaves something. What a view, an operator, a policy or a
 * trigger calls cannot be seen.
 */
import { endOfComment } from "../telemetry/querySummary.js"

/** One thing in a text: a word in lower case, a name in double quotes, or any other character. */
interface Token {
  readonly kind: "word" | "name" | "other"
  readonly text: string
}

const blank = /(?:\s+|--[^\n\r]*)+/y
const word = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y
const quotedName = /(?:[uU]&)?"((?:[^"]|"")*)"/y
const dollarQuoted = /\$((?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$[^]*?\$\1\$/y
const strings = [
  /[eE]'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'/y,
  /(?:[uU]&|[bBxXnN])?'[^']*(?:''[^']*)*'/y,
  dollarQuoted
]
/** The same where a backslash escapes in every string: with `standard_conforming_strings` off, or in a continued string. */
const escapedStrings = [
  /(?:[uU]&|[bBxXnNeE])?'[^'\\]*(?:(?:\\[^]|'')[^'\\]*)*'/y,
  dollarQuoted
]

const matchAt = (pattern: RegExp, text: string, at: number): RegExpExecArray | null => {
  pattern.lastIndex = at
  return pattern.exec(text)
}

/** The index after the comment that begins at `start`; the length of the text if the comment has no end. */
export const afterComment = (text: string, start: number): number => {
  const end = endOfComment(text, start)
  return end === -1 ? text.length : end
}

/** The tokens of each statement of a text; comments and strings are left out. */
const statementsOf = (text: string, quoted = strings): ReadonlyArray<ReadonlyArray<Token>> => {
  const statements: Array<Array<Token>> = [[]]
  for (let at = 0; at < text.length;) {
    const current = statements[statements.length - 1]
    const skipped = matchAt(blank, text, at)
    if (skipped !== null) {
      at += skipped[0].length
      continue
    }
    if (text.startsWith("/*", at)) {
      at = afterComment(text, at)
      continue
    }
    const start = text.charCodeAt(at)
    // Only a quotation mark, a dollar sign, or a letter before a quotation mark can begin a string.
    const mayQuote = start === 0x27 || start === 0x24 || text[at + 1] === "'" || text[at + 1] === "&"
    const string = mayQuote
      ? quoted.map((pattern) => matchAt(pattern, text, at)).find((found) => found !== null)
      : undefined
    if (string !== undefined && string !== null) {
      current.push({ kind: "other", text: "'" })
      at += string[0].length
      continue
    }
    const name = start === 0x22 || text[at + 1] === "&" ? matchAt(quotedName, text, at) : null
    if (name !== null) {
      current.push({ kind: "name", text: name[1].replaceAll("\"\"", "\"") })
      at += name[0].length
      continue
    }
    const found = matchAt(word, text, at)
    if (found !== null) {
      current.push({ kind: "word", text: found[0].toLowerCase() })
      at += found[0].length
      continue
    }
    if (text[at] === ";") {
      statements.push([])
    } else {
      current.push({ kind: "other", text: text[at] })
    }
    at++
  }
  return statements.filter((tokens) => tokens.length > 0)
}

const setOf = (words: string): ReadonlySet<string> => new Set(words.trim().split(/\s+/))

/** Statements that begin with these words only read. */
const reading = setOf("select values table show with explain fetch move close")

/** Statements that begin with these words change nothing that outlives the connection. */
const settingOnly = setOf("begin start rollback abort savepoint release set reset listen unlisten discard deallocate")

/** Words with which a statement that reads may write, lock, or run code that the text does not show. */
const writing = setOf("insert update delete merge into call execute prepare analyze share")

/** Words that may stand before a parenthesis without being functions. */
const keywords = setOf(`
  all and any array as asc bernoulli between by case cast check char character coalesce collate cross cube current_date
  current_time current_timestamp decimal default desc dec distinct else end except exists explain extract false fetch filter
  first float for from full group grouping having ilike in inner intersect interval is isnull join lateral left like
  limit localtime localtimestamp materialized merge_action national natural nchar not notnull nulls nullif numeric
  offset on only or order outer over overlay partition position precision range recursive returning right rollup row rows select
  sets similar some substring symmetric system table tablesample then time timestamp to treat trim true union using values
  varchar varying when where window with within bit nvarchar greatest least
`)

/**
 * The server's own functions that write nothing, lock nothing and leave nothing on the connection: those in common use
 * of which no variant is volatile, and the volatile ones that only tell a time, a random value or a size. From `pg_proc`.
 */
export const harmlessFunctions: ReadonlySet<string> = setOf(`
  abs acos acosd acosh age array_agg array_append array_cat array_dims array_fill array_length array_lower array_ndims
  array_position array_positions array_prepend array_remove array_replace array_to_json array_to_string
  array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit_and bit_count bit_length
  bit_or bool_and bool_or box broadcast btrim cardinality cbrt ceil ceiling center char_length character_length chr
  circle clock_timestamp col_description concat concat_ws convert convert_from convert_to corr cos cosd cosh cot cotd
  count covar_pop covar_samp cume_dist current_database current_query current_schema current_schemas
  current_setting current_user date date_bin date_part date_trunc datemultirange daterange decode degrees dense_rank
  diagonal diameter div encode every exp factorial family first_value floor format format_type gcd gen_random_uuid
  generate_series generate_subscripts get_bit get_byte has_any_column_privilege has_column_privilege
  has_database_privilege has_function_privilege has_schema_privilege has_sequence_privilege has_table_privilege hashtext
  hashtextextended height
  host hostmask inet_client_addr inet_client_port inet_merge inet_server_addr inet_server_port initcap int4multirange
  int4range int8multirange int8range is_normalized isclosed isempty isfinite json_agg json_array_elements
  json_array_elements_text json_array_length json_build_array json_build_object json_each json_each_text
  json_extract_path json_extract_path_text json_object json_object_agg json_object_keys json_populate_record
  json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_typeof jsonb_agg jsonb_array_elements
  jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text
  jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys
  jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array
  jsonb_path_query_first jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax
  jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days justify_hours justify_interval lag
  last_value lcm lead length ln log log10 lower lower_inc lower_inf lpad lseg ltrim make_date make_interval make_time
  make_timestamp make_timestamptz masklen max md5 min min_scale mod mode multirange netmask network normalize now npoints
  nth_value ntile num_nonnulls num_nulls numnode nummultirange numrange obj_description octet_length parse_ident path
  pclose percent_rank percentile_cont percentile_disc pg_backend_pid pg_column_size pg_conf_load_time
  pg_current_wal_lsn pg_database_size pg_encoding_to_char pg_get_constraintdef pg_get_expr pg_get_functiondef
  pg_get_indexdef pg_get_serial_sequence pg_get_userbyid pg_get_viewdef pg_indexes_size pg_is_in_recovery
  pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_my_temp_schema
  pg_postmaster_start_time pg_relation_size pg_size_bytes pg_size_pretty pg_sleep pg_sleep_for pg_sleep_until
  pg_table_is_visible pg_table_size pg_tablespace_size pg_total_relation_size pg_type_is_visible pg_typeof
  pg_wal_lsn_diff pg_xact_status phraseto_tsquery pi plainto_tsquery point polygon popen pow power querytree quote_ident
  quote_literal quote_nullable radians radius random rank regexp_count regexp_instr regexp_like regexp_match
  regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count
  regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse round row_number row_to_json rpad
  rtrim scale session_user set_masklen setweight sha224 sha256 sha384 sha512 shobj_description sign sin sind sinh
  split_part sqrt starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array
  string_to_table strip strpos substr sum tan tand tanh text timeofday timezone to_ascii to_char to_date to_hex to_json
  to_jsonb to_number to_regclass to_regnamespace to_regproc to_regrole to_regtype to_timestamp to_tsquery to_tsvector
  transaction_timestamp translate trim_array trim_scale trunc ts_headline ts_rank ts_rank_cd tsmultirange tsrange
  tstzmultirange tstzrange unistr unnest upper upper_inc upper_inf var_pop var_samp variance version
  websearch_to_tsquery width width_bucket xpath xpath_exists
`)

/** Whether a name with a list of columns begins here, as in `WITH name (a, b) AS (…)`. */
const namesQuery = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  if (!/^(?:with|recursive|,)$/.test(tokens[at - 1]?.text ?? "")) {
    return false
  }
  const end = tokens.findIndex(({ text }, i) => i > at && text === ")")
  return end !== -1 && tokens[end + 1]?.text === "as" &&
    /^(?:\(|not|materialized)$/.test(tokens[end + 2]?.text ?? "") &&
    tokens.slice(at + 2, end).every(({ kind, text }) => kind !== "other" || text === ",")
}

/** Whether a call of this name may do more than compute: an unknown function, or one of another schema. */
const mayDoMore = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  const { kind, text } = tokens[at]
  if (tokens[at - 1]?.text === ".") {
    return tokens[at - 2]?.text !== "pg_catalog" || !harmlessFunctions.has(text)
  }
  return !harmlessFunctions.has(text) && !namesQuery(tokens, at) &&
    !(kind === "word" && (keywords.has(text) || tokens[at - 1]?.text === "as"))
}

/** Whether one statement is known to write nothing and to lock no rows. */
const isHarmless = (tokens: ReadonlyArray<Token>): boolean => {
  const first = tokens.find(({ text }) => text !== "(")
  if (first?.kind !== "word") {
    return false
  }
  if (settingOnly.has(first.text)) {
    // SET DEFAULT and the like take expressions of constants alone; ROLLBACK PREPARED ends what others have prepared.
    return !tokens.some(({ text }) => text === "prepared")
  }
  return reading.has(first.text) && tokens.every((token, at) => {
    if (token.kind === "other") {
      return true
    }
    const next = tokens[at + 1]?.text
    if (token.kind === "word" && token.text === "for" && tokens[at + 1]?.kind === "word") {
      return !/^(?:update|no|share|key)$/.test(next ?? "")
    }
    if (token.kind === "word" && writing.has(token.text) && tokens[at - 1]?.text !== ".") {
      return false
    }
    return next !== "(" || !mayDoMore(tokens, at)
  })
}

/** How many texts are cached, and up to which length. */
const maxTexts = 1_000
const maxLength = 10_000

/** Answers a question about a text, once for each text that is not too long. */
const memoized = (answer: (text: string) => boolean): (text: string) => boolean => {
  const answers = new Map<string, boolean>()
  return (text) => {
    const known = answers.get(text)
    if (known !== undefined) {
      return known
    }
    const answered = answer(text)
    if (text.length <= maxLength) {
      if (answers.size >= maxTexts) {
        answers.delete(answers.keys().next().value!)
      }
      answers.set(text, answered)
    }
    return answered
  }
}

/** Whether a text may have written something that outlives its connection: all that is not known to be harmless. */
export const mayWrite = memoized((text) => !statementsOf(text).every(isHarmless))

/** Statements that begin with these words leave nothing themselves; functions that they call may. */
const executing = setOf("select values table with insert update delete merge copy")

/** Statements that begin with these words leave nothing on their connection. */
const leavingNothing = setOf(`
  begin start commit end rollback abort savepoint release show fetch move close notify unlisten deallocate lock truncate drop
  comment grant revoke vacuum analyze reindex cluster checkpoint
`)

/** The server's own functions that write or lock, and leave nothing on the connection once the transaction has ended. */
const functionsLeavingNothing = setOf(`
  currval lastval pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_cancel_backend pg_current_xact_id
  pg_current_xact_id_if_assigned pg_notify pg_terminate_backend pg_try_advisory_xact_lock
  pg_try_advisory_xact_lock_shared txid_current txid_current_if_assigned
`)

/** The index after the parenthesis that closes the one at `open`. */
const afterParenthesis = (tokens: ReadonlyArray<Token>, open: number): number => {
  for (let at = open, depth = 0; at < tokens.length; at++) {
    depth += tokens[at].text === "(" ? 1 : tokens[at].text === ")" ? -1 : 0
    if (depth === 0) {
      return at + 1
    }
  }
  return tokens.length
}

/** Whether the call of `set_config` at this index ends with a literal `true`, so that its setting ends with the transaction. */
const isLocalSetting = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  const end = afterParenthesis(tokens, at + 1) - 1
  return tokens[end - 1]?.kind === "word" && tokens[end - 1].text === "true" && tokens[end - 2]?.text === ","
}

/** Whether the name before a parenthesis, of which this is the last part, is that of a table, a type or an alias. */
const isNoFunction = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  let start = at
  while (tokens[start - 1]?.text === ".") {
    start -= 2
  }
  const before = tokens[start - 1]
  if (before?.kind === "word" && /^(?:into|copy|ordinality)$/.test(before.text)) {
    return true
  }
  if (before?.text === ":" && tokens[start - 2]?.text === ":") {
    return true
  }
  if (start < at) {
    return false
  }
  if (at === 0) {
    // A statement begins with a word of its own, as in `COPY (SELECT …)`.
    return true
  }
  const { text } = tokens[at]
  return before?.text === ")"
    // An alias with its columns, as in `(VALUES (1)) t (a)`.
    ? !tokens.some(({ text }, i) => text === "distinct" && tokens[i + 1]?.text === "on")
    : (text === "conflict" && before?.text === "on") || (text === "insert" && before?.text === "then") ||
      (text === "set" && tokens[afterParenthesis(tokens, at + 1)]?.text === "=")
}

/** Words that stand before a parenthesis in CREATE and ALTER. */
const definitionWords = setOf("key unique include list hash identity")

/** Whether the name before a parenthesis is that of what a CREATE or ALTER defines or refers to. */
const isDefined = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  let start = at
  while (tokens[start - 1]?.text === ".") {
    start -= 2
  }
  const before = tokens[start - 1]
  return definitionWords.has(tokens[at].text) ||
    (before?.kind === "word" && (
      /^(?:table|exists|references|view|function|procedure|aggregate|enum)$/.test(before.text) ||
      // In any other statement the condition of a join may follow.
      (/^(?:on|using)$/.test(before.text) && /^(?:index|unique)$/.test(tokens[1]?.text ?? ""))
    ))
}

/** Whether the name before a parenthesis is that of a function which may leave something on the connection. */
const mayCallLeave = (tokens: ReadonlyArray<Token>, at: number): boolean => {
  if (isNoFunction(tokens, at)) {
    return false
  }
  const isServersOwn = tokens[at - 1]?.text !== "." || tokens[at - 2]?.text === "pg_catalog"
  const { text } = tokens[at]
  return !(isServersOwn &&
    (functionsLeavingNothing.has(text) || (text === "set_config" && isLocalSetting(tokens, at)))) &&
    mayDoMore(tokens, at)
}

/** Whether one statement may leave something on its connection that the end of a transaction does not remove. */
const statementLeavesState = (tokens: ReadonlyArray<Token>): boolean => {
  const first = tokens.findIndex(({ text }) => text !== "(")
  const isWord = (at: number, words: string): boolean =>
    tokens[at]?.kind === "word" && words.split(" ").includes(tokens[at].text)
  if (first === -1 || tokens[first].kind !== "word") {
    return true
  }
  const { text } = tokens[first]
  switch (text) {
    case "set":
      return !isWord(first + 1, "local transaction constraints")
    case "explain": {
      let at = first + 1
      if (tokens[at]?.text === "(") {
        at = afterParenthesis(tokens, at)
      }
      while (isWord(at, "analyze verbose")) {
        at++
      }
      return statementLeavesState(tokens.slice(at))
    }
    case "declare":
      if (tokens.some((_, at) => isWord(at, "with") && isWord(at + 1, "hold"))) {
        return true
      }
      break
    case "create":
    case "alter":
      if (tokens.some((_, at) => isWord(at, "temp temporary pg_temp extension"))) {
        return true
      }
      break
    default:
      if (!executing.has(text)) {
        return !leavingNothing.has(text)
      }
  }
  const defines = text === "create" || text === "alter"
  return tokens.some(({ kind }, at) =>
    (isWord(at, "into") && isWord(at + 1, "temp temporary local global")) ||
    (kind !== "other" && tokens[at + 1]?.text === "(" && !(defines && isDefined(tokens, at)) &&
      mayCallLeave(tokens, at))
  )
}

/**
 * Whether a text may leave something on its connection that the end of a transaction does not remove: a setting, a
 * lock, a temporary table, a cursor, a prepared statement, a channel that it listens on. A text that is too long to be
 * cached is not examined, and counts as one that does.
 */
export const leavesState = memoized((text) =>
  text.length > maxLength || statementsOf(text).some(statementLeavesState) ||
  (text.includes("\\") && statementsOf(text, escapedStrings).some(statementLeavesState))
)

/** Statements that begin with these words have a plan. */
const planned = setOf("select values table with insert update delete merge")

const isPlanned = (tokens: ReadonlyArray<Token>): boolean => {
  const first = tokens.find(({ text }) => text !== "(")
  return first?.kind === "word" && planned.has(first.text)
}

/** Whether a text is one statement that has a plan, however its strings are read. */
export const hasPlan = (text: string): boolean =>
  [strings, escapedStrings].every((quoted) => {
    const statements = statementsOf(text, quoted)
    return statements.length === 1 && isPlanned(statements[0])
  })

/** Whether a text has placeholders, or what looks like one. */
export const hasPlaceholders = (text: string): boolean => /\$\d/.test(text)

/** The words of a statement; any other token is written as a quotation mark. */
const wordsOf = (tokens: ReadonlyArray<Token>): string =>
  tokens.map((token) => token.kind === "word" ? token.text : "'").join(" ")

const isCommit = (tokens: ReadonlyArray<Token>): boolean =>
  /^(?:commit|end|prepare transaction)\b/.test(wordsOf(tokens))

/**
 * Whether a text that runs in an open transaction may have committed it. Procedures and DO blocks cannot do so there, only
 * outside of a transaction.
 */
export const mayCommit = (text: string): boolean => statementsOf(text).some(isCommit)

/** Whether a text that runs outside of a transaction may have committed a part of what it does before it fails. */
export const mayCommitInPart = (text: string): boolean =>
  statementsOf(text).some((tokens) => isCommit(tokens) || /^(?:call|do)\b/.test(wordsOf(tokens)))

/** Whether a text does nothing but roll back the transaction that it runs in. */
export const isRollback = (text: string): boolean => {
  const statements = statementsOf(text)
  return statements.length === 1 &&
    /^(?:rollback|abort)(?: (?:work|transaction))?(?: and no chain)?$/.test(wordsOf(statements[0]))
}

/** Whether a text ends the transaction that it runs in and then does more, if only to begin another one. */
export const endsTransactionAndGoesOn = (text: string): boolean => {
  const statements = statementsOf(text)
  return statements.some((tokens, i) => {
    const words = wordsOf(tokens)
    const ends = isCommit(tokens) || (/^(?:rollback|abort)\b/.test(words) && !/\b(?:to|prepared)\b/.test(words))
    return ends && (i + 1 < statements.length || words.endsWith(" and chain"))
  })
}

/** Whether one statement is a COPY whose data goes to the client or comes from it. */
const copiesData = (tokens: ReadonlyArray<Token>): boolean => {
  if (tokens[0].kind !== "word" || tokens[0].text !== "copy") {
    return false
  }
  let depth = 0
  return tokens.some(({ kind, text }, i) => {
    depth += text === "(" ? 1 : text === ")" ? -1 : 0
    const next = tokens.at(i + 1)
    return depth === 0 && kind === "word" && (text === "from" || text === "to") && next?.kind === "word" &&
      (next.text === "stdin" || next.text === "stdout")
  })
}

const mentionsCopy = /\bcopy\b/i

/** Whether a statement of a text is a COPY from or to the client. */
export const isCopy = (text: string): boolean => mentionsCopy.test(text) && statementsOf(text).some(copiesData)
