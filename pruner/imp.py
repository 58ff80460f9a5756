"""Iterative magnitude pruning with rewinding (paper, sections 3.1 and 4.1), resumable at every epoch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch

from pruner import tickets
from pruner.experiment import Experiment
from pruner.magnitude import NothingToPrune, prune_smallest
from pruner.masks import Mask, MaskedWeights
from pruner.schedule import ExtremeSearch, FixedRate
from utils import checkpoint
from utils.engine import TrainingProtocol
from utils.run_dir import RunDir

REWIND, FINETUNE = "lt", "ft"
SELECTIONS = {"test": "test_acc", "val": "val_acc"}


@dataclass(frozen=True)
class Round:
    """One training of the search. density is measured; rate is 0 for the dense round; kept: not undone."""

    round: int
    rate: float
    density: float
    nonzeros: int
    test_acc: float
    val_acc: float
    best_epoch: int
    test_acc_last: float
    seconds: float
    matched: bool
    kept: bool


@dataclass(frozen=True)
class Search:
    """What finding a ticket needs besides the schedule.

    rewind_epoch: tickets restart from the dense network's weights after this many epochs.
    prune_type: `lt` rewinds, `ft` goes on from the trained weights (ordinary iterative pruning).
    rewind_head: whether the classifier is rewound too; if not, it keeps its trained weights from round to round.
    tolerance: points below the dense accuracy at which a ticket still matches.
    match_on: the split whose accuracy is compared, a key of SELECTIONS.
    dense_protocol: of the dense network's training (default: the tickets').
    sign: what becomes of a round's mask before it is trained, given the round, the mask and the weights that it was pruned by.
    """

    experiment: Experiment
    files: RunDir
    seed: int
    stem: bool = False
    rewind_epoch: int = 3
    prune_type: str = REWIND
    rewind_head: bool = True
    tolerance: float = 1.0
    match_on: str = "test"
    dense_protocol: TrainingProtocol | None = None
    sign: Callable[[int, Mask, Mapping[str, torch.Tensor]], Mask] = lambda number, mask, weights: mask


def find_ticket(search: Search, schedule: FixedRate | ExtremeSearch,
                on_round: Callable[[Round], None] = lambda _: None) -> list[Round]:
    """Train, prune, rewind, until `schedule` ends; resumes from what is in the run directory.

    Leaves a folder per round with its ticket, checkpoints, metrics and result, the weights after the rewinding epoch,
    and the last kept ticket as `ticket.pth.tar` of the run. A rate too small or too large for the weights that are left
    counts as a failure without a round. Round k draws its batches with seed + k, so that no two
    rounds see the same ones.

    Returns:
        all rounds in order, the dense one first, the undone ones marked.
    """
    model, files = search.experiment.engine.model, search.files
    mask = Mask.dense(model, search.stem)
    rounds = [_train_round(search, 0, 0.0, mask, model.state_dict(), None)]
    _write_rounds(files, rounds)
    on_round(rounds[0])
    source = 0  # the round whose trained weights are pruned next: the last one kept
    while (rate := schedule.next_rate()) is not None:
        index = len(rounds)
        trained = _trained_weights(search, source)
        weights = {name: trained[f"{name}.weight"] for name in mask}
        try:
            candidate = prune_smallest(weights, mask, rate)
        except NothingToPrune:
            schedule.skip()
            continue
        candidate = search.sign(index, candidate, weights)
        outcome = _train_round(search, index, rate, candidate, start_weights(search, trained), rounds[0])
        rounds.append(replace(outcome, kept=schedule.report(outcome.matched)))
        if rounds[-1].kept:
            mask, source = candidate, index
        _write_rounds(files, rounds)
        on_round(rounds[-1])
    start = tickets.read_model_file(files.round(source).ticket, model).initial
    tickets.write_ticket(files.ticket, mask, start, {**search.experiment.facts, "round": source})
    return rounds


def start_weights(search: Search, trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights a pruned network starts from: rewound ones for `lt`, the trained ones for `ft`."""
    if search.prune_type == FINETUNE:
        return trained
    weights = _rewind_weights(search)
    if not search.rewind_head:
        weights.update({name: trained[name] for name in weights if name.startswith(f"{tickets.HEAD}.")})
    return weights


def _rewind_weights(search: Search) -> dict[str, torch.Tensor]:
    path = search.files.weights_after(search.rewind_epoch)
    return tickets.read_model_file(path, search.experiment.engine.model).need_weights("rewinding weights")


def _trained_weights(search: Search, index: int) -> dict[str, torch.Tensor]:
    return tickets.read_model_file(search.files.round(index).last, search.experiment.engine.model).need_weights("trained weights")


def _train_round(search: Search, index: int, rate: float, mask: Mask, start: dict[str, torch.Tensor],
                 dense: Round | None) -> Round:
    """Train one round from `start` under `mask`, or return what an earlier process recorded of it."""
    files, model = search.files.round(index), search.experiment.engine.model
    if files.result.exists():
        return Round(**checkpoint.load_json(files.result))
    model.load_state_dict(start)
    if not files.ticket.exists():
        tickets.write_ticket(files.ticket, mask, start, {**search.experiment.facts, "round": index, "rate": rate})

    def keep_rewind_weights(epoch: int) -> None:
        if index == 0 and epoch == search.rewind_epoch:
            tickets.write_weights(search.files.weights_after(epoch), model.state_dict(),
                                  {**search.experiment.facts, "epoch": epoch})

    experiment = search.experiment
    trained = experiment.engine.fit(
        experiment.data, experiment.protocol if index else search.dense_protocol or experiment.protocol, files, search.seed + index, MaskedWeights(model, mask) if index else None,
        keep_rewind_weights, {**experiment.facts, "density": mask.density},
        title="dense" if index == 0 else f"round {index} at {100 * mask.density:.2f}%")
    score = SELECTIONS[search.match_on]
    # accuracies are multiples of 1 / pictures; the small slack keeps rounding from deciding an exact tie
    matched = dense is None or getattr(dense, score) - getattr(trained, score) <= search.tolerance + 1e-9
    return Round(index, rate, mask.density, mask.nonzeros, trained.test_acc, trained.val_acc, trained.best_epoch,
                 trained.test_acc_last, trained.seconds, matched, True)


def _write_rounds(files: RunDir, rounds: list[Round]) -> None:
    """Record the newest round, and the table of all."""
    checkpoint.save_json(asdict(rounds[-1]), files.round(rounds[-1].round).result)
    checkpoint.save_csv([asdict(outcome) for outcome in rounds], list(asdict(rounds[0])), files.rounds)
