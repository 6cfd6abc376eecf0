"""Types command lines and writes YAML files that nobody would, and checks how each ends: one line, a true exit code, no
traceback, and never "not your mistake". Nothing trains: each has `launch.dry_run=true`, or a mistake before that.

    python tests/fuzz.py --inputs 10000 --commands 500
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import here  # noqa: E402
from tests.forking import Forked  # noqa: E402

KEYS = ["epochs", "seed", "batch_size", "optimizer.lr", "model", "optimizer", "schedule", "dataset", "model.hidden"]
KEYS += ["+model.x", "~model", "++seed", "device", "threads", "evaluate_every", "hydra.job.num", "hydra.sweep.subdir"]
KEYS += [
    "hydra/launcher",
    "hydra.mode",
    "hydra.verbose",
    "tracking.sweep",
    "hydra.job.env_copy",
    "sweeps",
    "experiment",
]
FORMS = [
    "{0}",
    "{0},{1}",
    "range({0},{1})",
    "range(1,{0},{1})",
    "choice({0},{1})",
    "glob({0})",
    "sort({0},{1})",
    "[{0},{1}]",
]
FORMS += [
    "{{a:{0},b:{1}}}",
    "'{0}'",
    '"{0}"',
    "${{{0}}}",
    "shuffle({0})",
    "int({0})",
    "tag({0},{1})",
    "interval({0},{1})",
]
NUMBERS = st.one_of(st.integers(), st.floats(), st.just("1" * 5000)).map(str)
WORDS = st.sampled_from(
    ["mlp", "adam", "null", "true", "*", "digits", "cosine", "", " ", "epoch", "cpu", "\udc80", "$", "a/b"]
)
PARTS = NUMBERS | WORDS | st.text(max_size=12)
OVERRIDES = st.builds(
    lambda key, form, one, two: f"{key}={form.format(one, two)}",
    st.sampled_from(KEYS),
    st.sampled_from(FORMS),
    PARTS,
    PARTS,
)
LINES = st.tuples(st.booleans(), st.lists(OVERRIDES | st.text(max_size=20).map(lambda text: f"seed{text}"), max_size=3))
NAMES = st.sampled_from(["a", "_target_", "defaults", "shape", "&x a", "<<"])


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
    pairs = st.dictionaries(PARTS, inner, max_size=3).map(
        lambda parts: [f"{key}: {part}" for key, part in parts.items()]
    )
    return lists | pairs.map(lambda parts: "{" + ", ".join(parts) + "}")


def _file(lines: list[tuple[str, str]]) -> bytes:
    return "".join(f"{key}: {value}\n" for key, value in lines).encode("utf-8", "surrogatepass")


FILES = st.binary(max_size=80) | st.lists(st.tuples(NAMES, st.recursive(PARTS, _nested)), max_size=4).map(_file)
BASE = ["dataset=digits", "launch.dry_run=true"]

ends: collections.Counter[str] = collections.Counter()


def check(words: list[str], code: int, err: str) -> None:
    """Counts how a command has ended, and shows it where that is not right."""
    kind = {0: "0: planned", 2: "2: refused"}.get(code, f"{code}: WRONG")
    if "Traceback" in err or "not your mistake" in err:
        kind = "WRONG: traceback, or ours"
    elif code == 2 and "error:" not in err:
        kind = "WRONG: refused without a line"
    ends[kind] += 1
    if "WRONG" in kind and ends[kind] <= 20:
        print(f"{kind}: {[word[:200] for word in words]}\n    {err[:400]!r}", flush=True)


def typed(line: tuple[bool, list[str]]) -> list[str]:
    several, overrides = line
    return [*(["-m"] if several else []), *BASE, *overrides]


def fuzz(inputs: int, seconds: float) -> None:
    """In this process: half command lines, half files."""
    until = time.monotonic() + seconds
    chosen = settings(max_examples=inputs // 2, deadline=None, database=None, suppress_health_check=[*HealthCheck])

    @chosen
    @given(LINES)
    def lines(line: tuple[bool, list[str]]) -> None:
        if time.monotonic() < until:
            words = typed(line)
            try:
                done = here.train(*words)
            except BaseException as error:
                ends["WRONG: escaped"] += 1
                print(f"WRONG: escaped {error!r:.300}: {words}", flush=True)
            else:
                check(words, done.code, done.err)

    @chosen
    @given(FILES)
    def files(content: bytes) -> None:
        if time.monotonic() < until + seconds:
            Path("own", "model", "fuzzed.yaml").write_bytes(content)
            words = ["--config-dir", "own", *BASE, "model=fuzzed"]
            try:
                done = here.train(*words)
            except BaseException as error:
                ends["WRONG: escaped"] += 1
                print(f"WRONG: escaped {error!r:.300}: {content!r}", flush=True)
            else:
                check([*words, repr(content)], done.code, done.err)

    lines()
    files()


def whole(commands: int) -> None:
    """Each in a process of its own."""

    @settings(max_examples=commands, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(LINES)
    def run(line: tuple[bool, list[str]]) -> None:
        words = typed(line)
        if any("\0" in word for word in words):  # no system passes it on
            return
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *(os.fsencode(word) if word.isprintable() else word for word in words),
        ]
        try:
            process = Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except UnicodeEncodeError:
            return
        _, complaint = process.communicate(timeout=300)
        check(words, process.returncode, complaint.decode("utf-8", "replace"))

    run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, for each half of the inputs")
    given_words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("own", "model").mkdir(parents=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        fuzz(given_words.inputs, given_words.seconds)
        whole(given_words.commands)
    for kind, number in sorted(ends.items()):
        print(f"{number:6} {kind}")
    sys.exit(any("WRONG" in kind for kind in ends))


if __name__ == "__main__":
    main()
