"""Flags of every script: spellings, help, bad values, and the commands that documentation prints."""

import argparse
import ast
import getpass
import importlib
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli
from utils.errors import UserError

ROOT = Path(cli.__file__).parent.parent
TOOLS = sorted(str(path.relative_to(ROOT)) for folder in ("scripts", "benchmarks") for path in (ROOT / folder).glob("*.py"))
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if "cli.ArgumentParser" in path.read_text(encoding="utf-8"))


def parser_of(script: str) -> cli.ArgumentParser:
    """The parser that a script builds."""

    class Stop(Exception):
        pass

    def stop(self, *words):
        stopped.append(self)
        raise Stop

    stopped, real = [], cli.ArgumentParser.parse_args
    cli.ArgumentParser.parse_args = stop
    try:
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args([])
    except Stop:
        pass
    finally:
        cli.ArgumentParser.parse_args = real
    return stopped[0]


def is_path(action: argparse.Action) -> bool:
    return action.type is cli.path or isinstance(action.type, cli.Output)


def sample(action: argparse.Action) -> list[str]:
    """Words that are a valid value of a flag."""
    if action.nargs == 0:
        return []
    if action.choices:
        return [str(list(action.choices)[-1])]
    if is_path(action):  # no two flags may name one
        return [f"no_{action.dest}"]
    for text in ("7", "0.5", "2026-03-01", "last-1"):
        try:
            (action.type or str)(text)
            return [text]
        except argparse.ArgumentTypeError:
            pass
    raise AssertionError(f"{action.option_strings}: no sample value")


def actions(script: str) -> list[argparse.Action]:
    return [action for action in parser_of(script)._actions if action.option_strings and action.dest != "help"]


def required(script: str, but: argparse.Action | None = None) -> list[str]:
    others = (action for action in actions(script) if action.required and action.dest != getattr(but, "dest", None))
    positional = (action for action in parser_of(script)._actions if not action.option_strings)
    return [*(word for action in positional for word in sample(action)),
            *(word for action in others for word in (action.option_strings[0], *sample(action)))]


@pytest.fixture
def parse(run_main, monkeypatch):
    """parse(script, *words): a run of the script that ends behind its flags, whether it should have or not."""

    def run(script: str, *words) -> subprocess.CompletedProcess:
        module = importlib.import_module(script.removesuffix(".py"))
        monkeypatch.setattr(module, "main", lambda argv: 0 if module.parse_args(argv) else 1)
        return run_main(script, *words)

    return run


FLAGS = [(script, flag) for script in SCRIPTS for action in actions(script) for flag in action.option_strings
         if flag.startswith("--")]


def test_the_entry_scripts_are_found():
    assert "main_imp.py" in SCRIPTS and len(SCRIPTS) >= 4


@pytest.mark.parametrize("script, flag", [(s, f) for s, f in FLAGS if "_" in f[2:] or "-" in f[2:]])
def test_flags_have_both_spellings(script, flag):
    action = next(action for action in actions(script) if flag in action.option_strings)
    values, parser = sample(action), parser_of(script)
    assert flag == "--" + flag[2:].replace("-", "_"), "declared with underscores, as the paper's commands mostly are"
    results = []
    for spelling in (flag, "--" + flag[2:].replace("_", "-")):
        results.append(vars(parser.parse_args([*required(script, action), spelling, *values])))
        if values:
            results.append(vars(parser.parse_args([*required(script, action), f"{spelling}={values[0]}"])))
    assert all(result == results[0] for result in results)
    if values:
        assert results[0][action.dest] != parser.get_default(action.dest) or action.choices


