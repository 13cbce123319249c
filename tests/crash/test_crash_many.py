"""A thousand submissions amid kills: none is lost, none runs twice. Ten times a hundred, each a test by itself.

Four submit at once, again and again until they have an answer, and some cancel what they have submitted; two make pass
after pass. Most processes are killed, at a point or at a moment drawn at random. What is drawn hangs on the seed alone,
which is printed; what becomes of it hangs on the order in which processes come, too.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

import pytest

from slurm_adapter.core.states import JobState
from tests.crash.ground import finish, kill

if TYPE_CHECKING:
    from slurm_adapter.core.records import Record
    from tests.crash.ground import Death, Ground, GroundMaker

pytestmark = [pytest.mark.sandbox, pytest.mark.long, pytest.mark.scenario(25, 50, 51), pytest.mark.edge_case(1)]

SEED = 20_260
MOMENTS = 0.4
"""Seconds within which a process that is killed at a moment is killed; it lives for about as long."""


@dataclass(frozen=True)
class Fate:
    """How one process is to end: at a point, after some seconds, or by itself."""

    point: str = "never"
    moment: float | None = None


@dataclass(frozen=True)
class Wish:
    """What one of the hundred wants."""

    name: str
    jobs: tuple[str, ...]
    peers: bool
    cancelled: bool
    fates: tuple[Fate, ...]
    """Of the first processes that submit; the others live."""
    cancelling: tuple[Fate, ...]


def draw_fates(chance: random.Random, most: int, points: int) -> tuple[Fate, ...]:
    def one() -> Fate:
        if chance.random() < 0.3:
            return Fate(moment=chance.uniform(0, MOMENTS))
        return Fate(point=str(chance.randint(1, points)))

    return tuple(one() for _ in range(chance.randint(most // 2, most)))


def draw_wish(chance: random.Random, number: int) -> Wish:
    count = chance.choice([1, 1, 1, 2])
    return Wish(
        name=str(number),
        jobs=tuple(f"{number}-{index}" for index in range(count)),
        peers=chance.random() < 0.25,
        cancelled=chance.random() < 0.15,
        fates=draw_fates(chance, 3, 24),
        cancelling=draw_fates(chance, 2, 16),
    )


@dataclass
class Crowd:
    """Processes at one site, of which most are killed."""

    ground: Ground
    database: Record
    deaths: list[Death] = field(default_factory=list)
    done: Event = field(default_factory=Event)

    def meet(self, fate: Fate, action: str, *arguments: str) -> Death:
        """One process, to its end and that of all that it has started."""
        process = self.ground.launch(fate.point, action, *arguments)
        if fate.moment is not None:
            with suppress(ProcessLookupError):  # it was quicker
                kill(process, all_of_it=False, after=fate.moment)
        death = finish(process)
        # One that lives does what it is asked, or says that it may be asked again.
        assert death.killed or death.code in {0, 75}, death
        self.deaths.append(death)
        return death

    def insist(self, fates: tuple[Fate, ...], action: str, *arguments: str) -> set[tuple[str, ...]]:
        """The same again and again, at last without a kill, until there is an answer; all answers that there were."""
        met = [self.meet(fate, action, *arguments) for fate in fates]
        limit = time.monotonic() + 120
        while met[-1:] == [] or met[-1].answered is None:
            assert time.monotonic() < limit, met[-1]
            met.append(self.meet(Fate(), action, *arguments))
        return {death.answered for death in met if death.answered is not None}

    def fulfil(self, wish: Wish) -> tuple[str, ...]:
        """Submit, and cancel where that is wished; the ids, which are the same in every answer."""
        peers = {"database": self.database} if wish.peers else {}
        code = "sleep 100" if wish.cancelled else ""
        bulk = [self.ground.job(name, peers=peers, code=code) for name in wish.jobs]
        [ids] = self.insist(wish.fates, "submit", wish.name, self.ground.write(wish.name, bulk))
        if wish.cancelled:
            self.insist(wish.cancelling, "cancel", *ids)
        return ids

    def make_passes(self, passes: list[tuple[Fate, ...]]) -> None:
        """Pass after pass, until the others are done."""
        for fates in passes:
            if self.done.is_set():
                return
            self.meet((*fates, Fate())[0], "sync")

    def work(self, wishes: list[Wish], passes: list[tuple[Fate, ...]]) -> list[tuple[str, ...]]:
        """All of it at once; the ids of every wish."""
        with ThreadPoolExecutor(2) as watching, ThreadPoolExecutor(4) as submitting:
            watchers = [watching.submit(self.make_passes, passes[start::2]) for start in (0, 1)]
            try:
                ids = list(submitting.map(self.fulfil, wishes))
            finally:
                self.done.set()
            for each in watchers:
                each.result()
        return ids

    def tell(self, what: str) -> None:
        """How it went, for the record."""
        killed = [death for death in self.deaths if death.killed]
        places = Counter(death.points[-1] if death.points else "at the beginning" for death in killed)
        lines = [f"  {count:4} {place}" for place, count in places.most_common()]
        told = f"{what}: {len(self.deaths)} processes, {len(killed)} killed, at {len(places)} different points"
        print("\n".join([told, *lines]))  # noqa: T201  # shown by -rP
        assert len(killed) > len(self.deaths) / 4


@pytest.mark.parametrize("hundred", range(10))
def test_a_hundred_submissions_amid_kills(make_ground: GroundMaker, hundred: int) -> None:
    chance = random.Random(SEED + hundred)  # noqa: S311  # no secret: a run that can be repeated
    wishes = [draw_wish(chance, number) for number in range(100)]
    passes = [draw_fates(chance, 1, 40) for _ in range(10_000)]
    ground = make_ground()
    [database] = ground.start(ground.job("database", code="sleep 3000"))
    crowd = Crowd(ground, database)
    began = time.monotonic()
    ids = crowd.work(wishes, passes)
    # Nobody is at work any more, nor anything that they have started.
    ground.settle(database)
    for wish, own in zip(wishes, ids, strict=True):
        check(ground, wish, own)
    rows = ground.site.store.all(10_000)
    assert len(rows) == 1 + sum(len(wish.jobs) for wish in wishes)
    ground.check(database)
    seconds = time.monotonic() - began
    crowd.tell(f"seed {SEED + hundred}, {len(wishes)} submissions of {len(rows) - 1} jobs in {seconds:.0f} s")


def check(ground: Ground, wish: Wish, ids: tuple[str, ...]) -> None:
    """A wish has its jobs, once each, and each application was started once, or at most once where it was cancelled."""
    found = ground.site.store.find(ids)
    assert [found[id_].key for id_ in ids] == [f"{wish.name}/{number}" for number in range(len(wish.jobs))]
    assert {record.state for record in found.values()} == {JobState.SUCCESS}, found
    starts = [ground.starts(name) for name in wish.jobs]
    if wish.cancelled:
        assert max(starts) <= 1, wish
    else:
        assert starts == [1] * len(ids), wish
