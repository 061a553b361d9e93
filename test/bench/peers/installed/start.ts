/**
 * The starts of the peers that this folder's package.json installs. Each loads its own library only.
 */
type Start = (
  url: string,
  onImported: () => void,
  ask: (query: () => PromiseLike<unknown>) => Promise<void>
) => Promise<void>

export const postgresjs: Start = async (url, onImported, ask) => {
  const { default: connect } = await import("postgres")
  onImported()
  const sql = connect(url)
  await ask(() => sql`SELECT 1`)
  await sql.end()
}

export const typeorm: Start = async (url, onImported, ask) => {
  const { DataSource } = await import("typeorm")
  onImported()
  const source = await new DataSource({ type: "postgres", url }).initialize()
  await ask(() => source.query("SELECT 1"))
  await source.destroy()
}

export const prisma: Start = async (url, onImported, ask) => {
  const { PrismaPg } = await import("@prisma/adapter-pg")
  const { PrismaClient } = await import("../../prisma/build/client.js")
  onImported()
  const client = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }) })
  await ask(() => client.$queryRaw`SELECT 1`)
  await client.$disconnect()
}
