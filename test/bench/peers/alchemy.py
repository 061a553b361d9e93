"""The process of the SQLAlchemy peers (asyncio, with asyncpg or aiosqlite): speaks the protocol of child.ts."""

import asyncio
import gc
import itertools
import json
import os
import random
import resource
import socket
import sys
import time

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import sessionmaker

setup = json.loads(sys.argv[1])
on_postgres = setup["dialect"] == "postgres"

metadata = sa.MetaData()
timestamp = sa.DateTime(timezone=True) if on_postgres else sa.Text
account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("currency", sa.Text),
    sa.Column("balance", sa.Integer),
    sa.Column("opened", timestamp),
)
item = sa.Table(
    "item",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account", sa.Integer),
    sa.Column("amount", sa.Integer),
    sa.Column("note", sa.Text),
    sa.Column("created", timestamp),
)
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account", sa.Integer),
    sa.Column("amount", sa.Integer),
    sa.Column("note", sa.Text),
)
rows = [
    {"account": 1 + i % setup["accounts"], "amount": i * 7 % 1000, "note": f"the note of row {i}"} for i in range(10_000)
]
expected = {
    "select": 1,
    "promise": 1,
    "session": 1,
    "empty": 0,
    "read": setup["readable"],
    "stream": setup["streamable"],
    "insert": 0,
}

if on_postgres:
    engine = create_async_engine(
        setup["url"].replace("postgres:", "postgresql+asyncpg:", 1), pool_size=setup["pool"], max_overflow=0
    )
else:
    engine = create_async_engine("sqlite+aiosqlite:///" + setup["url"], connect_args={"timeout": 60})

    @sa.event.listens_for(engine.sync_engine, "connect")
    def set_synchronous(connection, _):
        connection.execute("PRAGMA synchronous = FULL")


# A statement outside a session needs no transaction.
autocommit = engine.execution_options(isolation_level="AUTOCOMMIT") if on_postgres else engine
session = sessionmaker(engine, class_=AsyncSession)


def key():
    return random.randint(1, setup["accounts"])


async def select(_=None):
    async with autocommit.connect() as connection:
        return len((await connection.execute(sa.select(account).where(account.c.id == key()))).all())


async def select_and_update(_=None):
    this = account.c.id == key()
    balance = sa.select(account.c.balance).where(this)
    async with session.begin() as orm_session:
        found = (await orm_session.execute(balance.with_for_update() if on_postgres else balance)).all()
        await orm_session.execute(sa.update(account).where(this).values(balance=account.c.balance + 1))
    return len(found)


async def empty(_):
    async with session.begin():
        return 0


async def read(_, rows=setup["readable"]):
    async with autocommit.connect() as connection:
        return len((await connection.execute(sa.select(item).where(item.c.id <= rows))).all())


async def stream(_):
    count = 0
    async with engine.connect() as connection:
        result = await connection.stream(sa.select(item).execution_options(yield_per=1000))
        async for part in result.partitions(1000):
            count += len(part)
    return count


async def insert(_):
    async with session.begin() as orm_session:
        await orm_session.execute(sa.insert(journal), rows)
    return 0


def mixed_work(number):
    """As in workloads.ts."""
    place = number % 20
    return "large" if place == 19 else "session" if place % 6 == 3 else "select"


async def mixed(number):
    work = mixed_work(number)
    if work == "large":
        return await read(number, setup["largeRows"])
    return await (select_and_update() if work == "session" else select())


def expected_rows(work, number):
    if work == "mixed":
        return setup["largeRows"] if mixed_work(number) == "large" else 1
    return expected[work]


works = {
    "select": select,
    "promise": select,
    "session": select_and_update,
    "mixed": mixed,
    "read": read,
    "stream": stream,
    "insert": insert,
}
if on_postgres:
    works |= {"empty": empty}


async def run(work, concurrency, millis, minOperations):
    gc.collect()
    latencies = []
    numbers = itertools.count()

    async def worker():
        while time.perf_counter() < deadline or len(latencies) < minOperations:
            begin = time.perf_counter()
            number = next(numbers)
            count = await works[work](number)
            if count != expected_rows(work, number):
                raise RuntimeError(f"the operation read {count} rows instead of {expected_rows(work, number)}")
            latencies.append(time.perf_counter() - begin)

    cpu = time.process_time()
    started = time.perf_counter()
    deadline = started + millis / 1000
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "operations": len(latencies),
        "seconds": seconds,
        "cpuMicros": (time.process_time() - cpu) * 1e6,
        "p50": latencies[len(latencies) // 2] * 1000,
        "p99": latencies[len(latencies) * 99 // 100] * 1000,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def main():
    # The IPC channel of Node's child processes: one JSON message per line.
    channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
    channel.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    writer.write(json.dumps({"ready": True}).encode() + b"\n")
    while line := await reader.readline():
        try:
            answer = await run(**json.loads(line))
        except Exception as error:
            answer = {"error": repr(error)}
        writer.write(json.dumps(answer).encode() + b"\n")


asyncio.run(main())
