"""Which rate to prune at next: fixed, or the paper's search for the extreme ticket. Pure bookkeeping, no tensors."""

from collections.abc import Sequence


class FixedRate:
    """Prune `times` rounds at `rate`, whatever the tickets reach."""

    def __init__(self, rate: float, times: int):
        self.rates = (rate,)
        self.counts = [0]
        self.times = times

    def next_rate(self) -> float | None:
        """The rate of the next round, None when the rounds are done."""
        return self.rates[0] if self.counts[0] < self.times else None

    def report(self, matched: bool) -> bool:
        """Take in a round's outcome; returns whether its ticket is kept, here always."""
        self.counts[0] += 1
        return True

    def skip(self) -> None:
        """The present rate can't be applied to so few weights: the rounds are done."""
        self.times = self.counts[0]


class ExtremeSearch:
    """The paper's search (section 4.1): go on at one rate while tickets match the dense model; undo the first that
    does not and go on with the next rate; the last rate's first failure ends the search.

    counts: kept rounds at each rate, as in Table 1's brackets.
    """

    def __init__(self, rates: Sequence[float], max_rounds: int | None = None):
        self.rates = tuple(rates)
        self.counts = [0] * len(self.rates)
        self.max_rounds = max_rounds
        self._position = 0
        self._rounds = 0

    def next_rate(self) -> float | None:
        """The rate of the next round, None when the search is over."""
        if self._position == len(self.rates) or self._rounds == self.max_rounds:
            return None
        return self.rates[self._position]

    def report(self, matched: bool) -> bool:
        """Take in whether the last round's ticket matched; returns whether it is kept."""
        self._rounds += 1
        if matched:
            self.counts[self._position] += 1
        else:
            self.skip()
        return matched

    def skip(self) -> None:
        """Go on with the next rate."""
        self._position += 1
