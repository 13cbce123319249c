"""Followers of jobs, over files that are bytes in memory: what each gets, and what it costs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_adapter.cluster.transports.interface import MEBIBYTE, ConnectionLost
from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.records import Record
from slurm_adapter.core.states import JobState
from slurm_adapter.gateway.streams.follower import ROUND, STEP, Follower, LogText
from slurm_adapter.gateway.streams.log_follow import Following
from slurm_adapter.jobs import logs
from slurm_adapter.jobs.logs import Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

JOB = Record(
    id="1", origin="local", key=None, slurm_name="t-1", owner="alice", project=None, account="alice", folder="/1",
    application="shell 1", specification="{}", labels="{}", replicas=1, time_limit=60, array=False, created=0.0,
    state=JobState.RUNNING,
)  # fmt: skip


@dataclass
class Cluster:
    """Stands for the gateway's threads, and for the cluster and the database behind them."""

    files: dict[str, bytes] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=lambda: {"1": JOB})
    rounds: int = 0
    looks: int = 0
    failures: list[Exception] = field(default_factory=list)
    """What the next rounds raise."""
    underway: int = 0
    most_underway: int = 0

    async def run(self, work: object, *arguments: Any) -> Any:
        """What a thread would do."""
        if work is not logs.read_round:
            self.looks += 1
            await asyncio.sleep(0)
            return {id_: self.records[id_] for id_ in arguments[0] if id_ in self.records}, {}
        self.rounds += 1
        self.underway += 1
        self.most_underway = max(self.most_underway, self.underway)
        pieces = self.read(*arguments[1:])
        await asyncio.sleep(0.001)
        self.underway -= 1
        if self.failures:
            raise self.failures.pop(0)
        return pieces

    @property
    def database(self) -> Cluster:
        """See `ThreadPools.database`."""
        return self

    questions = database

    def read(self, offsets: Mapping[str, int], limit: int) -> list[Piece]:
        """A round."""
        news = [(name, data) for name, data in self.files.items() if len(data) != offsets.get(name, 0)]
        pieces = []
        for name, data in news:
            start = offsets.get(name, 0) if len(data) > offsets.get(name, 0) else 0
            part = data[start : start + max(1, limit // len(news))]
            number = name.removesuffix(".txt").partition("-")[2]
            rank = int(number) if number else None
            pieces.append(Piece(part, "stderr" in name, rank, name, start, start + len(part) < len(data)))
        return pieces

    def write(self, name: str, data: bytes) -> None:
        """Write more into a file."""
        self.files[name] = self.files.get(name, b"") + data

    def turn(self, state: JobState, **more: Any) -> None:
        """The job is in another state."""
        self.records["1"] = self.records["1"]._replace(state=state, **more)


def following(cluster: Cluster, **more: Any) -> Following:
    return Following(cluster, **{"interval": 0.01, "patience": 0.01, **more})  # type: ignore[arg-type]  # all that it uses


def run(work: Coroutine[None, None, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(limited())


async def follow(follow: Following, record: Record = JOB, *, pause: float = 0.0) -> dict[tuple[int, bool], str]:
    """Follow to the end: all texts, by rank and kind."""
    found: dict[tuple[int, bool], list[str]] = {}
    with follow.follow(record) as follower:
        async for event in follower:
            if isinstance(event, LogText):
                assert len(event.text) <= STEP
                found.setdefault((event.rank, event.is_error), []).append(event.text)
                await asyncio.sleep(pause)
    return {key: "".join(texts) for key, texts in found.items()}


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for tells nobody
        await asyncio.sleep(0.001)


def shown(data: bytes) -> str:
    return data.decode(errors="replace")


CHARACTERS = [*(character.encode() for character in "aé€🦄\n"), b"\xff", b"\xf0\x9f", b"\xe2\x82"]
mixed = st.lists(st.sampled_from(CHARACTERS)).map(b"".join)


@given(st.dictionaries(st.sampled_from(["stdout.txt", "stderr.txt", "stdout-3.txt"]), mixed), st.data())
def test_wherever_pieces_begin_and_end_the_text_is_that_of_the_file(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    cluster = Cluster(files)

    async def both() -> None:
        follower = Follower(JOB, asyncio.Event(), 0.0)
        while True:
            asked = dict(follower.offsets)
            pieces = cluster.read(asked, data.draw(st.integers(1, 12)))
            if not pieces:
                break
            # What others have asked for may begin before or after what this one needs.
            name = data.draw(st.sampled_from([piece.file for piece in pieces]))
            other = {**asked, name: data.draw(st.integers(0, len(files[name])))}
            for place in (other, asked):
                follower.give(cluster.read(place, data.draw(st.integers(1, 12))), place)
        follower.finish()
        found: dict[tuple[int, bool], str] = {}
        async for event in follower:
            if isinstance(event, LogText):
                key = (event.rank, event.is_error)
                found[key] = found.get(key, "") + event.text
        keys = {"stdout.txt": (0, False), "stderr.txt": (0, True), "stdout-3.txt": (3, False)}
        assert found == {keys[name]: shown(content) for name, content in files.items() if content}

    asyncio.run(both())


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=8), st.lists(mixed, max_size=20))
def test_whenever_followers_come_each_gets_everything(comers: list[tuple[int, int]], parts: list[bytes]) -> None:
    async def all_of_them() -> None:
        cluster = Cluster()
        follows = following(cluster, interval=0.0, patience=0.0)

        async def come(after: int, pause: int) -> dict[tuple[int, bool], str]:
            await asyncio.sleep(after / 1000)
            return await follow(follows, pause=pause / 1000)

        async def write() -> None:
            for number, part in enumerate(parts):
                cluster.write("stdout.txt" if number % 3 else "stderr.txt", part)
                await asyncio.sleep(0.001)
            cluster.turn(JobState.SUCCESS)

        *found, _ = await asyncio.gather(*(come(*comer) for comer in comers), write())
        whole = {(0, "stderr" in name): shown(data) for name, data in cluster.files.items() if data}
        assert found == [whole] * len(comers)
        await until(lambda: follows.readers == 0)
        assert cluster.most_underway == 1

    run(all_of_them())


def test_followers_that_come_one_after_another_share_rounds() -> None:
    async def all_of_them() -> None:
        cluster = Cluster({"stdout.txt": b"there\n"})
        follows = following(cluster, interval=60.0)
        first = asyncio.create_task(follow(follows))
        await until(lambda: cluster.rounds == 1)
        others = []
        for _ in range(20):
            others.append(asyncio.create_task(follow(follows)))
            await asyncio.sleep(0.002)
        assert cluster.rounds == 1, "they wait for the end of the interval"
        await follows.close()
        for one in (first, *others):
            with pytest.raises(TryAgain):
                await one

    run(all_of_them())


@pytest.mark.scenario(77)
def test_fifty_followers_cost_what_one_does() -> None:
    async def both() -> None:
        rounds = []
        for count in (1, 50):
            cluster = Cluster({"stdout.txt": b"x" * (10 * MEBIBYTE)})
            follows = following(cluster, interval=0.05, patience=5.0)
            followed = asyncio.gather(*(follow(follows) for _ in range(count)))
            await until(partial(lambda each: each.rounds >= 20, cluster))
            assert follows.readers == 1
            cluster.write("stdout.txt", b"last")
            cluster.turn(JobState.SUCCESS)
            assert {len(found[0, False]) for found in await followed} == {10 * MEBIBYTE + 4}
            rounds.append(cluster.rounds)
            assert cluster.most_underway == 1
        assert rounds[1] <= rounds[0] + 5

    run(both())


def test_one_who_takes_nothing_is_given_little_and_holds_nobody_up() -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"x" * (20 * MEBIBYTE)})
        follows = following(cluster)
        with follows.follow(JOB) as stuck:
            quick = asyncio.create_task(follow(follows))
            cluster.turn(JobState.SUCCESS)
            assert len((await quick)[0, False]) == 20 * MEBIBYTE
            held = stuck.offsets["stdout.txt"]
            assert held <= 2 * ROUND
            texts = [event.text async for event in stuck if isinstance(event, LogText)]
            assert len("".join(texts)) == 20 * MEBIBYTE

    run(both())


@pytest.mark.scenario(78)
def test_a_job_that_waits_is_not_looked_for_on_the_cluster() -> None:
    async def both() -> None:
        cluster = Cluster()
        cluster.turn(JobState.IN_QUEUE)
        follows = following(cluster)
        followed = asyncio.create_task(follow(follows, cluster.records["1"]))
        await until(lambda: cluster.looks > 3)
        assert cluster.rounds == 0
        cluster.turn(JobState.RUNNING)
        cluster.write("stdout.txt", b"one\n")
        await until(lambda: cluster.rounds > 3)
        cluster.write("stdout-0.txt", b"late\n")
        cluster.write("stderr.txt", b"last\n")
        cluster.turn(JobState.FAILURE)
        assert await followed == {(0, False): "one\nlate\n", (0, True): "last\n"}

    run(both())


@pytest.mark.scenario(76)
@pytest.mark.parametrize("state", [state for state in JobState if state.final])
def test_what_is_written_last_is_read_after_the_job_has_ended(state: JobState) -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"one\n"})
        follows = following(cluster)
        with follows.follow(JOB) as follower:
            events = aiter(follower)
            assert await anext(events) == JOB
            assert await anext(events) == LogText(0, is_error=False, text="one\n")
            cluster.turn(state)
            cluster.write("stdout.txt", b"last \xf0\x9f")
            rest = [event async for event in events]
        texts = [event.text for event in rest if isinstance(event, LogText)]
        assert "".join(texts) == "last \N{REPLACEMENT CHARACTER}"
        assert cluster.records["1"] in rest

    run(both())


