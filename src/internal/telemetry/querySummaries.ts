/**
 * The summaries of a database's statements: each text is parsed once, and there are not many distinct summaries, however many
 * distinct texts there are.
 */
import { maxScanned, type QuerySummary, summarize } from "./querySummary.js"

/** The number of texts whose summaries are kept. */
const maxTexts = 1_000

/** The number of distinct summaries. Later statements with further summaries are summarized by their command alone. */
const maxSummaries = 500

export class QuerySummaries {
  private readonly byText = new Map<string, QuerySummary>()
  private readonly summaries = new Set<string>()

  of(sql: string): QuerySummary {
    const found = this.byText.get(sql.length > maxScanned ? sql.slice(0, maxScanned) : sql)
    return found !== undefined && (found.batchSize === undefined || sql.length <= maxScanned) ? found : this.add(sql)
  }

  private add(sql: string): QuerySummary {
    const query = this.limit(summarize(sql))
    if (this.byText.size >= maxTexts) {
      this.byText.delete(this.byText.keys().next().value!)
    }
    // A slice would keep the whole text in memory.
    this.byText.set(sql.length > maxScanned ? copy(sql.slice(0, maxScanned)) : sql, query)
    return query
  }

  private limit(query: QuerySummary): QuerySummary {
    const { operation, summary } = query
    if (this.summaries.has(summary) || this.summaries.size < maxSummaries) {
      const own = copy(summary)
      this.summaries.add(own)
      return { ...query, summary: own, ...copied("collection", query), ...copied("procedure", query) }
    }
    const command = operation?.toUpperCase()
    return {
      summary: command ?? "",
      operation: command,
      collection: undefined,
      procedure: undefined,
      batchSize: query.batchSize
    }
  }
}

const copy = (text: string): string => Buffer.from(text).toString()

const copied = (name: "collection" | "procedure", query: QuerySummary) => {
  const value = query[name]
  return value === undefined ? {} : { [name]: copy(value) }
}
