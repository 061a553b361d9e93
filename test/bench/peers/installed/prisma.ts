import { PrismaPg } from "@prisma/adapter-pg"
import { type Open, peer, worker } from "../../peer.js"
// What Prisma generates.
import { PrismaClient } from "../../prisma/build/client.js"
import { key, readable, rows } from "../../workloads.js"

export const postgres: Open = async ({ pool: max, url }) => {
  const prisma = new PrismaClient({
    adapter: new PrismaPg({ connectionString: url, max }),
    transactionOptions: { maxWait: 60_000, timeout: 60_000 }
  })
  return peer({
    select: worker(async () => (await prisma.account.findUnique({ where: { id: key() } })) === null ? 0 : 1),
    session: worker(() =>
      prisma.$transaction(async (tx) => {
        const id = key()
        // Its own language has no lock.
        const { length } = await tx.$queryRaw<Array<unknown>>`SELECT balance FROM account WHERE id = ${id} FOR UPDATE`
        await tx.account.update({ where: { id }, data: { balance: { increment: 1 } } })
        return length
      })
    ),
    empty: worker(() => prisma.$transaction(async () => 0)),
    read: worker(async () => (await prisma.item.findMany({ where: { id: { lte: readable } } })).length),
    insert: worker(() =>
      prisma.$transaction(async (tx) => {
        await tx.journal.createMany({ data: rows })
        return 0
      })
    )
  })
}