def test_a_file_that_became_shorter_is_given_from_its_beginning() -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"before \xe2\x82"})
        follows = following(cluster)
        with follows.follow(JOB) as follower:
            await until(lambda: follower.offsets)
            cluster.files["stdout.txt"] = b"after"
            await until(lambda: follower.offsets == {"stdout.txt": 5})
            cluster.turn(JobState.SUCCESS)
            texts = [event.text async for event in follower if isinstance(event, LogText)]
        assert "".join(texts) == "before \N{REPLACEMENT CHARACTER}after"

    run(both())


def test_a_cluster_that_cannot_be_reached_is_asked_again() -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"there\n"}, failures=[ConnectionLost("gone"), Unknown("garbled")])
        cluster.turn(JobState.SUCCESS)
        assert await follow(following(cluster), cluster.records["1"]) == {(0, False): "there\n"}

    run(both())


@pytest.mark.parametrize("what", ["logs_gone", "folder_gone"])
def test_what_was_removed_is_not_looked_for(what: str) -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"there no longer\n"})
        cluster.turn(JobState.SUCCESS, **{what: 1.0})
        assert await follow(following(cluster), cluster.records["1"]) == {}
        assert cluster.rounds == 0

    run(both())


def test_a_job_that_is_forgotten_ends_its_streams() -> None:
    async def both() -> None:
        cluster = Cluster(records={})
        assert await follow(following(cluster)) == {}

    run(both())