def test_values_are_never_respelled():
    args = parser_of("main_imp.py").parse_args(["--save_dir", "my_run-dir", "--data=a_b-c", "--init", "x-y_z"])
    assert (args.save_dir, args.data, args.init) == ("my_run-dir", "a_b-c", "x-y_z")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_without_loading_torch(script, run_script):
    done = run_script(script, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "matplotlib", "PIL", "sklearn", "networkx"}
    for _, flag in (pair for pair in FLAGS if pair[0] == script):
        assert flag in done.stdout
    documentation = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")), clean=False)
    assert documentation.strip().splitlines()[0] in " ".join(done.stdout.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_and_abbreviated_flags_are_refused(script, parse, refused):
    for flag in ("--no_such_flag", "--sav", "--se"):
        assert flag in refused(parse(script, *required(script), flag, "1"))


@pytest.mark.parametrize("script, words, told", [
    ("main_imp.py", "--savedir x", "unrecognized arguments: --savedir; did you mean --save_dir?"),
    ("main_imp.py", "--save-dir x --epoch=3", "unrecognized arguments: --epoch=3; did you mean --epochs?"),
    ("main_imp.py", "--save_dir x --dataset CIFAR10", "(docs/extending.md tells how to add one); did you mean cifar10?"),
    ("main_attack.py", "prun --checkpoint x --save_dir y", "'unswap'); did you mean prune?"),
    ("main_attack.py", "prune --checkpoint x --save_dir y --sweep 0 0.1 0.2",
     "unrecognized arguments: 0.1 0.2; several values of --sweep are separated by commas"),
    ("extract_qrcode.py", "--checkpoint x --claim=a.claim.json b.claim.json",
     "unrecognized arguments: b.claim.json; --claim takes one value, so give one, also where a pattern matches several files"),
    ("main_imp.py", "--save_dir x --fc y", "unrecognized arguments: y"),
    ("main_imp.py", "--xyzzy", "unrecognized arguments: --xyzzy")])
def test_what_was_meant_is_named(script, words, told, parse, refused):
    assert refused(parse(script, *words.split())).endswith(f"{told}\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_a_terminal_of_80_columns_and_its_commands_are_the_same(script, capsys, monkeypatch):
    def commands_in(width: int) -> tuple[str, list[list[str]]]:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            importlib.import_module(script.removesuffix(".py")).parse_args(["--help"])
        text = capsys.readouterr().out
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        return text, [shlex.split(line) for line in lines if re.match(r"    (bash|python|[A-Z_]+=)", line)]

    (narrow, its), (wide, all_of_them) = commands_in(80), commands_in(400)
    assert its == all_of_them and its
    too_wide = [line for line in narrow.splitlines() if len(line) > 80]
    assert not [line for line in too_wide if "{" not in line and " " in line.strip().removesuffix(" \\").partition(" ")[2]]  # one word

    def words(text: str) -> list[str]:
        return re.sub(r"\\\n|\n +#", " ", text.partition("\n\n")[2].partition("\noptions:")[0]).split()

    assert words(narrow) == words(wide)


def test_the_help_of_a_named_attack_is_about_it_alone(capsys):
    def shown(*words) -> set[str]:
        with pytest.raises(SystemExit) as end:
            importlib.import_module("main_attack").parse_args([*words, "--help"])
        assert end.value.code == 0
        printed.append(capsys.readouterr().out)
        return set(re.findall(r"^  (--\w+)", printed[-1], re.MULTILINE))

    printed = []
    everything, prune, finetune, forge = shown(), shown("prune"), shown("finetune"), shown("forge")
    assert everything > prune | finetune | forge and everything >= {"--noise", "--epochs", "--by"}
    assert {"--how", "--include_stem", "--level", "--sweep", "--checkpoint", "--claim"} <= prune
    assert not prune & {"--noise", "--epochs", "--lr", "--by", "--signature", "--free_mask", "--max_name"}
    assert {"--epochs", "--lr", "--free_mask"} <= finetune and not finetune & {"--level", "--how"}
    assert {"--by", "--signature", "--budget", "--noise"} <= forge and not forge & {"--how", "--level", "--epochs"}
    assert set(re.findall(r"python main_attack.py (\w+)", printed[1])) == {"prune"}
    assert "addon, fake2: opens a share" in " ".join(printed[0].split())
    assert not re.search(r"default: (\[\]|\(\))?\)", printed[0])


@pytest.mark.parametrize("script, flag", FLAGS)
def test_bad_values_name_their_flag(script, flag, parse, refused):
    action = next(action for action in actions(script) if flag in action.option_strings)
    if action.nargs not in (0, "?"):
        assert flag in refused(parse(script, *required(script, action), flag))  # the value is missing
    if action.choices or action.type:
        bad = "" if action.type in (cli.text, cli.utf8_text) or is_path(action) else "nonsense"  # any text but none is a path
        assert flag in refused(parse(script, *required(script, action), flag, bad))


@pytest.mark.parametrize("script", [script for script in SCRIPTS if required(script)])
def test_missing_required_flags_are_named(script, parse, refused):
    message = refused(parse(script))
    assert all(flag in message for flag in required(script) if flag.startswith("--"))


BAD = {
    "--epochs": ("0", "-1", "1.5", "1e3", "", "nan", "inf", "0x10"),
    "--batch_size": ("0", "1", "-8", "2.0"),
    "--limit": ("0", "1", "-1", "10.5"),
    "--save_dir": ("",),
    "--init": ("",),
    "--image_size": ("0", "-8"),
    "--lr": ("0", "-0.1", "nan", "inf", "1e999", "", "0,1"),
    "--momentum": ("1", "-0.1", "nan", "1.5"),
    "--weight_decay": ("-1e-4", "inf", "nan"),
    "--warmup": ("-1", "0.5"),
    "--seed": ("-1", "9223372036854775808", "1.0"),
    "--decreasing_lr": ("0", "3,x", "-1,2", "1.5", "3;4"),
    "--rewind_epoch": ("-1", "2.5"),
    "--rate": ("0", "1", "1.5", "-0.2", "nan", "inf", "20%"),
    "--pruning_times": ("-1", "1.5"),
    "--rates": ("0.2,1", "0.2,0", "", ",", "0.2 0.1", "0.2,nan"),
    "--match_tolerance": ("-1", "nan", "inf"),
    "--max_rounds": ("0", "-3"),
    "--prune_type": ("LT", "rewind"),
    "--match_on": ("train",),
    "--arch": ("resnet20", ""),
    "--dataset": ("mnist", ""),
}


@pytest.mark.parametrize("flag, value", [(flag, value) for flag, values in BAD.items() for value in values])
def test_bad_values_of_main_imp(flag, value, parse, refused):
    message = refused(parse("main_imp.py", "--save_dir", "run", f"{flag}={value}"))
    assert flag in message


def test_rewinding_behind_the_last_epoch_is_refused(parse, refused):
    message = refused(parse("main_imp.py", "--save_dir", "run", "--epochs", 4, "--rewind_epoch", 5))
    assert "--rewind_epoch" in message and "--epochs 4" in message


@pytest.mark.parametrize("flag, value, expected", [
    ("--decreasing_lr", "91,136", (91, 136)), ("--decreasing_lr", " 5 , 7, ", (5, 7)), ("--decreasing_lr", "", ()),
    ("--rates", "0.5", (0.5,)), ("--seed", "9223372036854775807", 2**63 - 1), ("--seed", "0", 0),
    ("--pruning_times", "0", 0), ("--match_tolerance", "0", 0.0), ("--momentum", "0", 0.0),
    ("--weight_decay", "0", 0.0), ("--lr", "1e-3", 0.001), ("--rate", ".01", 0.01)])
def test_good_values_of_main_imp(flag, value, expected):
    args = parser_of("main_imp.py").parse_args(["--save_dir", "x", f"{flag}={value}"])
    assert getattr(args, flag.lstrip("-")) == expected


def test_the_choices_are_the_registries():
    by_flag = {action.option_strings[0]: action for action in actions("main_imp.py")}
    assert set(by_flag["--arch"].choices) == set(ARCHITECTURES) >= {"res20s", "res18", "res50"}
    assert set(by_flag["--dataset"].choices) == set(DATASETS)


def test_amp_can_be_left_open_on_and_off():
    parser = parser_of("main_imp.py")
    amp = [parser.parse_args(["--save_dir", "x", *words]).amp for words in ([], ["--amp"], ["--no_amp"])]
    assert amp == [None, True, False]


@pytest.mark.parametrize("path", ["file/init.pth.tar", "x" * 300])
def test_an_init_file_that_can_not_be_written_is_one_line(run_main, refused, tmp_path, path):
    (tmp_path / "file").write_text("in the way")
    message = refused(run_main("main_imp.py", "--limit", 60, "--epochs", 3, "--pruning_times", 0,
                               "--init", tmp_path / path, "--save_dir", tmp_path / "run"))
    assert str(tmp_path) in message


# --- what is written is not what is read -------------------------------------------------------------------------------


def flag_of(action: argparse.Action) -> list[str]:
    """The words before the action's value."""
    return [action.option_strings[0]] if action.option_strings else []


def path_actions(script: str) -> list[argparse.Action]:
    return [action for action in parser_of(script)._actions if is_path(action)]


def pairs(script: str) -> list[tuple[argparse.Action, argparse.Action]]:
    """Every output flag of a script with every other flag that names a path."""
    paths = path_actions(script)
    return [(written, other) for written in paths for other in paths if other is not written
            if isinstance(written.type, cli.Output) and not written.type.or_read]


def refusal(script: str, capsys, *words) -> str:
    with pytest.raises(SystemExit) as end:
        parser_of(script).parse_args([str(word) for word in words])
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.count("\n") == 1, message
    return message


@pytest.mark.parametrize("script", SCRIPTS + TOOLS)
def test_every_path_is_known_as_read_or_written(script):
    for action in parser_of(script)._actions:
        if action.metavar in ("FILE", "DIR", "CSV", "PLAN", "RUNS", "SHARE|CSV"):
            assert is_path(action), action.option_strings or action.dest


@pytest.mark.slow
@pytest.mark.parametrize("script", [script for script in SCRIPTS + TOOLS if pairs(script)])
def test_no_output_names_an_input_or_another_output(script, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("precious")
    os.link("there/file", "hard")
    os.symlink("there", "folder")
    os.symlink("missing", "dangling")
    spellings = [("there/file", name) for name in ("there/file", "./there/../there/file", "hard", "folder/file", tmp_path / "hard")]
    spellings += [("there", "folder"), ("missing", "MISSING"), ("missing", "dangling"), ("z\u00fc", "zu\u0308")]
    for written, other in pairs(script):
        others = [*(word for action in path_actions(script) if action.required and action.dest not in (written.dest, other.dest)
                    for word in (*flag_of(action), f"no_{action.dest}")),
                  *(word for action in parser_of(script)._actions if action.required and not is_path(action)
                    for word in (*flag_of(action), *sample(action)))]
        for left, right in spellings:
            words = [*others, *flag_of(written), left, *flag_of(other), right]
            if not written.option_strings or not other.option_strings:  # positional words first, of one kind
                words = [*(word for action, word in ((written, left), (other, right)) if not action.option_strings),
                         *others, *(word for action, value in ((written, left), (other, right)) if action.option_strings
                                    for word in (*flag_of(action), value))]
            message = refusal(script, capsys, *words)
            assert re.search("is what .* (reads|writes); name another|is a folder; name a file in it|would write over", message)
    assert (tmp_path / "there/file").read_text() == "precious"


@pytest.mark.parametrize("script, words", [
    ("extract_qrcode.py", ("--checkpoint", "m", "--claim", "D/extraction.json", "--save_dir", "D")),
    ("extract_qrcode.py", ("--checkpoint", "D/Code.PNG", "--save_dir", "D")),
    ("embed_qrcode.py", ("--mask_dir", "D/res20s_digits_qrcode_layer2.0.conv2.weight_mask.pth.tar", "--save_dir", "D")),
    ("main_imp.py", ("--init", "D/ticket.pth.tar", "--save_dir", "D")),
    ("main_imp.py", ("--init", "D/round_00/checkpoint.pth.tar", "--save_dir", "D")),
    ("main_eval_all.py", ("--mask_dir", "D/model_best.pth.tar", "--save_dir", "D")),
    ("main_eval_trigger.py", ("--mask_dir", "m", "--trigger_dir", "D/triggers", "--save_dir", "D")),
    ("main_attack.py", ("prune", "--checkpoint", "D/level_0.1/attacked.pth.tar", "--save_dir", "D")),
    ("scripts/tabulate_attacks.py", ("D/attacks.csv", "--out", "D")),
])
def test_no_folder_of_outputs_holds_an_input_under_a_name_that_is_written(script, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "would write over" in refusal(script, capsys, *words)
    assert not list(tmp_path.iterdir())


def test_what_lies_beside_the_outputs_may_be_read():
    args = parser_of("main_eval_all.py").parse_args(["--mask_dir", "D/x.weight_mask.pth.tar", "--save_dir", "D"])
    assert args.save_dir == "D"


OWN = {("main_verify.py", "--json"): b'{\n  "verdict": "owned"', ("check_triggers.py", "--json"): b'{\n  "shown": true',
       ("check_triggers.py", "--save_predictions"): b"image,predicted_label\n0000.png,1\n"}
NEEDED = {"main_verify.py": ["--claim", "c", "--suspect", "s"], "check_triggers.py": ["--trigger_dir", "t", "--checkpoint", "m"]}


@pytest.mark.parametrize("script, flag", OWN)
@pytest.mark.parametrize("begins, without, forced", [
    (None, True, True), (b"", True, True), (b"image,label\n", False, True), (b'{"mine": 1}', False, True),
    (b"-----BEGIN PRIVATE KEY-----", False, False), (b"lottery-trigger-key/1 00", False, False), (b"PK\3\4", False, False),
    (b'{\n "fields": {', False, False), (b'{\n  "format": "lottery-verification-claim/2"', False, False)])
def test_over_what_is_not_its_own_a_script_writes_by_force_alone(script, flag, begins, without, forced, tmp_path, capsys):
    path, words = tmp_path / "out", NEEDED[script]
    path.write_bytes(OWN[script, flag] if begins is None else begins)
    for good, force in ((without, []), (forced, ["--force"])):
        if good:
            parser_of(script).parse_args([*words, flag, str(path), *force])
        else:
            message = refusal(script, capsys, *words, flag, path, *force)
            assert str(path) in message and ("--force" in message) == forced


def test_the_labels_of_a_set_that_is_read_are_not_written_over_by_force_either(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("image,label\n")
    (tmp_path / "gathered.csv").write_text("image,predicted_label\n")
    words = ["--trigger_dir", tmp_path, "--checkpoint", "m", "--force", "--save_predictions"]
    assert "belongs to" in refusal("check_triggers.py", capsys, *words, tmp_path / "labels.csv")
    parser_of("check_triggers.py").parse_args([*map(str, words), str(tmp_path / "gathered.csv")])


# --- commands that are printed somewhere ------------------------------------------------------------------------------


# as the original's README prints it, but for the script's name
IMP_COMMAND = ("python -u main_imp.py --data datasets/cifar100 --dataset cifar100 --arch res20s --save_dir "
               "res20s_cifar100_lt_0.2 --init pretrained_model/res20s_cifar100_lt.pth.tar --seed 1 --lr 0.1 --fc "
               "--rate 0.2 --pruning_times 15 --prune_type lt --rewind_epoch 3 ")


def test_the_imp_command_of_the_original_readme():
    args = importlib.import_module("main_imp").parse_args(shlex.split(IMP_COMMAND)[3:])
    assert (args.data, args.dataset, args.arch) == ("datasets/cifar100", "cifar100", "res20s")
    assert (args.save_dir, args.init) == ("res20s_cifar100_lt_0.2", "pretrained_model/res20s_cifar100_lt.pth.tar")
    assert (args.seed, args.lr, args.fc, args.rate) == (1, 0.1, True, 0.2)
    assert (args.pruning_times, args.prune_type, args.rewind_epoch) == (15, "lt", 3)
    assert (args.epochs, args.batch_size, args.momentum, args.extreme) == (182, 128, 0.9, False)


@pytest.mark.slow
def test_the_original_imp_command_finds_a_ticket(run_main, make_dataset, tmp_path, monkeypatch):
    """As printed, in an empty folder; pictures and numbers of epochs and rounds are small stand-ins."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(*words):
        asked.append(words)
        return make_dataset(train=30, val=10, test=10, classes=100)

    monkeypatch.setattr("pruner.experiment.load_dataset", load)
    done = run_main(*shlex.split(IMP_COMMAND)[2:], "--epochs", 3, "--pruning_times", 2)
    assert done.returncode == 0, done.stderr
    assert asked[0][:2] == ("cifar100", "datasets/cifar100")
    for name in ("ticket.pth.tar", "epoch_3.pth.tar", "rounds.csv", "round_02/model_best.pth.tar"):
        assert (tmp_path / "res20s_cifar100_lt_0.2" / name).is_file()
    assert (tmp_path / "pretrained_model/res20s_cifar100_lt.pth.tar").is_file()


def printed_commands() -> list[tuple[str, str]]:
    """(where, command) of every `python SCRIPT ...` in the documentation, continued lines joined."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]}
    texts |= {script: ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))) for script in SCRIPTS}
    found = []
    for where, text in texts.items():
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            match = re.match(r"\s*(?:[A-Z_]+=\S+ )*python (?:-u )?(\w+\.py)( .*)?$", line)
            of_a_scheme = where == "extending.md" and "jane.key" in line  # that the page adds; tests/test_schemes.py runs them
            if match and match[1] in SCRIPTS and not of_a_scheme:
                found.append((where, line.strip()))
    return found


@pytest.mark.parametrize("where, command", printed_commands())
def test_printed_commands_parse(where, command, documented_entries):
    words = list(itertools.takewhile(lambda word: word not in ("||", "&&", "|", ";"), shlex.split(command, comments=True)))
    at = next(index for index, word in enumerate(words) if word.endswith(".py"))
    importlib.import_module(words[at].removesuffix(".py")).parse_args(words[at + 1:])  # exits where a flag is wrong


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_commands_to_start_with(script):
    assert any(where == script and script in command for where, command in printed_commands())


# --- how scripts end --------------------------------------------------------------------------------------------------


def end_of(main, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("value, code", [(None, 0), (0, 0), (1, 1)])
def test_exit_codes_are_what_main_returns(capsys, value, code):
    assert end_of(lambda argv: value, capsys) == (code, "")


def test_user_errors_and_interruptions_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["folder/script.py"])

    def mistake(argv):
        raise UserError("--flag: wrong")

    def interrupted(argv):
        raise KeyboardInterrupt

    assert end_of(mistake, capsys) == (2, "script.py: error: --flag: wrong\n")
    code, err = end_of(interrupted, capsys)
    assert code == 130 and err.count("\n") == 1


def test_faults_of_the_program_stay_visible_and_are_no_verdict(capsys):
    def fault(argv):
        raise ZeroDivisionError("of ours")

    code, err = end_of(fault, capsys)
    assert code == 3 and "Traceback" in err and "ZeroDivisionError: of ours" in err


def test_file_system_errors_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["folder/script.py"])
    assert end_of(lambda argv: open("/nowhere/file", encoding="utf-8"), capsys) == (
        2, "script.py: error: /nowhere/file: No such file or directory\n")


def test_names_with_line_breaks_and_bytes_that_are_no_text_stay_on_one_line():
    program = ("import sys; sys.path.insert(0, '.')\nfrom utils import cli\nfrom utils.errors import UserError\n"
               "def main(argv): raise UserError(sys.argv[1])\ncli.run(main)")
    done = subprocess.run([sys.executable, "-c", program, b"a\nb\x1b[31m\xff\xc3\xbc"], cwd=ROOT, capture_output=True)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"\x1b" not in done.stderr
    assert "ü".encode() in done.stderr or b"\\xfc" in done.stderr


def test_a_reader_that_stops_reading_ends_the_script_quietly():
    program = ("import sys; sys.path.insert(0, '.')\nfrom utils import cli\n"
               "cli.run(lambda argv: [print(number) for number in range(10**5)] and 0)")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=30) == 141  # as a shell reports SIGPIPE
    process.stderr.close()


