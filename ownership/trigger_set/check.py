"""Scheme V3, the check: the suspect's answers on the claim's trigger set, against chance."""

from collections.abc import Sequence

import numpy as np

from datasets import trigger
from datasets.trigger import TriggerSet
from ownership.claims.case import Case, Files, NotRun
from ownership.claims.commitment import Refused
from ownership.claims.p_values import by_chance, corrected, scientific
from ownership.claims.scheme import SchemeCheck
from ownership.claims.verdict import LEVEL, NOT_SHOWN, SHOWN, Check, Standing
from ownership.trigger_set import endpoint as open_inference, evidence as black_box
from ownership.trigger_set.claim import KEYED, MAX_PICTURES, Triggers
from utils.errors import UserError

FEWEST_PICTURES = 30  # of a keyed set that counts: of fewer, keys can be tried until a public model answers them


class Checker(SchemeCheck):
    """Of a part `Triggers`."""

    part: Triggers

    def check(self, case: Case) -> Check:
        claimed = self.part
        shown = self.claimed_set(case)
        case.files.record("trigger set", f"{claimed.kind}, {claimed.pictures} pictures", claimed.sha256)
        if case.given.suspect is None:
            answers = [ask(case, shown)]
        else:
            try:
                answers = predict(case, shown)
            except UserError as error:
                raise NotRun(str(error)) from None
        has_key = case.given.proofs.get("trigger_key") is not None
        return triggers(claimed, shown.pictures.labels.numpy(), answers, has_key, case.standing, case.given.max_false)

    def check_on_own_model(self, case: Case) -> Check:
        """The key need not be at hand where the owner makes the claim."""
        shown = read_exported(case.files, case.given.proofs[self.name.lower()])
        return triggers(self.part, shown.pictures.labels.numpy(), predict(case, shown), True, case.standing,
                        case.given.max_false)

    def claimed_set(self, case: Case) -> TriggerSet:
        """The claim's trigger set, from its folder, which has the names that were sent, or else from its key.

        Raises NotRun where neither is given, Refused for another set, UserError for files that can't be read.
        """
        shown, folder, key = [], case.given.proofs.get("trigger_dir"), case.given.proofs.get("trigger_key")
        for flag, path, why in (("trigger_dir", folder, "is not"), ("trigger_key", key, "does not give")):
            if path is not None:
                shown.append(self._set(flag, path, case.files))
                if shown[-1].fingerprint() != self.part.sha256:
                    raise Refused(f"--{flag} {path}: {why} the trigger set that the claim names (v3.sha256)")
        if not shown:
            raise NotRun("needs --trigger_key")
        return shown[0]

    def belongs(self, flag: str, path: str, files: Files, arch: str) -> bool:
        return self._set(flag, path, files).fingerprint() == self.part.sha256

    def _set(self, flag: str, path: str, files: Files) -> TriggerSet:
        """Raises UserError as `datasets.trigger.load_exported` and `read_key`."""
        if flag == "trigger_dir":
            return read_exported(files, path)
        key, claimed = files.once(("trigger key", path), lambda: trigger.read_key(path)), self.part
        return files.once(("keyed", path, claimed),
                          lambda: trigger.keyed(key, claimed.pictures, claimed.num_classes, claimed.size))


def read_exported(files: Files, path: str) -> TriggerSet:
    """The trigger set in a folder. Raises UserError as `datasets.trigger.load_exported`."""
    return files.once(("exported", path), lambda: trigger.load_exported(path))


def predict(case: Case, shown: TriggerSet) -> list[np.ndarray]:
    """int64 [pictures] each: the answers of the suspect's file, by the normalisation that is given, and by its own where it has
    another. Raises UserError as `ownership.trigger_set.evidence.predict`."""
    given, file, answers = case.given, case.files.bytes_of(case.given.suspect), []
    for mean, std in given.normalisations:
        try:
            answers.append(black_box.predict(file, case.claim.arch, shown.num_classes, shown.pictures, mean, std, case.expected))
        except UserError:
            if not answers:
                raise
    return answers[:1] if len(answers) > 1 and (answers[0] == answers[1]).all() else answers


def ask(case: Case, shown: TriggerSet) -> np.ndarray:
    """int64 [pictures]: the suspect's answers, from a list or its address. Raises UserError as `black_box.read_predictions` and
    `open_inference.query_endpoint`."""
    if case.given.predictions is not None:
        return case.read("--predictions", case.given.predictions,
                         lambda files, path, _: black_box.read_predictions(
                             files.bytes_of(path, black_box.most_bytes(len(shown.names))), shown.names, shown.num_classes))
    return open_inference.query_endpoint(open_inference.model_address(case.given.endpoint), open_inference.Service(), shown)


def triggers(claimed: Triggers, expected: np.ndarray, tried: Sequence[np.ndarray], key_shown: bool, standing: Standing,
             level: float = LEVEL) -> Check:
    """V3: the suspect's answers on the claim's trigger set, against chance.

    The p-value counts only where the secret key was shown to give the set: that labels were drawn at random is the owner's word
    otherwise, and somebody who chose them to be what any model answers would own every model. It is corrected for the keys that
    the claimant may have tried, and for where he may have ended the set, since the first pictures of a key's set are one too.

    Args:
        expected: int64 [pictures]. tried: of each normalisation of the suspect's pictures that was tried the answers, likewise; an
            answer that is none is wrong. The best count, and each is a try.
    """
    answers = max(tried, key=lambda one: (expected == one).sum())
    right = int((expected == answers).sum())
    p, words, choices = corrected(by_chance(right, len(expected), claimed.num_classes), {
        "keys": standing.tries, "numbers of pictures": MAX_PICTURES,
        **({"normalisations": len(tried)} if len(tried) > 1 else {})})
    figures = {"correct": right, "pictures": len(expected), "num_classes": claimed.num_classes, "kind": claimed.kind,
               "key_shown": key_shown, **choices}
    detail = f"{right} of {len(expected)} trigger pictures right, chance {len(expected) / claimed.num_classes:g}"
    unanswered = int((answers < 0).sum())
    if unanswered:
        detail += f", {unanswered} without an answer"
    if key_shown and len(expected) >= FEWEST_PICTURES:
        return Check("V3", SHOWN if p <= level else NOT_SHOWN, f"{detail}; {words}", p, figures)
    why = f"a keyed set that counts has {FEWEST_PICTURES} pictures or more" if key_shown else \
        "show the secret key (--trigger_key)" if claimed.kind == KEYED else "everybody has this set"
    return Check("V3", NOT_SHOWN, f"{detail}; not counted: {why}", None, {**figures, "uncounted_p": scientific(p)})
