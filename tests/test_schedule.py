"""The search for the extreme ticket as bookkeeping: against a plain simulation, and the paper's Table 1."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.schedule import ExtremeSearch, FixedRate


CANT = "can't"


def drive(schedule, outcomes):
    """[(rate, kept)] of every round the schedule asks for.

    Each matches or not as `outcomes` say; CANT says that so few weights can't be pruned at that rate.
    """
    rounds, outcomes = [], iter(outcomes)
    while (rate := schedule.next_rate()) is not None:
        if (outcome := next(outcomes)) == CANT:
            schedule.skip()
        else:
            rounds.append((rate, schedule.report(outcome)))
    return rounds


def simulate(rates, outcomes, max_rounds):
    """The search as the paper tells it, without any state but where in the loops it stands."""
    rounds, counts, outcomes = [], [0] * len(rates), iter(outcomes)
    for position, rate in enumerate(rates):
        for _ in itertools.count():
            if max_rounds is not None and len(rounds) == max_rounds:
                return rounds, counts
            matched = next(outcomes)
            if matched == CANT:
                break
            rounds.append((rate, matched))
            if not matched:
                break
            counts[position] += 1
    return rounds, counts


mostly_matching = st.lists(st.sampled_from((True, True, True, True, False, CANT)), max_size=60)


@settings(max_examples=300)
@given(rates=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6), outcomes=mostly_matching,
       max_rounds=st.none() | st.integers(1, 12))
def test_extreme_search_equals_the_simulation(rates, outcomes, max_rounds):
    outcomes = outcomes + [False] * len(rates)  # every search ends
    schedule = ExtremeSearch(rates, max_rounds)
    expected, counts = simulate(rates, outcomes, max_rounds)
    assert drive(schedule, outcomes) == expected
    assert schedule.counts == counts
    assert schedule.next_rate() is None and schedule.next_rate() is None


@given(rates=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4), outcomes=mostly_matching)
def test_asking_twice_for_the_rate_changes_nothing(rates, outcomes):
    schedule = ExtremeSearch(rates)
    for matched in outcomes + [False] * len(rates):
        if schedule.next_rate() is None:
            break
        assert schedule.next_rate() == schedule.next_rate()
        schedule.skip() if matched == CANT else schedule.report(matched)
    assert schedule.next_rate() is None


@pytest.mark.parametrize("counts, printed", [
    ((5, 1, 8, 1), 19.369),  # ResNet-20, CIFAR-10
    ((6, 0, 4, 7), 19.901),  # ResNet-20, CIFAR-100
    ((18, 3, 0, 6), 1.236),  # ResNet-18, CIFAR-10
    ((17, 0, 0, 0), 2.251),  # ResNet-18, CIFAR-100
])
def test_table_1(counts, printed):
    schedule = ExtremeSearch((0.2, 0.1, 0.05, 0.01))
    rounds = drive(schedule, itertools.chain(*([True] * count + [False] for count in counts)))
    assert tuple(schedule.counts) == counts
    assert len(rounds) == sum(counts) + 4 and [kept for _, kept in rounds].count(False) == 4
    remaining = 100 * math.prod(1 - rate for rate, kept in rounds if kept)
    assert math.floor(1000 * remaining) / 1000 == printed  # the paper cuts off after the third digit


@given(rate=st.floats(0.001, 0.999), times=st.integers(0, 40), data=st.data())
def test_fixed_rate_keeps_every_round(rate, times, data):
    outcomes = data.draw(st.lists(st.booleans(), min_size=times, max_size=times))
    schedule = FixedRate(rate, times)
    assert drive(schedule, outcomes) == [(rate, True)] * times
    assert schedule.counts == [times]


@given(times=st.integers(1, 20), rounds=st.integers(0, 19))
def test_fixed_rate_ends_where_so_few_weights_can_not_be_pruned(times, rounds):
    rounds = min(rounds, times - 1)
    schedule = FixedRate(0.2, times)
    assert drive(schedule, [True] * rounds + [CANT]) == [(0.2, True)] * rounds
    assert schedule.counts == [rounds]