@pytest.mark.parametrize("script", SCRIPTS + TOOLS)
def test_a_fault_before_main_is_no_verdict(script, tmp_path):
    """A script that was copied somewhere alone lacks all that it imports."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/script.py").write_text((ROOT / script).read_text(encoding="utf-8"))
    done = subprocess.run([sys.executable, "-S", "-E", tmp_path / "alone/script.py", "--help"], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 3 and "ModuleNotFoundError" in done.stderr


def test_a_python_that_is_too_old_is_named_with_the_mend(capsys, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "utils/__init__.py"))
    assert end.value.code == 2
    assert re.fullmatch(r"error: .* is Python 3\.9, and 3\.10 or later is needed; .*\.venv/bin/python\n", capsys.readouterr().err)


def test_a_library_that_is_not_installed_is_named_with_the_mend(capsys):
    def lacking(argv):
        import no_such_library.at_all

    code, err = end_of(lacking, capsys)
    assert code == 2 and err.count("\n") == 1 and "lacks no_such_library" in err and ".venv/bin/python" in err

    def ours(argv):
        import utils.no_such_module

    code, err = end_of(ours, capsys)
    assert code == 3 and "Traceback" in err


@pytest.mark.parametrize("closed, code", [(">&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2)])
def test_the_exit_code_is_the_verdict_where_nobody_can_read(closed, code, tmp_path):
    """Without stdout, what is opened next would get its number, and be written into."""
    program = ("import sys; sys.path.insert(0, '.')\nfrom utils import cli\n"
               "def main(argv):\n    with open(sys.argv[1], 'w') as file: file.write('kept')\n    print('lost')\ncli.run(main)")
    command = shlex.join([sys.executable, "-c", program, str(tmp_path / "file")])
    done = subprocess.run(f"{command} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code and (tmp_path / "file").read_text() == "kept"
    assert done.stderr == ("" if code == 0 else "-c: error: No space left on device\n")


def test_a_user_without_a_name_or_a_home_gets_both(monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: print(getpass.getuser(), Path.home()))
    assert end.value.code == 0 and getpass.getuser() == f"uid{os.getuid()}"
    monkeypatch.setenv("HOME", "/home/somebody")
    with pytest.raises(SystemExit):
        cli.run(lambda argv: 0)
    assert os.environ["HOME"] == "/home/somebody"


def test_a_value_that_looks_like_a_flag_is_named_with_the_mend(parse, refused):
    assert refused(parse("embed_qrcode.py", "--signature", "-mine")).endswith("is given as --signature=-mine\n")
    assert parse("embed_qrcode.py", "--signature=-mine").returncode == 0
    assert "is given as" not in refused(parse("embed_qrcode.py", "--signature", "--save-dir", "x"))


@pytest.mark.parametrize("value, text", [("Z\u00fcrich", "Z\u00fcrich"), ("Z\u00c3\u00bcrich", "Z\u00fcrich")])
def test_a_text_is_utf8_whatever_the_locale(value, text, monkeypatch):
    """In a locale of Latin-1 the two bytes of a letter arrive as two letters; one that was typed there arrives as itself."""
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode("latin-1"))
    assert cli.utf8_text(value) == text


def test_bytes_that_are_utf8_are_text_in_the_locale_of_c():
    program = "import sys; sys.path.insert(0, '.')\nfrom utils import cli\nprint(ascii(cli.utf8_text(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", program, "Zürich"], cwd=ROOT, capture_output=True, text=True,
                          env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"})
    assert done.stdout == "'Z\\xfcrich'\n", done.stderr