def test_a_reader_ends_with_its_last_follower() -> None:
    async def both() -> None:
        cluster = Cluster({"stdout.txt": b"x" * 100})
        follows = following(cluster)

        async def come_and_go(number: int) -> None:
            with follows.follow(JOB._replace(id=str(number % 7))) as follower:
                async for event in follower:
                    if isinstance(event, LogText) or number % 2:
                        return

        cluster.records = {str(number): JOB._replace(id=str(number)) for number in range(7)}
        for _ in range(10):
            await asyncio.gather(*(come_and_go(number) for number in range(200)))
        assert follows.followers == 0
        await until(lambda: follows.readers == 0)
        before = cluster.rounds
        await asyncio.sleep(0.1)
        assert cluster.rounds == before
        assert len(asyncio.all_tasks()) == 1

    run(both())


def test_something_unforeseen_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def both() -> None:
        cluster = Cluster(failures=[ZeroDivisionError("a mistake of ours")])
        follows = following(cluster)
        with pytest.raises(Unknown, match="following job 1 failed"):
            await follow(follows)
        await until(lambda: follows.readers == 0)

    run(both())
    assert "a mistake of ours" in caplog.text


def test_at_its_end_the_gateway_sends_everybody_away() -> None:
    async def both() -> None:
        follows = following(Cluster())
        followed = [asyncio.create_task(follow(follows)) for _ in range(3)]
        await until(lambda: follows.followers == 3)
        await follows.close()
        for each in followed:
            with pytest.raises(TryAgain, match="is stopping"):
                await each
        with pytest.raises(TryAgain):
            await follow(follows)
        assert len(asyncio.all_tasks()) == 1

    run(both())


def test_no_more_than_so_many_follow_one_users_jobs() -> None:
    async def both() -> None:
        follows = following(Cluster(), limit=2)
        with follows.follow(JOB), follows.follow(JOB), pytest.raises(TryAgain, match="alice has 2 streams"):
            await follow(follows)
        with follows.follow(JOB), follows.follow(JOB), follows.follow(JOB._replace(id="2", owner="bob")):
            assert follows.followers == 3
        with follows.follow(JOB):
            assert follows.followers == 1
        await follows.close()

    run(both())
